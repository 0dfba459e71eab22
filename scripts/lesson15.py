"""Lesson 15 on CIFAR-10: what its cells draw and measure there, for readers without the pictures. From the root:

    python scripts/lesson15.py

The lesson's own cells are run as they stand, some minutes on two cores. Numbers are kept in
benchmarks/results/lesson15.json, the three rows of drawn pictures in lesson15.png beside it. No picture of the data is
kept."""
import argparse, json, os
from pathlib import Path
import torch
from PIL import Image
from marlearn.engine.hardware import machine
from marlearn.engine.pictures import find_cifar10
from marlearn.plot import image_grid

ROOT = Path(__file__).resolve().parent.parent

def code_cells():
    "The code of the lesson's main part, without cells that need a notebook or show recorded results"
    notebook = json.loads((ROOT/'nbs'/'15_cifar.ipynb').read_text(encoding='utf-8'))
    for cell in notebook['cells']:
        source = ''.join(cell['source'])
        if cell['cell_type'] == 'markdown' and source.startswith('## What is now true'): return
        if cell['cell_type'] == 'code' and not any(word in source for word in ('get_ipython', 'recorded', 'explore(')):
            yield source

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, default=ROOT/'benchmarks'/'results'/'lesson15.json')
    args = parser.parse_args()
    if find_cifar10(download=False) is None:
        raise SystemExit('CIFAR-10 is not at hand: set MARLEARN_DATA to its archive')
    import matplotlib
    matplotlib.use('Agg')
    out, names = args.out.resolve(), {}
    os.chdir(ROOT/'nbs')
    for source in code_cells():
        exec(source.replace('from tqdm.auto import tqdm', 'from tqdm import tqdm'), names)
        if 'plt' in names: names['plt'].close('all')
    def about(distances): return {'distance': float(distances.mean()), 'scatter': float(distances.std(ddof=1))}
    cases = {name: {'recognised': names['share'][name]} | about(names['far'][name]) for name in names['cases']}
    scales = {f'{scale:g}': about(d) | {'recognised': r, 'precision': p, 'recall': q}
              for scale, (d, r, p, q) in names['curves'].items()}
    result = {'what': 'lesson 15 on CIFAR-10', 'command': 'python scripts/lesson15.py', 'machine': machine(),
              'shipped model': names['report']['steps'], 'classes': list(names['classes']),
              'held-out loss': names['error'], 'cases': cases, 'guidance': scales, 'rows': list(names['rows'])}
    out.write_text(json.dumps(result, indent=1) + '\n', encoding='utf-8')
    page = image_grid(torch.cat(list(names['rows'].values())), len(names['classes']), pad=0)
    Image.fromarray(page).save(out.with_suffix('.png'), optimize=True)

if __name__ == '__main__': main()
