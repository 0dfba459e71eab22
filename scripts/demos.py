"""Is the demo better than an earlier one? Both on one core, one after the other, with the same data and minutes:

    git worktree add ../earlier COMMIT                             # any commit or tag
    python scripts/demos.py ../earlier                             # six times 7.5 minutes, and some for judging
    python scripts/demos.py ../earlier --only shapes --out shapes.json --pictures shapes.jpg   # results elsewhere

Data: CIFAR-10, the drawn shapes, and a folder of 4000 pictures, a thousand each of four of CIFAR-10's classes. Each
demo runs its own tree's code, tokenizer and recipe; finished ones in --work are not run again. This tree judges:
Frechet distance to test pictures in the features of the classifier that ships, and the share of drawn pictures that a
linear readout of these features, fitted to the training pictures, takes for what was asked.
Result: benchmarks/results/demos.json, and demos.jpg beside it: the earlier demo's pictures at the left."""
import argparse, json, os, subprocess, sys
from pathlib import Path
import numpy as np, torch
from PIL import Image
from marlearn.demo import DemoConfig
from marlearn.engine.checkpoints import latest_checkpoint, load_checkpoint
from marlearn.engine.drawing import draw_grid, pick_classes
from marlearn.engine.evaluation import cifar10_classifier, draw_batch, extract
from marlearn.engine.hardware import machine
from marlearn.engine.pictures import load_data
from marlearn.files import atomic_folder
from marlearn.metrics import as_saved, Statistics
from marlearn.plot import image_grid
from settings import ROOT

FOLDER_CLASSES = 'airplane', 'automobile', 'horse', 'ship'

def write_folder(folder, per_class):
    "Pictures of some classes of CIFAR-10 as files, as a user's own would be"
    for split in ('train', 'test'):
        data = load_data('cifar10', split)
        for name in FOLDER_CLASSES:
            (folder/split/name).mkdir(parents=True, exist_ok=True)
            index = np.flatnonzero(np.asarray(data.labels) == data.classes.index(name))[:per_class]
            for i in index: Image.fromarray(data.images[i].transpose(1, 2, 0)).save(folder/split/name/f'{i:05}.png')

def run_demo(tree, source, minutes, out):
    "With this tree's code and one thread; a finished one is kept"
    if (out/'report.json').exists(): return
    out.mkdir(parents=True, exist_ok=True)
    log = out.with_suffix('.log')
    command = [sys.executable, '-m', 'marlearn', 'demo', '--data', source, '--minutes', str(minutes), '--out', out]
    with open(log, 'w', encoding='utf-8') as said:
        done = subprocess.run(command, cwd=tree, stdout=said, stderr=said,
                              env=os.environ | {'PYTHONPATH': str(tree), 'OMP_NUM_THREADS': '1'})
    if done.returncode: raise SystemExit(f'the demo failed: see {log}')

def features_of(extractor, images): return torch.cat([extractor(part)['features'] for part in images.split(100)])

def linear_readout(features, labels, n_classes, ridge=1e-3):
    "Least squares from features to classes: (F + 1, C)"
    x = torch.cat([features, torch.ones(len(features), 1)], 1).double()
    y = torch.nn.functional.one_hot(labels, n_classes).double()
    return torch.linalg.solve(x.T @ x + ridge*len(x)*torch.eye(x.shape[1]), x.T @ y)

def share_right(readout, features, labels):
    guesses = (torch.cat([features, torch.ones(len(features), 1)], 1).double() @ readout).argmax(1)
    return (guesses == labels).double().mean().item()

