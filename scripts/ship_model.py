r"""Turn a finished run into the model that ships in data/pretrained/mar, write its result file, and draw the README's
pictures with it. From the repository's root:

    marlearn train --preset toy --data cifar10 --out runs/shipped --train.steps 18000 --train.ema 0.9998 \
        --train.log-every 100 --train.sample-every 4500 --train.save-every 2000
    python scripts/ship_model.py runs/shipped

The small model of `shapes` in data/pretrained/shapes:

    marlearn train --preset toy --data shapes --out runs/shapes --model.width 96 --model.encoder-blocks 2 \
        --model.decoder-blocks 2 --model.heads 3 --model.head.blocks 2 --model.head.width 128 --train.steps 14000 \
        --train.batch-size 64 --train.ema 0.9995 --train.log-every 100 --train.sample-every 3500 --train.save-every 3500
    python scripts/ship_model.py runs/shapes --name shapes"""
import argparse, json, time
from pathlib import Path
import numpy as np, torch
from marlearn.engine.pictures import load_data
from marlearn.engine.drawing import draw_grid, pick_classes, save_class_grid, save_generation
from marlearn.engine.hardware import machine
from marlearn.mar import count_parameters
from marlearn.engine.checkpoints import latest_checkpoint, load_checkpoint, save_checkpoint
from marlearn.engine.run import read_log, run_config_from
from marlearn.train import encode_data

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument('run', type=Path, help='folder of a run made by `marlearn train`')
parser.add_argument('--name', default='mar', choices=['mar', 'shapes'], help='which of the shipped models')
parser.add_argument('--out', type=Path, help='where the model goes (default: data/pretrained/NAME)')
parser.add_argument('--pictures', type=Path, default=Path('nbs/images'))
parser.add_argument('--rows', nargs='+', type=int, default=[1, 7, 8, 9], help='classes of the animation, a row each')
args = parser.parse_args()
out, sections = args.out or Path('data/pretrained')/args.name, __doc__.split('\n\n')

folder = latest_checkpoint(args.run)
if folder is None: raise SystemExit(f'{args.run} holds no intact checkpoint: give the folder of a finished run')
c, log = load_checkpoint(folder), read_log(args.run/'log.jsonl')
run = c.settings['run']

@torch.no_grad()
def held_out_error(model):
    "Mean noise error of 2000 test pictures, with the same masks and noise for every model"
    test = load_data(run['data'], 'test', run['img_size'])
    tokens = encode_data(c.tokenizer, test, flip=False)
    index = torch.from_numpy(np.random.default_rng(0).permutation(len(tokens))[:2000])
    errors = []
    for i, part in enumerate(index.split(200)):
        g = torch.Generator().manual_seed(i)
        errors.append(model.loss(*tokens.batch(part, g), generator=g)['mse'].item())
    return float(np.mean(errors))

save_checkpoint(out, model=c.model, tokenizer=c.tokenizer, config=run_config_from(run), classes=c.classes, step=c.step,
                dtype=torch.float16)

shipped = load_checkpoint(out)  # half precision and back: judge what others will load
started = time.perf_counter()
drawing = {'cfg_scale': 5.0, 'guidance': 'constant', 'temperature': 0.95, 'diff_steps': 50}
which = pick_classes(len(shipped.classes))
images = draw_grid(shipped.model, shipped.tokenizer, which, 8, generator=torch.Generator().manual_seed(0), **drawing)
seconds = time.perf_counter() - started
if args.name == 'mar':
    args.pictures.mkdir(parents=True, exist_ok=True)
    save_class_grid(images, which, shipped.classes, args.pictures/'samples.png')
    rows = torch.tensor(args.rows).repeat_interleave(10)
    save_generation(shipped.model, shipped.tokenizer, rows, args.pictures/'generation.gif', ncols=10,
                    generator=torch.Generator().manual_seed(1), **drawing)
made_by = sections[{'mar': 1, 'shapes': 3}[args.name]].replace('\\\n', ' ').strip().splitlines()
report = {'made_by': [' '.join(line.split()) for line in made_by], 'settings': run, 'model': c.settings['model'],
          'steps': c.step, 'images_seen': c.step*run['train']['batch_size'],
          'parameters': count_parameters(shipped.model),
          'machine': machine(), 'median_images_per_second': float(np.median([r['images_per_second'] for r in log])),
          'held_out_noise_error': {'averaged weights, as shipped': held_out_error(shipped.model),
                                   'raw weights': held_out_error(load_checkpoint(folder, ema=False).model)},
          'seconds_for_80_pictures': round(seconds, 1), 'log': log[::max(1, len(log)//40)] + log[-1:]}
(out/'report.json').write_text(json.dumps(report, indent=1), encoding='utf-8')
print(json.dumps({k: v for k, v in report.items() if k not in ('log', 'settings', 'model')}, indent=1))
