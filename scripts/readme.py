"""Write README.md from nbs/index.ipynb (with --check: only tell whether both are up to date).

Markdown cells are copied as they are, code cells are fenced, with their text outputs below. Six cells of the index are
written first: the front (its address from settings.ini), what is proven and supported, how to install (versions from
benchmarks/results), the lessons (from marlearn.course.map), the engine (from the first cell of its notebooks), and the
timings (from benchmarks/results)."""
import json, re, statistics, sys
from pathlib import Path
from settings import read_flags, read_settings, ROOT as root

nbs, results = root/'nbs', root/'benchmarks'/'results'
LINK = re.compile(r'\]\((?!https?:|#)([^)]*)')                 # relative to nbs/ in the notebook, to the root in README

def source(cell:dict)->str: return ''.join(cell['source'])

def load(path:Path)->dict: return json.loads(path.read_text(encoding='utf-8'))

def front_cell()->str:
    "The first cell of the index: one sentence, one picture, one command, two doors"
    from marlearn.course.exercises import EXERCISES, load_exercises
    from marlearn.course.map import LESSONS
    from marlearn.demo import DemoConfig
    load_exercises()
    settings, hours = read_settings(), sum(l.minutes for l in LESSONS)/60
    practice = sum(e.minutes for e in EXERCISES.values())/60
    url = settings['repo_url']
    report = load(root/'data'/'pretrained'/'mar'/'report.json')
    minutes = report['images_seen']/report['median_images_per_second']/60
    judged, real = report['evaluation'], load(root/'data'/'pretrained'/'classifier'/'report.json')
    shares = {k.removeprefix('recognised, '): v for k, v in judged.items() if k.startswith('recognised, ')}
    worst, nearest = min(shares, key=shares.get), 'median distance to the nearest training picture, '
    assert judged[nearest + 'drawn'] > .95*judged[nearest + 'test pictures']
    threads = report['machine']['threads']
    cpu = 'one CPU core' if threads == 1 else f'{threads} CPU cores'
    is_public = settings['public'] == 'yes'
    placeholder = [] if is_public else ['(The repository is not public yet: this address is a placeholder.)', '']
    return '\n'.join(['# marlearn', '',
        '**Learn, run and scale MAR**, the image generator of [*Autoregressive Image Generation without Vector '
        'Quantization*](https://arxiv.org/abs/2406.11838) (Li et al. 2024), in plain PyTorch: a picture is written '
        'piece by piece, like a text, and a small diffusion network draws each piece.', '',
        '![Forty small pictures of cars, horses, ships and trucks appear piece by piece, in a random order]'
        '(images/generation.gif)', '',
        f'*Drawn by the model that ships with marlearn: CIFAR-10, {minutes:.0f} minutes of training on '
        f"{cpu} ([report](../data/pretrained/mar/report.json)). In the picture of "
        f"[all ten classes](images/samples.png) the eye finds horses, birds and some deer; cats, dogs and frogs stay "
        f"smears. A classifier recognises "
        f"{judged['recognised']:.0%} of what the model draws, "
        f"fewest of class {worst} ({shares[worst]:.0%}), and {real['test accuracy, float16 weights as shipped']:.0%} "
        'of real ones. Drawn pictures are as far from the nearest training picture as test pictures are.*', '',
        '```', f'git clone {url}', 'cd marlearn', 'make demo', '```', '',
        *placeholder,
        f'This trains a model and draws with it, in {DemoConfig().minutes:g} minutes after the '
        'set-up, which downloads PyTorch and takes 6 to 8 GB of disk. You need Python 3.10 or newer. A GPU is used if '
        'there is one; none is needed.', '',
        '| learn | run |', '|---|---|',
        f'| {len(LESSONS)} notebooks build everything, from pixels to pictures: by our estimate about {hours:.0f} '
        f'hours of reading and running on a laptop, and {practice:.0f} hours of exercises. '
        '| What the lessons build *is* the library: from '
        'the demo to the '
        'paper\'s ImageNet models on many GPUs. |',
        '| `make lab`, and open [lesson 00](00_start.ipynb) | `marlearn sample`, `marlearn train --data my-pictures`, '
        '`marlearn import` for official weights: [the command line](#the-command-line) |'])

def supported()->str:
    "The versions that scripts/try_versions.py has seen to pass"
    seen = results/'versions.json'
    rows = [row for row in load(seen)['rows'] if not row['failed']] if seen.exists() else []
    if not rows:
        return 'Linux with Python 3.11. Other versions have no result yet (`python scripts/try_versions.py` makes one).'
    pairs = [f"Python {row['python']} with torch {row['versions']['torch'].split('+')[0]}" for row in rows]
    pairs = ' and '.join([', '.join(pairs[:-1]), pairs[-1]] if len(pairs) > 1 else pairs)
    return (f'Linux; developed with Python 3.11. The library\'s tests also pass with {pairs} '
            '([result](../benchmarks/results/versions.json)); `python scripts/try_versions.py` tries others.')

