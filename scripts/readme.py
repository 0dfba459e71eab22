"""Write README.md from nbs/index.ipynb (with --check: only tell whether both are up to date).

Markdown cells are copied as they are, code cells are fenced, with their text outputs below. Four cells of the index
are written first: how to install (from settings.ini), the lessons (from marlearn.course.map), the engine (from the
first cell of its notebooks), and the timings (from benchmarks/results)."""
import json, re, sys
from pathlib import Path
from settings import ROOT as root, read_settings

nbs, results = root/'nbs', root/'benchmarks'/'results'
LINK = re.compile(r'\]\((?!https?:|#)([^)]*)')                 # relative to nbs/ in the notebook, to the root in README

def source(cell:dict)->str: return ''.join(cell['source'])

def load(path:Path)->dict: return json.loads(path.read_text(encoding='utf-8'))

def versions_line()->str:
    "What scripts/try_versions.py saw, if it has been run"
    if not (results/'versions.json').exists(): return ''
    rows = load(results/'versions.json')['rows']
    (low, old), (high, new) = ((r['python'], r['versions']['torch'].split('+')[0]) for r in (rows[0], rows[-1]))
    return (f'\n\nPython {low} to {high} and torch {old} to {new} are seen to pass the tests of the library, the '
            'oldest with the oldest of everything else it needs ([result](../benchmarks/results/versions.json), by '
            '`python scripts/try_versions.py`).')

def install_cell()->str:
    "The cell of the index that tells how the library gets into an environment of one's own"
    s = read_settings()
    url, name = s['repo_url'], s['lib_name']
    return '\n'.join(['## Install without a clone', '',
        'For programs of your own the library is enough; the small models are inside.', '',
        '```', f'pip install git+{url}', '```', '',
        'For a machine without a network, make the wheels on one that has it, and take the folder along:', '',
        '```', f'pip wheel --wheel-dir wheels git+{url}',
        f'pip install --no-index --find-links wheels {name}', '```']) + versions_line()

def lessons_cell()->str:
    "The cell of the index that lists the lessons"
    from marlearn.course.map import LESSONS
    rows = []
    for l in LESSONS:
        needs = ', '.join(f'{n:02d}' for n in l.needs) or '-'
        lesson = f'| {l.number:02d} | [{l.title}]({l.notebook}.ipynb) '
        rows.append(f'{lesson}| {l.question} | {l.minutes} | {needs} | {l.can} |')
    return '\n'.join(['## Lessons', '',
        'Start with [00 start](00_start.ipynb): the shipped model at work, the words used everywhere, and how '
        'exercises are checked. `marlearn progress` shows what you have passed.', '',
        '| | lesson | the question it answers | minutes | before it | afterwards you can |',
        '|---|---|---|---|---|---|', *rows, '',
        'Minutes are for reading and running, without the exercises. Three more notebooks tell how the course is '
        'made: [map and glossary](course/map.ipynb), [exercises](course/exercises.ipynb), and '
        '[progress](course/progress.ipynb).'])

def engine_rows()->list[tuple[str, str, str, str]]: # title, notebook, module, what it promises
    "What each notebook of the engine says of itself in its first cell: `# Title`, then `> one sentence`"
    rows = []
    for path in sorted(nbs.glob('engine/*.ipynb')):
        cells = load(path)['cells']
        title, promise = (re.search(rf'^{mark} (.+)$', source(cells[0]), re.M) for mark in '#>')
        module = next(filter(None, (re.search(r'^#\|\s*default_exp\s+([\w.]+)', source(c), re.M) for c in cells)), None)
        if not (title and promise and module):
            sys.exit(f'{path.name} needs "# title" and "> sentence" in its first cell, and a `#| default_exp`')
        rows.append((title[1], f'engine/{path.name}', f'marlearn.{module[1]}', promise[1]))
    return rows

def engine_cell()->str:
    "The cell of the index that lists the engine's notebooks"
    rows = [f'| [{title}]({link}) | `{module}` | {promise} |' for title, link, module, promise in engine_rows()]
    return '\n'.join(['## The engine', '',
        'What keeps a long run safe is no part of the method, and has short reference notebooks of its own: what a '
        'module promises, how it is used, and cells that prove it.', '',
        '| notebook | module | what it promises |', '|---|---|---|', *rows])

MODES = ('plain', 'default', 'compiled', 'fastest') # the columns of the table

