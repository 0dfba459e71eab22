"""What lessons print, draw and measure on CIFAR-10, for readers who do not have the pictures. From the root:

    python scripts/on_cifar.py                         # lessons 01, 05 and 15; some minutes
    python scripts/on_cifar.py --lessons 01_data       # one of them; what is known of the others stays

A lesson's own cells are run as they stand. Kept in benchmarks/results/on_cifar.json are the lines that begin with
"cifar10" (01, 05) and the numbers of lesson 15, whose rows of drawn pictures go into on_cifar.png beside it. No picture
of the data is kept."""
import argparse, contextlib, io, json, os
from pathlib import Path
import torch
from PIL import Image
from cells import code_cells
from marlearn.engine.hardware import machine
from marlearn.engine.pictures import find_cifar10
from marlearn.plot import image_grid
from settings import ROOT

LESSONS = '01_data', '05_tokenizers', '15_cifar'

def run(lesson):
    "What these cells define, and the lines they print"
    names, said = {'__name__': lesson}, io.StringIO()
    for source in code_cells(lesson):
        source = source.replace('from tqdm.auto import tqdm', 'from tqdm import tqdm')
        with contextlib.redirect_stdout(said): exec(source, names)
        if 'plt' in names: names['plt'].close('all')
    return names, said.getvalue().splitlines()

def experiment(names):
    "The numbers of lesson 15"
    def about(distances): return {'distance': float(distances.mean()), 'scatter': float(distances.std(ddof=1))}
    cases = {name: {'recognised': names['share'][name]} | about(names['far'][name]) for name in names['cases']}
    scales = {f'{scale:g}': about(d) | {'recognised': r, 'precision': p, 'recall': q}
              for scale, (d, r, p, q) in names['curves'].items()}
    return {'steps of the shipped model': names['report']['steps'], 'classes': list(names['classes']),
            'held-out loss': names['error'], 'cases': cases, 'guidance': scales, 'rows': list(names['rows'])}

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--lessons', nargs='+', choices=LESSONS, default=LESSONS)
    parser.add_argument('--out', type=Path, default=ROOT/'benchmarks'/'results'/'on_cifar.json')
    args = parser.parse_args()
    if find_cifar10(download=False) is None:
        raise SystemExit('CIFAR-10 is not at hand: set MARLEARN_DATA to its archive')
    import matplotlib
    matplotlib.use('Agg')
    out = args.out.resolve()
    os.chdir(ROOT/'nbs')
    for lesson in args.lessons:
        print(f'running {lesson}', flush=True)
        names, said = run(lesson)
        result = json.loads(out.read_text(encoding='utf-8')) if out.exists() else {}
        result |= {'what': 'lessons on CIFAR-10', 'command': 'python scripts/on_cifar.py', 'machine': machine()}
        if lesson == '15_cifar':
            result[lesson] = experiment(names)
            page = image_grid(torch.cat(list(names['rows'].values())), len(names['classes']), pad=0)
            Image.fromarray(page).save(out.with_suffix('.png'), optimize=True)
        else: result[lesson] = [line for line in said if line.startswith('cifar10')]
        out.write_text(json.dumps(result, indent=1) + '\n', encoding='utf-8')

if __name__ == '__main__': main()
