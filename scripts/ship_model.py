r"""Turn a finished run into the model that ships in data/pretrained/mar, judge it, write its result file, and draw the
README's pictures with it; beside the run, nearest.png shows training pictures like those drawn. From the root:

    marlearn train --preset cifar10-wide --out runs/cifar10 --train.log-every 100 --train.sample-every 5000 \
        --train.save-every 1000
    python scripts/ship_model.py runs/cifar10

The small model of `shapes` in data/pretrained/shapes:

    marlearn train --preset toy --data shapes --out runs/shapes --model.width 96 --model.encoder-blocks 2 \
        --model.decoder-blocks 2 --model.heads 3 --model.head.blocks 2 --model.head.width 128 --train.steps 14000 \
        --train.batch-size 64 --train.ema 0.9995 --train.log-every 100 --train.sample-every 3500 --train.save-every 3500
    python scripts/ship_model.py runs/shapes --name shapes"""
import argparse, json, time
from pathlib import Path
import numpy as np, torch
from marlearn.engine.checkpoints import latest_checkpoint, load_checkpoint, save_checkpoint
from marlearn.engine.drawing import draw_grid, pick_classes, save_class_grid, save_figure, save_generation, short_name
from marlearn.engine.evaluation import cifar10_classifier, draw_batch, extract
from marlearn.engine.hardware import machine
from marlearn.engine.pictures import load_data
from marlearn.engine.run import read_log, run_config_from
from marlearn.mar import count_parameters
from marlearn.metrics import kernel_distance, precision_recall, Statistics
from marlearn.plot import show_images
from marlearn.train import encode_data

DRAWING = {'cfg_scale': 6.0, 'guidance': 'constant', 'temperature': 0.95, 'diff_steps': 50}
SECTION = {'mar': 1, 'shapes': 3} # of this file's docstring: the command

@torch.no_grad()
def held_out_error(model, tokenizer, test):
    "Mean noise error of 2000 test pictures, with the same masks and noise for every model"
    tokens = encode_data(tokenizer, test, flip=False)
    index = torch.from_numpy(np.random.default_rng(0).permutation(len(tokens))[:2000])
    errors = []
    for i, part in enumerate(index.split(200)):
        g = torch.Generator().manual_seed(i)
        errors.append(model.loss(*tokens.batch(part, g), generator=g)['mse'].item())
    return float(np.mean(errors))

def drawn_features(model, tokenizer, extractor, n, seed):
    "What the judge sees of n pictures, as many of each class, and these pictures' labels and the first of each class"
    C, found, first = model.config.n_classes, [], None
    labels = torch.arange(n) % C
    for number, part in enumerate(labels.split(100)):
        images = draw_batch(model, tokenizer, part, seed=seed, number=number, **DRAWING).float()/127.5 - 1
        first = images[:C] if first is None else first
        found.append(extractor(images))
    return torch.cat([f['features'] for f in found]), torch.cat([f['probabilities'] for f in found]), labels, first

@torch.no_grad()
def judge(model, tokenizer, train, test, n, seeds=(0, 1, 2)):
    "The report's numbers, and a drawn picture of each class with the training pictures that look most like it"
    extractor = cifar10_classifier()
    real = extract(extractor, test, quiet=True)['features']
    reference, rows = Statistics().update(real), []
    for seed in seeds:
        features, probabilities, labels, images = drawn_features(model, tokenizer, extractor, n, seed)
        right = (probabilities.argmax(1) == labels).double()
        precision, recall = precision_recall(real[:n], features)
        rows.append({'distance': Statistics().update(features).distance(reference),
                     'kernel distance': kernel_distance(real[:n], features), 'recognised': right.mean().item(),
                     'precision': precision, 'recall': recall}
                    | {f'recognised, {name}': right[labels == k].mean().item() for k, name in enumerate(train.classes)})
    mean = {k: float(np.mean([row[k] for row in rows])) for k in rows[0]}
    spread = {k: float(np.std([row[k] for row in rows], ddof=1)) for k in rows[0] if not k.startswith('recognised, ')}
    known = extract(extractor, train, quiet=True)['features']
    C = model.config.n_classes
    nearest = torch.cdist(features[:C], known).topk(5, largest=False).indices
    away = {f'median distance to the nearest training picture, {name}': torch.cdist(seen, known).amin(1).median().item()
            for name, seen in (('drawn', features), ('test pictures', real[:n]))}
    grid = torch.stack([torch.cat([image[None], train.batch(row.numpy())[0]]) for image, row in zip(images, nearest)])
    report = {'judge': extractor.name, 'pictures for each seed': n, 'seeds': list(seeds), 'drawn with': DRAWING,
              **mean, 'standard deviation over seeds': spread, **away}
    return report, grid