def status_cell()->str:
    "The cell of the index that says what was tested, and what was not"
    rows = {
        'Equal to the official release, to rounding': 'outputs of the masked model, the head, the diffusion loss and '
            'the sampler, the norms of all gradients, and the names of all weights: compared with values recorded from '
            'the release whenever the tests run ([lesson 20](20_official.ipynb), `tests/test_parity.py`). Whole '
            'gradients, 2x2 patches and the outputs of the KL autoencoder are compared too, but need a larger '
            'recording '
            'that is not in the repository (`MARLEARN_PARITY=FOLDER`)',
        'Tested by `make test`': 'every notebook, run from top to bottom; a run that is killed and resumed ends '
            'with the same weights, bit for bit; damaged files are refused',
        'Rehearsed on CPUs, with two or three processes': 'training on several GPUs and machines, whole or in pieces; '
            'encoding, drawing and evaluating together; processes that die or hang (`tests/test_distributed.py`)',
        'Run on a GPU': '**not yet**. `tests/test_gpu.py` waits for one; so far it runs on a simulated device only',
        'Trained at the size of the paper': '**not by us**. The official weights are not included; `marlearn import` '
            'reads them ([where to find them](20_official.ipynb))',
        'Supported': f'{supported()} macOS and Windows were not tried'}
    return '\n'.join(['## What is proven', '', '| | |', '|---|---|',
                      *(f'| **{what}** | {how} |' for what, how in rows.items()), '',
                      'What changed between versions is in the [CHANGELOG](../CHANGELOG.md).'])

def install_cell()->str:
    "The cell of the index that tells how the library gets into an environment of one's own"
    s = read_settings()
    url, name = s['repo_url'], s['lib_name']
    return '\n'.join(['## Install without a clone', '',
        'For programs of your own the library is enough; the small models are inside.', '',
        '```', f'pip install git+{url}', '```', '',
        'For a machine without a network, make the wheels on one that has a network, and copy the folder:', '',
        '```', f'pip wheel --wheel-dir wheels git+{url}',
        f'pip install --no-index --find-links wheels {name}', '```'])

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
        'Minutes are estimates, for reading and running without the exercises. Three more notebooks show how the '
        'course is '
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
        'What keeps a long run safe is not part of the method; it has short reference notebooks of its own: what a '
        'module '
        'promises, how it is used, and cells that test it.', '',
        '| notebook | module | what it promises |', '|---|---|---|', *rows])

MODES = ('plain', 'default', 'compiled', 'fastest') # the columns of the table

def timings()->dict[str, dict[str, str]]: # kind of work -> column -> seconds, and how many times as fast as plain
    "What benchmarks/results say, for the short table"
    work = {}
    for what in ('train', 'sample'):
        for row in load(results/f'{what}.json')['rows']:
            model, batch, column = row['model'], row['batch'], row['mode']
            if column == 'fastest' and model != 'toy': continue  # its pictures were not judged
            title = 'toy of 64 tokens' if model == 'toy' else model.upper()
            name = f'training step, {title}, {batch} pictures'
            if what == 'sample':
                name = f"drawing {batch} pictures, {title}, guidance {row['cfg_scale']:g}"
            ratio = '' if column == 'plain' else f" ({row['ratio']:.1f}x)"
            work.setdefault(name, {})[column] = f"{row['seconds']['median']:.3g} s{ratio}"
    return work

def code(name:str)->str:
    "A row of the start-up benchmark: what can be typed stands in backquotes"
    return 'importing all that trains and draws' if name == 'import all that trains and draws' else f'`{name}`'

def quality_lines(quality:dict)->list[str]:
    "What minutes of training give, with two recipes"
    m, end = quality['machine'], max(p['minutes'] for p in quality['summary'])
    last = {(p['recipe'], p['weights']): f"{p['frechet']:.0f}" for p in quality['summary'] if p['minutes'] == end}
    n = max(p['seeds'] for p in quality['summary'])
    return ['### Time to quality', '',
        "A recipe for weeks is not one for minutes. Two train the same backbone on the same tokens of CIFAR-10, the "
        "paper's as far as it fits (head of 3 blocks x 1024, mask ratios from 0.7 up, constant rate, average with "
        'decay 0.9999, every picture encoded each time it is seen), and that of `make demo`.', '',
        '![Frechet distance over minutes of training, two recipes](images/quality.png)', '',
        f"After {end:g} minutes the distance is {last['ours', 'averaged']} with ours; with the paper's "
        f"{last['paper', 'averaged']}, or {last['paper', 'raw']} with the raw weights instead of their average, which "
        f"has hardly left the start. {'One seed' if n == 1 else f'{n} seeds'}, {m['threads']} threads of an "
        f"{m['cpu']} CPU, "
        f"judged by the small classifier that ships (`{quality['command']}`, `python -m benchmarks.figure`).", '',
        *recipes()]

