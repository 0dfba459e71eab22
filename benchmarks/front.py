"""What each approximation of drawing costs in quality and saves in time

The shipped CIFAR-10 model, Frechet distance in the features of the shipped classifier, three seeds:

    python -m benchmarks.heads
    python -m benchmarks.front

The first line trains the other heads; --no-heads leaves them out. The times are taken first, side by side; keep the
machine idle for that minute. Then all pictures are drawn and judged, which takes about ten minutes on two cores."""
import argparse
import statistics
import sys
from pathlib import Path
import torch
from tqdm import tqdm
from marlearn.engine.checkpoints import latest_checkpoint, load_checkpoint
from marlearn.engine.evaluation import cifar10_classifier, reference_statistics
from marlearn.engine.hardware import autocast, cast_linear_layers, pick_device, pick_precision
from marlearn.files import pretrained
from marlearn.generate import generate
from marlearn.metrics import as_saved, Statistics
from .common import commit, machine, side_by_side, spread, table, write
from .heads import KINDS, RUNS

EXACT = {'ar_steps': 16, 'diff_steps': 100, 'cfg_scale': 5.0, 'guidance': 'constant'}
WAYS = { # name -> what differs from EXACT, source
    'exact': ({}, 'MAR (Li et al. 2024)'),
    'ddpm 50': ({'diff_steps': 50}, 'iDDPM (Nichol & Dhariwal 2021)'),
    'ddpm 25': ({'diff_steps': 25}, 'iDDPM (Nichol & Dhariwal 2021)'),
    'ddpm 10': ({'diff_steps': 10}, 'iDDPM (Nichol & Dhariwal 2021)'),
    'annealed 50 to 5': ({'diff_steps': (50, 5)}, 'DiSA (Zhao et al. 2025)'),
    'annealed 25 to 3': ({'diff_steps': (25, 3)}, 'DiSA (Zhao et al. 2025)'),
    'ddim 10': ({'sampler': 'ddim', 'diff_steps': 10}, 'DDIM (Song et al. 2020)'),
    'dpm++ 10': ({'sampler': 'dpm++', 'diff_steps': 10}, 'DPM-Solver++ (Lu et al. 2022)'),
    'dpm++ 6': ({'sampler': 'dpm++', 'diff_steps': 6}, 'DPM-Solver++ (Lu et al. 2022)'),
    'ddpm 25, 8 sets': ({'diff_steps': 25, 'ar_steps': 8}, 'MAR (Li et al. 2024)'),
    'ddpm 25, 4 sets': ({'diff_steps': 25, 'ar_steps': 4}, 'MAR (Li et al. 2024)'),
    'ddpm 25, 8 sets, exponential': ({'diff_steps': 25, 'ar_steps': 8, 'schedule': 'exponential'},
                                     'MaskGIT (Chang et al. 2022)'),
    'ddpm 25, 8 sets, checkerboard': ({'diff_steps': 25, 'ar_steps': 8, 'order': 'checkerboard'}, 'checkerboard order'),
    'ddpm 25, 8 sets, halton': ({'diff_steps': 25, 'ar_steps': 8, 'order': 'halton'},
                                'Halton order (Besnier et al. 2025)'),
    'ddpm 25, guided up to half': ({'diff_steps': 25, 'guidance': (0.0, 0.5)},
                                   'guidance interval (Kynkäänniemi et al. 2024)'),
    'dpm++ 6, 8 sets': ({'ar_steps': 8, 'sampler': 'dpm++', 'diff_steps': 6}, 'both'),
    'dpm++ 10, 8 sets': ({'ar_steps': 8, 'sampler': 'dpm++', 'diff_steps': 10}, 'both'),
    'annealed 25 to 3, 8 sets': ({'ar_steps': 8, 'diff_steps': (25, 3)}, 'both'),
    'ddpm 10, 4 sets': ({'ar_steps': 4, 'diff_steps': 10}, 'both'),
    'ddim 10, 4 sets': ({'ar_steps': 4, 'sampler': 'ddim', 'diff_steps': 10}, 'both'),
}
TRAINED = { # the same with heads of `benchmarks.heads`: name -> what differs, source, head
    'retrained head, ddpm 25': ({'diff_steps': 25}, 'for comparison', 'diffusion'),
    'retrained head, ddpm 25, 4 sets': ({'diff_steps': 25, 'ar_steps': 4}, 'for comparison', 'diffusion'),
    'flow 10': ({'diff_steps': 10}, 'flow matching (Lipman et al. 2022)', 'flow'),
    'flow 10, 4 sets': ({'diff_steps': 10, 'ar_steps': 4}, 'flow matching (Lipman et al. 2022)', 'flow'),
    'flow 5, 4 sets': ({'diff_steps': 5, 'ar_steps': 4}, 'flow matching (Lipman et al. 2022)', 'flow'),
    'energy': ({}, 'energy score (Shao et al. 2025)', 'energy'),
    'energy, 4 sets': ({'ar_steps': 4}, 'energy score (Shao et al. 2025)', 'energy'),
}