def timings()->dict[str, dict[str, str]]: # kind of work -> column -> seconds, and how many times as fast as plain
    "What benchmarks/results say, for the short table"
    work = {}
    for what in ('train', 'sample'):
        for row in load(results/f'{what}.json')['rows']:
            model, batch, column = row['model'], row['batch'], row['mode']
            if column == 'fastest' and model != 'toy': continue  # judged with the toy only
            name = f'training step, {model}, {batch} pictures'
            if what == 'sample':
                name = f"drawing {batch} pictures, {model}, guidance {row['cfg_scale']:g}"
            ratio = '' if column == 'plain' else f" ({row['ratio']:.1f}x)"
            work.setdefault(name, {})[column] = f"{row['seconds']['median']:.3g} s{ratio}"
    return work

def speed_cell()->str:
    "The cell of the index that compares ways to compute the same"
    train, sample, startup, front = (load(results/f'{what}.json') for what in ('train', 'sample', 'startup', 'front'))
    m, work = train['machine'], timings()
    kind = f"{m['cpu']} CPU with {', '.join([m['simd'], *m['bf16 units']])}"
    columns = [c for c in MODES if any(c in row for row in work.values())]
    rows = [f"| {name} | {' | '.join(row.get(c, '') for c in columns)} |" for name, row in work.items()]
    waits = ', '.join(f"{r['median']:.1f} s for `{r['what']}`" for r in startup['rows'] if 'what' in r)
    return '\n'.join(['## Speed', '',
        f"Measured on one kind of machine: {kind}, {m['threads']} threads, {m['precision']} by default, "
        f"torch {m['torch']}. *Plain* is the paper's algorithm written straight down in float32 "
        '([benchmarks/plain.py](../benchmarks/plain.py)); the other exact ways draw the same noise and give the same '
        'result, to rounding. In brackets: how many times as fast as plain.', '',
        f"| | {' | '.join(columns)} |", '|---'*(len(columns) + 1) + '|', *rows, '',
        '*Fastest* is approximate: of the ways with fewer sets of tokens and fewer steps, it is the fastest whose '
        'Frechet distance three seeds cannot tell from that of the exact way. That was measured with the toy model '
        'only.', '',
        '![Frechet distance over the time for a picture, for many ways of drawing](images/front.png)', '',
        f"The picture's times are of an earlier run (commit {front['commit']}, {front['machine']['processor']}, "
        f"{front['machine']['threads']} threads); the distances do not depend on the machine.", '',
        f"Repeat it with `{train['command']}`, `{sample['command']}`, `python -m benchmarks.front` and "
        '`benchmarks.figure`. [Lesson 18](18_speed.ipynb) shows where the time goes.',
        *(['', f'A process takes {waits} (`python -m benchmarks.startup`).'] if waits else [])])

TABLES = {'## Install without a clone': install_cell, '## Lessons': lessons_cell, '## The engine': engine_cell,
          '## Speed': speed_cell}

def with_tables(notebook:dict)->dict:
    "The index with its written cells as they should be"
    for cell in notebook['cells']:
        make = TABLES.get(source(cell).partition('\n')[0]) if cell['cell_type'] == 'markdown' else None
        if make:
            cell['source'] = make().splitlines(keepends=True)
    return notebook

def from_root(link:re.Match)->str:
    "A link of a notebook in nbs/, as the root needs it"
    target = link[1]
    return '](' + (target.removeprefix('../') if target.startswith('../') else f'nbs/{target}')

def render(notebook:dict)->str:
    "The notebook's README"
    parts = ['<!-- Written by scripts/readme.py from nbs/index.ipynb: edit that. -->']
    for cell in notebook['cells']:
        text = source(cell).strip()
        if not text or text.startswith('#| hide'): continue
        if cell['cell_type'] == 'markdown':
            parts.append(LINK.sub(from_root, text))
            continue
        code = '\n'.join(l for l in text.splitlines() if not l.startswith('#| ')).strip()
        if code:
            parts.append(f'```python\n{code}\n```')
        for out in cell['outputs']:
            shown = ''.join(out.get('text') or out.get('data', {}).get('text/plain') or [])
            if out.get('name') != 'stderr' and shown.strip():
                parts.append(f'```\n{shown.rstrip()}\n```')
    return '\n\n'.join(parts) + '\n'

if __name__ == '__main__':
    index, readme = nbs/'index.ipynb', root/'README.md'
    before, notebook = load(index), with_tables(load(index))
    text = render(notebook)
    if '--check' in sys.argv:
        if readme.read_text(encoding='utf-8') == text and before == notebook: sys.exit(0)
        sys.exit('README.md or a table in nbs/index.ipynb is not up to date: run python scripts/readme.py')
    if before != notebook:
        index.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')
    readme.write_text(text, encoding='utf-8')
