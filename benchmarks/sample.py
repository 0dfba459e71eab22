"Drawing side by side: plain, default, compiled, and the fastest way that loses nothing measurable"
import argparse
import json
from pathlib import Path
import torch
from marlearn.engine.hardware import autocast, cast_linear_layers, compile_model, pick_device, pick_precision
from marlearn.generate import generate
from marlearn.mar import AutoregressiveModel
from . import plain
from .common import MODELS, as_rows, commit, machine, peak_memory, report_memory, side_by_side, table, write

BATCH = {'tiny': 4, 'toy': 16, 'mar-b': 2, 'mar-l': 2, 'mar-h': 1}
GUIDANCE = {'tiny': (1.0, 3.0), 'toy': (1.0, 3.0), 'mar-b': (2.9,), 'mar-l': (2.9,), 'mar-h': (2.9,)}
# of the ways in benchmarks.front that three seeds cannot tell from the exact one
FASTEST = {'ar_steps': 4, 'diff_steps': 10}
MODES = ('plain', 'default', 'compiled', 'fastest')

def make_model(name, device, seed=0):
    "Random weights, but none at zero: adaLN layers start there, and a network that answers zero would be no test"
    torch.manual_seed(seed)
    model = AutoregressiveModel(MODELS[name]).to(device).eval().requires_grad_(False)
    for p in model.head.parameters():
        if not p.any(): torch.nn.init.normal_(p, std=.02)
    return model

def work(name, mode, batch, scale, device, ar_steps=16, diff_steps=100, seed=0):
    "A function that draws the same pictures each time"
    model, dtype = make_model(name, device), pick_precision(device)[0]
    labels = torch.arange(batch, device=device) % model.config.n_classes
    options = {'ar_steps': ar_steps, 'diff_steps': diff_steps, 'cfg_scale': scale}
    if mode == 'fastest': options |= FASTEST
    def generator(): return torch.Generator(device).manual_seed(seed)
    if mode == 'plain': return lambda: plain.generate(model, labels, generator=generator(), **options)
    cast_linear_layers(model, dtype)
    compile_model(model, mode == 'compiled', device=device, drawing=True)
    def draw():
        with autocast(device, dtype): return generate(model, labels, generator=generator(), **options)
    return draw

def remember(name, mode, batch, scale, device, ar_steps):
    "The memory that drawing takes: as much for few diffusion steps as for many"
    work(name, mode, batch, scale, device, ar_steps, diff_steps=5)()
    report_memory(device)

def measure(name, batch, scale, repeats, device, ar_steps=16, diff_steps=100, modes=MODES, memory=True):
    "One setting's rows of the table"
    held = {}
    for mode in modes if memory else ():
        if mode == 'compiled': continue # the compiler's own memory would be counted
        call = f"remember({name!r}, {mode!r}, {batch}, {scale}, {device!r}, {ar_steps})"
        code = f"import benchmarks.sample; benchmarks.sample.{call}"
        held[mode] = peak_memory(code, min(3, repeats))
    cases = {mode: work(name, mode, batch, scale, device, ar_steps, diff_steps) for mode in modes}
    seconds, first = side_by_side(cases, repeats, device)
    rows = as_rows(seconds, first, batch, model=name, cfg_scale=scale)
    for row in rows:
        row |= FASTEST if row['mode'] == 'fastest' else {'ar_steps': ar_steps, 'diff_steps': diff_steps}
        row['peak_memory_gb'] = held.get(row['mode'])
    return rows

def earlier_rows(path, machine, models):
    "What this kind of machine measured of other models: MAR-B takes so long that the toy may be measured again alone"
    if not path.exists(): return []
    earlier = json.loads(path.read_text(encoding='utf-8'))
    return [row for row in earlier['rows'] if row['model'] not in models] if earlier['machine'] == machine else []

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--model', nargs='+', default=['toy'], choices=list(MODELS))
    parser.add_argument('--modes', nargs='+', default=list(MODES), choices=MODES)
    parser.add_argument('--batch', type=int,
                        help='pictures side by side (default: 16 for the toy, 2 for MAR-B and -L, 1 for MAR-H)')
    parser.add_argument('--ar-steps', type=int, default=16)
    parser.add_argument('--diff-steps', type=int, default=100)
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--no-memory', action='store_true',
                        help='leave out the peak memory, which takes processes of its own')
    parser.add_argument('--device', default=str(pick_device()))
    parser.add_argument('--out', type=Path, default=Path('benchmarks/results/sample.json'))
    args = parser.parse_args()
    print(f"machine: {machine(args.device)}")
    rows = []
    for name in args.model:
        for scale in GUIDANCE[name]:
            batch = args.batch or BATCH[name]
            rows += measure(name, batch, scale, args.repeats, args.device, args.ar_steps, args.diff_steps, args.modes,
                            not args.no_memory)
            shown = [{'model': r['model'], 'guidance': r['cfg_scale'], 'mode': r['mode'],
                      'seconds': r['seconds']['median'],
                      'x plain': r['ratio'], 'first call': r['first_call'],
                      'memory GB': (r['peak_memory_gb'] or {}).get('median', '-')} for r in rows]
            print(table(shown, list(shown[0])), flush=True)
    rows = [row | {'repeats': args.repeats, 'commit': commit()} for row in rows]
    rows += earlier_rows(args.out, machine(args.device), args.model)
    rows.sort(key=lambda row: list(MODELS).index(row['model']))
    command = f"python -m benchmarks.sample --model {' '.join(dict.fromkeys(row['model'] for row in rows))}"
    write({'what': 'drawing pictures (tokens only)', 'command': command, 'machine': machine(args.device), 'rows': rows},
          args.out)