def recipes()->list[str]:
    "What the search for a recipe found, in two sentences"
    found, by_name = load(results/'recipe.json'), {}
    for row in found['rows']: by_name.setdefault(row['candidate'], []).append(row['distance'])
    mean = {name: sum(d)/len(d) for name, d in by_name.items()}
    best, *_, third, second, last = sorted(mean, key=mean.get)
    def number(name): return f"{mean[name]:.0f} (seeds: {', '.join(f'{d:.0f}' for d in sorted(by_name[name]))})"
    minutes = statistics.median(row['CPU seconds'] for row in found['rows'])/60
    return [f"{len(mean)} recipes around the preset `toy` had the same {minutes:.0f} "
            f"minutes on one core ([all of them](../benchmarks/results/recipe.txt), `python scripts/recipe.py`). "
            f'The least distance is that of *{best}*, {number(best)}, where `toy` has {number("toy")}; *{third}* '
            f'({mean[third]:.0f}), *{second}* ({mean[second]:.0f}) and *{last}* ({mean[last]:.0f}) come last.']

def speed_cell()->str:
    "The cell of the index that compares ways to compute the same"
    sys.path.insert(0, str(root))
    from benchmarks.common import MODELS
    from marlearn.engine.plan import n_weights
    TOY = MODELS['toy']
    train, sample, startup, front = (load(results/f'{what}.json') for what in ('train', 'sample', 'startup', 'front'))
    m, work = train['machine'], timings()
    fast = next(row for row in sample['rows'] if row['mode'] == 'fastest')
    repeats = ' or '.join(str(n) for n in sorted({train['repeats']} | {row['repeats'] for row in sample['rows']}))
    kind = f"{m['cpu']} CPU with {', '.join([m['simd'], *m['bf16 units']])}"
    columns = [c for c in MODES if any(c in row for row in work.values())]
    rows = [f"| {name} | {' | '.join(row.get(c, '') for c in columns)} |" for name, row in work.items()]
    waits = ', '.join(f"{r['median']:.2g} s for {code(r['what'])}" for r in startup['rows'] if 'what' in r)
    return '\n'.join(['## Speed', '',
        f"Measured on one kind of machine: {kind}, {m['threads']} threads, {m['precision']} by default, "
        f"torch {m['torch']}; medians of {repeats} runs. *Plain* "
        f"is the "
        "paper's algorithm written in the obvious way in float32 ([benchmarks/plain.py](../benchmarks/plain.py)); "
        "default "
        "and "
        "compiled draw the same noise and give the same result, up to rounding (of bfloat16, where that is the "
        "machine's "
        'default). In brackets: how many times as fast as plain.', '',
        f"| | {' | '.join(columns)} |", '|---'*(len(columns) + 1) + '|', *rows, '',
        f"The toy of {TOY.n_tokens} tokens has {n_weights(TOY)/1e6:.1f} million parameters (the presets' toy is "
        f"smaller) and random weights, as MAR-B has here. *Fastest* ({fast['ar_steps']} sets of tokens, "
        f"{fast['diff_steps']} diffusion steps) is "
        'approximate: the Frechet distance of such pictures was compared with that of the exact way on the CIFAR-10 '
        'model of version 0.1 (16 tokens), and the difference is within the noise of three seeds. With the network of '
        'this table, quality was not measured.', '',
        '![Frechet distance over the time for a picture, for many ways of drawing](images/front.png)', '',
        f"The plot is of that model, from an earlier run (commit {front['commit']}, "
        f"{front['machine']['processor']}, "
        f"{front['machine']['threads']} threads); the distances do not depend on the machine.", '',
        f"Measure it again with `{train['command']}`, `{sample['command']}`, `python -m benchmarks.front` and "
        '`benchmarks.figure`. [Lesson 18](18_speed.ipynb) shows where the time goes.',
        *(['', f'Start-up takes {waits} (`python -m benchmarks.startup`).'] if waits else []),
        '', *quality_lines(load(results/'quality.json'))])

TABLES = {'# marlearn': front_cell, '## What is proven': status_cell, '## Install without a clone': install_cell,
          '## Lessons': lessons_cell, '## The engine': engine_cell, '## Speed': speed_cell}

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
    args = read_flags(__doc__, check='write nothing; an error where something is not up to date')
    index, readme = nbs/'index.ipynb', root/'README.md'
    before, notebook = load(index), with_tables(load(index))
    text = render(notebook)
    if args.check:
        if readme.read_text(encoding='utf-8') == text and before == notebook: sys.exit(0)
        sys.exit('README.md or a table in nbs/index.ipynb is not up to date: run python scripts/readme.py')
    if before != notebook:
        index.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')
    readme.write_text(text, encoding='utf-8')