@torch.no_grad()
def judge(folder, train, test, n, seeds):
    "Numbers of one demo's checkpoint, and a few pictures of each class"
    extractor, options, C = cifar10_classifier(), DemoConfig().sampling(), len(train.classes)
    real = extract(extractor, test, quiet=True)['features']
    index = np.linspace(0, len(train) - 1, min(len(train), 10_000)).round().astype(int)
    known = extract(extractor, train, index, quiet=True)['features']
    readout = linear_readout(known, torch.as_tensor(train.labels[index]), C)
    c, reference = load_checkpoint(latest_checkpoint(folder)), Statistics().update(real)
    report = json.loads((folder/'report.json').read_text(encoding='utf-8'))
    labels = torch.arange(n) % C
    distances, right = [], []
    for seed in seeds:
        drawn = [draw_batch(c.model, c.tokenizer, part, seed=seed, number=number, **options).float()/127.5 - 1
                 for number, part in enumerate(labels.split(100))]
        found = features_of(extractor, torch.cat(drawn))
        distances.append(Statistics().update(found).distance(reference))
        right.append(share_right(readout, found, labels))
    images, _ = test.batch(np.linspace(0, len(test) - 1, min(len(test), 2000)).round().astype(int))
    copies = torch.cat([as_saved(c.tokenizer.reconstruct(part)) for part in images.split(100)])
    row = {'steps': c.step, 'pictures seen': c.step*report['settings']['run']['train']['batch_size'],
           'minutes': round(report['seconds']['total']/60, 2), 'distance': float(np.mean(distances)),
           'recognised': float(np.mean(right)), 'distance by seed': distances, 'recognised by seed': right,
           'recognised, test pictures': share_right(readout, real, torch.as_tensor(test.labels)),
           'distance of copies': Statistics().update(features_of(extractor, copies)).distance(reference)}
    page = draw_grid(c.model, c.tokenizer, pick_classes(C), 6, generator=torch.Generator().manual_seed(0), **options)
    return row, page

def save_pages(pages, path):
    "Each data set's pictures, one class a row: the earlier demo's at the left, this one's at the right"
    lines = [np.concatenate([np.pad(image_grid(page, 6, pad=1), ((4, 4), (4, 4), (0, 0)), constant_values=255)
                             for page in by_tree.values()], 1) for by_tree in pages.values()]
    Image.fromarray(np.concatenate(lines).repeat(2, 0).repeat(2, 1)).save(path, quality=85)

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('earlier', type=Path, help='a checkout of the earlier project')
    parser.add_argument('--only', nargs='+', choices=['cifar10', 'shapes', 'folder'],
                        default=['cifar10', 'shapes', 'folder'])
    parser.add_argument('--minutes', type=float, default=7.5, help='for each demo')
    parser.add_argument('--n', type=int, default=1000, help='pictures that are judged, for each seed')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2], help='of drawing')
    parser.add_argument('--work', type=Path, default=Path('runs/demos'))
    parser.add_argument('--out', type=Path, default=ROOT/'benchmarks'/'results'/'demos.json')
    parser.add_argument('--pictures', type=Path, default=ROOT/'benchmarks'/'results'/'demos.jpg')
    args = parser.parse_args()
    if not (args.earlier/'marlearn'/'demo.py').exists():
        raise SystemExit(f'{args.earlier} holds no marlearn/demo.py: give the folder of a checkout')
    trees = {'earlier': args.earlier.resolve(), 'now': ROOT}
    rows, pages = [], {}
    for source in args.only:
        work, paths = args.work.resolve()/source, dict.fromkeys(('train', 'test'), source)
        if source == 'folder':
            paths = {split: str(work/'pictures'/split) for split in paths}
            if not (work/'pictures').exists():
                with atomic_folder(work/'pictures') as new: write_folder(new, 1000)
        print(f'{source}: two demos of {args.minutes:g} minutes', flush=True)
        for name, tree in trees.items(): run_demo(tree, paths['train'], args.minutes, work/name)
        train = load_data(paths['train'])
        test = load_data(paths['test'], 'train' if source == 'folder' else 'test')      # that folder is all test
        pages[source] = {}
        for name in trees:
            row, pages[source][name] = judge(work/name, train, test, args.n, args.seeds)
            rows.append({'data': source, 'demo': name} | row)
            print(json.dumps(rows[-1]), flush=True)
    commits = {name: subprocess.run(['git', '-C', tree, 'rev-parse', '--short', 'HEAD'], capture_output=True,
                                    text=True).stdout.strip() for name, tree in trees.items()}
    result = {'what': f'The demo, earlier and now: {args.minutes:g} minutes on one core',
              'command': ' '.join(['python scripts/demos.py EARLIER', *sys.argv[2:]]), 'commits': commits,
              'machine': machine(), 'drawn with': DemoConfig().sampling(), 'rows': rows}
    args.out.write_text(json.dumps(result, indent=1) + '\n', encoding='utf-8')
    save_pages(pages, args.pictures)

if __name__ == '__main__': main()