class Front:
    "The models, the judge, and how a way of drawing is judged"
    def __init__(self, device, with_heads):
        self.device, self.dtype = device, pick_precision(device)[0]
        c = load_checkpoint(pretrained('mar'), device=device)
        self.classes, self.tokenizer, self.models = c.classes, c.tokenizer, {'shipped': c.model}
        for kind in KINDS if with_heads else ():
            found = latest_checkpoint(RUNS/kind)
            if not found: raise SystemExit(f"{RUNS/kind} holds no head: run benchmarks.heads, or give --no-heads")
            self.models[kind] = load_checkpoint(found, device=device).model
        for model in self.models.values(): cast_linear_layers(model, self.dtype)
        self.extractor, self.reference = cifar10_classifier(), reference_statistics('cifar10')

    @torch.no_grad()
    def draw(self, labels, seed, options, head):
        "Tokens"
        generator = torch.Generator(self.device).manual_seed(seed)
        with autocast(self.device, self.dtype):
            return generate(self.models[head], labels.to(self.device), generator=generator, **(EXACT | options)).float()

    def judge(self, labels, batch, seed, options, head, name)->tuple[float, float]:
        "Frechet distance, and the share of pictures in which the classifier sees the class that was asked for"
        total, hits = Statistics(), 0
        for i, part in enumerate(tqdm(labels.split(batch), desc=f'{name}, seed {seed}', leave=False)):
            images = self.tokenizer.decode(self.draw(part, 1000*seed + i, options, head)).clamp(-1, 1)
            found = self.extractor(as_saved(images).cpu())
            total.update(found['features'])
            hits += (found['probabilities'].argmax(1) == part).sum().item()
        return total.distance(self.reference), hits/len(labels)

def row(name, way, seconds, judged, n_timed):
    "One way's row of the table"
    options, source, head = way
    distances, recognised = zip(*judged)
    s = spread(seconds[name])
    sd = statistics.stdev(distances) if len(distances) > 1 else None
    return {'way': name, 'head': head, 'source': source, 'options': options,
            'seconds_per_image': s['median']/n_timed, 'seconds': s,
            'ratio': spread(seconds['exact'])['median']/s['median'],
            'frechet': statistics.mean(distances), 'frechet_sd': sd,
            'frechet_all': distances, 'recognised': statistics.mean(recognised)}

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--n', type=int, default=500, help='pictures for every way and seed')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--batch', type=int, default=100)
    parser.add_argument('--no-heads', action='store_true', help='only the shipped head')
    parser.add_argument('--device', default=str(pick_device()))
    parser.add_argument('--out', type=Path, default=Path('benchmarks/results/front.json'))
    args = parser.parse_args()
    front = Front(args.device, not args.no_heads)
    ways = {name: (*way, 'shipped') for name, way in WAYS.items()} | ({} if args.no_heads else TRAINED)
    some = torch.arange(50) % len(front.classes)
    def case(options, head): return lambda: front.draw(some, 0, options, head)
    cases = {name: case(options, head) for name, (options, _, head) in ways.items()}
    seconds, _ = side_by_side(cases, args.repeats, args.device)
    labels, rows = torch.arange(args.n) % len(front.classes), []
    for name, way in ways.items():
        options, _, head = way
        judged = [front.judge(labels, args.batch, seed, options, head, name) for seed in args.seeds]
        rows.append(row(name, way, seconds, judged, len(some)))
        shown = [r | {'+-': r['frechet_sd'] or 0.0, 'x exact': r['ratio']} for r in rows[-1:]]
        columns = ['way', 'seconds_per_image', 'x exact', 'frechet', '+-', 'recognised']
        print(table(shown, columns).splitlines()[-1], flush=True)
    settings = {'exact': EXACT, 'n': args.n, 'seeds': args.seeds}
    command = ' '.join(['python -m benchmarks.front', *sys.argv[1:]])
    write({'what': 'quality and time of approximations', 'command': command,
           'settings': settings, 'machine': machine(args.device), 'commit': commit(), 'rows': rows}, args.out)
