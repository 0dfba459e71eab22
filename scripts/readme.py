"""Write README.md from nbs/index.ipynb (with --check: only tell whether it is up to date). Markdown cells as they are, code cells fenced, text outputs below.

Two tables in the index are written first: that of the lessons from `marlearn.course.LESSONS`, that of the timings from benchmarks/results."""
import json, re, sys
from pathlib import Path

root = Path(__file__).resolve().parent.parent
LINK = re.compile(r'\]\((?!https?:|#)([^)]*)')                 # links are relative to nbs/ in the notebook, to the root in README

def lessons_cell()->str:
    "The cell of the index that lists the lessons"
    from marlearn.course import LESSONS
    rows = [f"| {l.number:02d} | [{l.title}]({l.notebook}.ipynb) | {l.question} | {l.minutes} | {', '.join(f'{n:02d}' for n in l.needs) or '-'} | {l.can} |" for l in LESSONS]
    return '\n'.join(['## Lessons', '', 'Start with [00 start](00_start.ipynb): the shipped model at work, the words used everywhere, and how exercises are checked. `marlearn progress` shows what you have passed.', '',
                      '| | lesson | the question it answers | minutes | before it | afterwards you can |', '|---|---|---|---|---|---|', *rows, '',
                      'Minutes are for reading and running, without the exercises. Missing numbers are kept for lessons to come. How map, glossary and exercises are made is in [00 course](00_course.ipynb).'])

def speed_cell()->str:
    "The cell of the index that compares plain and fast"
    results = {what: json.loads((root/'benchmarks'/'results'/f'{what}.json').read_text()) for what in ('train', 'sample')}
    m, lines = results['train']['machine'], []
    for what, result in results.items():
        plain = None
        for row in result['rows']:
            if row['mode'] == 'plain': plain = row; continue
            if what == 'train': name = f"training step, {row['model']}, {row['batch']} pictures" + (', parts computed again (`--train.recompute-parts`)' if 'parts' in row['mode'] else ', blocks computed again (`--train.recompute`)' if 'recomputed' in row['mode'] else ', compiled (`--train.compile`)' if 'compiled' in row['mode'] else '')
            else: name = f"drawing {row['batch']} pictures, {row['model']}, " + (f"guidance {row['cfg_scale']:g}" if row['cfg_scale'] != 1 else 'no guidance') + (f", *approximate*: {row['ar_steps']} sets, {row['diff_steps']} steps of {row.get('sampler', 'ddpm')}" if row['mode'] == 'approximate' else ', compiled (`--compile`)' if 'compiled' in row['mode'] else '')
            share = f"{row['share_of_peak']:.0%}" if row['share_of_peak'] else ''
            memory = f"{row['peak_memory_gb']:.1f} GB (plain {plain['peak_memory_gb']:.1f})" if row.get('peak_memory_gb') else ''
            bound = f"{row['ratio']/row['share_of_peak']:.1f}x" if row['share_of_peak'] and ',' not in row['mode'] else ''
            lines.append(f"| {name} | {plain['seconds']['median']:.3g} s | {row['seconds']['median']:.3g} s | {row['ratio']:.1f}x | {share} | {bound} | {memory} |")
    top = {r['imports']: r['on top of torch'] for r in json.loads((root/'benchmarks'/'results'/'startup.json').read_text())['rows']}
    faster = results['train']['peak_flops']['bfloat16']/results['train']['peak_flops']['fp32']
    peaks = ', '.join(f'{v/1e9:.0f} GFLOP/s in {k}' for k, v in results['train']['peak_flops'].items())
    return '\n'.join(['## Speed', '', f"*Plain* is the paper's algorithm written straight down in float32 ([benchmarks/plain.py](../benchmarks/plain.py)); *fast* is what the library does. Both draw the same noise and give the same result, to rounding. Measured in turns ({m['processor']}, {m['threads']} threads, torch {m['torch']}; matrix products reach {peaks} there), medians of {results['train']['repeats']} runs for training (each after steps of the same kind) and of {results['sample']['repeats']} for drawing.", '',
                      '| | plain | fast | ratio | share of the matrix-product peak | ratio at the whole peak | memory |', '|---|---|---|---|---|---|---|', *lines, '',
                      '![Left: how many times as fast as the plain algorithm. Right: Frechet distance over time for many ways of drawing](images/speed.png)', '', f"The approximate way was chosen on the right: of the ways whose distance three seeds cannot tell from that of the exact way, the fastest with the shipped head. Repeat it with `{results['train']['command']}`, `{results['sample']['command']}`, `python -m benchmarks.heads`, `benchmarks.front` and `benchmarks.figure`. On processors with bf16 in AVX-512, where g++ is installed, linear layers that learn, what stands between them, and the whole head when drawing are C++ of ours ([linear.cpp](../marlearn/linear.cpp), [transformer.cpp](../marlearn/transformer.cpp), [head.cpp](../marlearn/head.cpp)), compiled when first needed; `marlearn info` says whether they are in use, and without them PyTorch's operations serve. "
                      f"The share counts necessary work only, and is that of the best matrix product on the same machine; *ratio at the whole peak* is what an exact way would reach if nothing but these products took time. Matrix products in bfloat16 are {faster:.1f} times as fast as in float32 here; a ratio beyond that comes from work left out, one below it from everything that is no product, and from products that are short. Lesson 17 shows where the time goes.", '',
                      f"All that trains and draws takes {top['torch, all that trains and draws']:.2f} s to import on top of `import torch`, with all that measures {top['torch, all that measures too']:.2f} s (`python -m benchmarks.startup`)."])

def with_tables(notebook:dict)->dict:
    "The index with its two tables as they should be"
    for cell in notebook['cells']:
        for title, make in (('## Lessons', lessons_cell), ('## Speed', speed_cell)):
            if cell['cell_type'] == 'markdown' and ''.join(cell['source']).startswith(title): cell['source'] = make().splitlines(keepends=True)
    return notebook

def render(notebook:dict)->str:
    "The notebook's README"
    parts = ['<!-- Written by scripts/readme.py from nbs/index.ipynb: edit that. -->']
    for cell in notebook['cells']:
        source = ''.join(cell['source']).strip()
        if not source or source.startswith('#| hide'): continue
        if cell['cell_type'] == 'markdown': parts.append(LINK.sub(lambda m: '](' + (m[1][3:] if m[1].startswith('../') else f'nbs/{m[1]}'), source))
        elif cell['cell_type'] == 'code':
            code = '\n'.join(l for l in source.splitlines() if not l.startswith('#| ')).strip()
            if code: parts.append(f'```python\n{code}\n```')
            for out in cell['outputs']:
                text = out.get('text') or out.get('data', {}).get('text/plain') or []
                if out.get('name') != 'stderr' and ''.join(text).strip(): parts.append('```\n' + ''.join(text).rstrip() + '\n```')
    return '\n\n'.join(parts) + '\n'

if __name__ == '__main__':
    index, readme = root/'nbs'/'index.ipynb', root/'README.md'
    before = json.loads(index.read_text(encoding='utf-8'))
    notebook = with_tables(json.loads(index.read_text(encoding='utf-8')))
    text = render(notebook)
    if '--check' in sys.argv: sys.exit(0 if readme.read_text(encoding='utf-8') == text and before == notebook else 'README.md or a table in nbs/index.ipynb is not up to date: run python scripts/readme.py')
    if before != notebook: index.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')
    readme.write_text(text, encoding='utf-8')