def save_nearest(grid, classes, path):
    "A row for each class: the drawn picture, then the training pictures whose features are nearest"
    fig = show_images(grid.flatten(0, 1), ncols=grid.shape[1], row_names=[short_name(c) for c in classes], size=.7,
                      title='drawn (first column), and the five nearest of all training pictures')
    save_figure(fig, path)

def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('run', type=Path, help='folder of a run made by `marlearn train`')
    parser.add_argument('--name', default='mar', choices=['mar', 'shapes'], help='which of the shipped models')
    parser.add_argument('--out', type=Path, help='where the model goes (default: data/pretrained/NAME)')
    parser.add_argument('--pictures', type=Path, default=Path('nbs/images'))
    parser.add_argument('--rows', nargs='+', type=int, default=[1, 7, 8, 9],
                        help='classes of the animation, a row each')
    parser.add_argument('--n', type=int, default=2000, help='pictures that are judged, with each of three seeds')
    args = parser.parse_args(arguments)
    out, sections = args.out or Path('data/pretrained')/args.name, __doc__.split('\n\n')

    folder = latest_checkpoint(args.run)
    if folder is None: raise SystemExit(f'{args.run} holds no intact checkpoint: give the folder of a finished run')
    c, log = load_checkpoint(folder), read_log(args.run/'log.jsonl')
    run = c.settings['run']
    save_checkpoint(out, model=c.model, tokenizer=c.tokenizer, config=run_config_from(run), classes=c.classes,
                    step=c.step, dtype=torch.float16)

    shipped = load_checkpoint(out)  # half precision and back: judge what others will load
    started = time.perf_counter()
    which = pick_classes(len(shipped.classes))
    g = torch.Generator().manual_seed(0)
    images = draw_grid(shipped.model, shipped.tokenizer, which, 8, generator=g, **DRAWING)
    seconds = time.perf_counter() - started
    test, judged = load_data(run['data'], 'test', run['img_size']), {}
    if args.name == 'mar':
        args.pictures.mkdir(parents=True, exist_ok=True)
        save_class_grid(images, which, shipped.classes, args.pictures/'samples.png')
        rows = torch.tensor(args.rows).repeat_interleave(10)
        save_generation(shipped.model, shipped.tokenizer, rows, args.pictures/'generation.gif', ncols=10,
                        generator=torch.Generator().manual_seed(1), **DRAWING)
        train = load_data(run['data'], 'train', run['img_size'])
        judged['evaluation'], grid = judge(shipped.model, shipped.tokenizer, train, test, args.n)
        save_nearest(grid, train.classes, args.run/'nearest.png')       # of other people's pictures: it stays there
    made_by = sections[SECTION[args.name]].replace('\\\n', ' ').strip().splitlines()
    raw = load_checkpoint(folder, ema=False)
    report = {'made_by': [' '.join(line.split()) for line in made_by], 'settings': run, 'model': c.settings['model'],
              'steps': c.step, 'images_seen': c.step*run['train']['batch_size'],
              'parameters': count_parameters(shipped.model),
              'machine': machine(), 'median_images_per_second': float(np.median([r['images_per_second'] for r in log])),
              'held_out_noise_error': {
                  'averaged weights, as shipped': held_out_error(shipped.model, shipped.tokenizer, test),
                  'raw weights': held_out_error(raw.model, raw.tokenizer, test)},
              **judged, 'seconds_for_80_pictures': round(seconds, 1), 'log': log[::max(1, len(log)//40)] + log[-1:]}
    (out/'report.json').write_text(json.dumps(report, indent=1), encoding='utf-8')
    print(json.dumps({k: v for k, v in report.items() if k not in ('log', 'settings', 'model')}, indent=1))

if __name__ == '__main__': main()
