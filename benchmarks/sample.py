"""Generation, plain and fast side by side"""
import argparse, sys
from pathlib import Path
import torch
from marlearn.generate import generate
from marlearn.heads import head_kernel
from marlearn.mar import ImageModel
from marlearn.train import autocast, pick_device, pick_precision
from marlearn import plan as flops
from . import plain
from .common import MODELS, commit, machine, peak_memory, peaks, report_memory, set_shares, side_by_side, spread, table, write

BATCH = {'tiny': 4, 'toy': 16, 'mar-b': 2, 'mar-l': 2, 'mar-h': 1}
GUIDANCE = {'tiny': (1.0, 3.0), 'toy': (1.0, 3.0), 'mar-b': (2.9,), 'mar-l': (2.9,), 'mar-h': (2.9,)}
APPROXIMATE = {'ar_steps': 4, 'diff_steps': 10}           # the mode 'approximate': the fastest way on the front (benchmarks.front) that loses nothing

def make_model(name, device, seed=0):
    "Random weights, but none at zero: adaLN layers start there, and a network that answers zero would be no test"
    torch.manual_seed(seed)
    model = ImageModel(MODELS[name]).to(device).eval().requires_grad_(False)
    for p in model.head.parameters():
        if not p.any(): torch.nn.init.normal_(p, std=.02)
    return model

def cases(name, batch, scale, device, ar_steps=16, diff_steps=100, seed=0, compiled=False):
    "Functions that draw the same pictures"
    model, dtype = make_model(name, device), pick_precision(device)[0]
    labels = torch.arange(batch, device=device) % model.config.n_classes
    common = lambda: {'cfg_scale': scale, 'generator': torch.Generator(device).manual_seed(seed)}
    def fast(**options):
        with autocast(device, dtype): return generate(model, labels, **{'ar_steps': ar_steps, 'diff_steps': diff_steps} | options | common())
    return {'plain': lambda: plain.generate(model, labels, ar_steps=ar_steps, diff_steps=diff_steps, **common()), 'fast': fast} | ({'fast, compiled': lambda: fast(compile=True)} if compiled else {}) | {'approximate': lambda: fast(**APPROXIMATE)}

def remember(name, mode, batch, scale, device, ar_steps):
    "The memory that drawing takes: as much for few diffusion steps as for many"
    cases(name, batch, scale, device, ar_steps, diff_steps=5, compiled='compiled' in mode)[mode]()
    report_memory(device)

def measure(name, batch, scale, repeats, device, ar_steps=16, diff_steps=100, memory=True, compiled=False):
    "One setting's rows of the table"
    run = cases(name, batch, scale, device, ar_steps, diff_steps, compiled=compiled)
    memory = {mode: peak_memory(f"import benchmarks.sample as s; s.remember({name!r}, {mode!r}, {batch}, {scale}, {device!r}, {ar_steps})", min(3, repeats)) if memory else None for mode in run}
    seconds, rows = side_by_side(run, repeats, device), []
    necessary = flops.generation(MODELS[name], batch, ar_steps, diff_steps, scale != 1.0)
    for mode, all_seconds in seconds.items():
        s, exact = spread(all_seconds), mode != 'approximate'
        rows.append({'model': name, 'mode': mode, 'batch': batch, 'cfg_scale': scale} | ({'ar_steps': ar_steps, 'diff_steps': diff_steps} if exact else APPROXIMATE) |
                    {'seconds': s, 'ratio': spread(seconds['plain'])['median']/s['median'], 'seconds_per_image': s['median']/batch, 'images_per_second': batch/s['median'],
                     'flops_necessary': necessary if exact else None, 'gflops_per_second': necessary/s['median']/1e9 if exact else None,
                     'peak_memory_gb': memory[mode] and memory[mode]['median'], 'peak_memory_gb_spread': memory[mode], 'all_seconds': all_seconds})
    return rows

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--model', nargs='+', default=['toy'], choices=list(MODELS))
    parser.add_argument('--batch', type=int, help='pictures side by side (default: 16 for the toy, 2 for MAR-B and -L, 1 for MAR-H)')
    parser.add_argument('--ar-steps', type=int, default=16)
    parser.add_argument('--diff-steps', type=int, default=100)
    parser.add_argument('--compile', action='store_true', help='also with the step of the head compiled into one piece (on a GPU, or where head.cpp does not serve: see `marlearn info`)')
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--device', default=str(pick_device()))
    parser.add_argument('--out', type=Path, default=Path('benchmarks/results/sample.json'))
    args = parser.parse_args()
    print(f"machine: {machine(args.device)}")
    kernel, highest, rows = head_kernel()[1] if torch.device(args.device).type == 'cpu' else 'made for processors', peaks(args.device), []
    for name in args.model:
        for scale in GUIDANCE[name]:
            rows += measure(name, args.batch or BATCH[name], scale, args.repeats, args.device, args.ar_steps, args.diff_steps, compiled=args.compile)
            highest = peaks(args.device, highest); set_shares(rows, highest)
            print(table([r | {'seconds': r['seconds']['median'], 'x plain': r['ratio'], 's/image': r['seconds_per_image'], 'of peak': r['share_of_peak'] or '-', 'memory GB': r['peak_memory_gb']} for r in rows],
                        ['model', 'mode', 'cfg_scale', 'ar_steps', 'diff_steps', 'seconds', 'x plain', 's/image', 'of peak', 'memory GB']))
    write({'what': 'drawing pictures (tokens only)', 'command': ' '.join(['python -m benchmarks.sample', *sys.argv[1:]]), 'machine': machine(args.device), 'head.cpp': kernel, 'commit': commit(), 'peak_flops': highest, 'repeats': args.repeats, 'rows': rows}, args.out)
