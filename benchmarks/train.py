"Training steps side by side: plain, default, compiled"
import argparse
import copy
import sys
from pathlib import Path
import torch
from marlearn.engine.hardware import compile_model, pick_device, pick_precision, training_attention
from marlearn.mar import count_parameters, AutoregressiveModel
from marlearn.orders import draw_n_known, make_order
from marlearn.train import EMA, make_optimizer, step_generator, train_step, TrainConfig
from . import plain
from .common import MODELS, as_rows, commit, machine, peak_memory, report_memory, side_by_side, table, write

BATCH = {'tiny': 8, 'toy': 64, 'mar-b': 4, 'mar-l': 4, 'mar-h': 2}

def work(name, mode, batch, device, seed=0):
    "A function that does one training step, with the same random numbers each time"
    torch.manual_seed(seed)
    config = MODELS[name]
    model = AutoregressiveModel(config).to(device).train()
    tokens = torch.randn(batch, config.n_tokens, config.token_dim, device=device)
    labels = torch.arange(batch, device=device) % config.n_classes
    def generator(): return step_generator(seed, 0, device)
    if mode == 'plain':
        average = copy.deepcopy(model).requires_grad_(False)
        opt = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.02)
        def plain_step():
            g = generator()
            # the library draws dropout's seed first: the same mask for both
            torch.randint(2**62, (), generator=g, device=device)
            return plain.train_step(model, average, tokens, labels, opt, g)
        return plain_step
    ema, opt, dtype = EMA(model, 0.9999), make_optimizer(model, TrainConfig(lr=1e-4)), pick_precision(device)[0]
    compile_model(model, mode == 'compiled', device=device)
    def step():
        with training_attention(device, dtype): # as `engine.run.fit` does
            parts = train_step(model, tokens, labels, opt, generator=generator(), dtype=dtype)
        ema.update(model, 10**6)
        return parts
    return step

def known_tokens(name, batch, device, seed=0):
    "How many tokens of each image are known in the step that is timed"
    c, g = MODELS[name], step_generator(seed, 0, device)
    torch.randint(2**62, (), generator=g, device=device) # the draws that `train_step` makes before it
    make_order(c.order, batch, c.n_tokens, g, torch.device(device))
    return draw_n_known(c.n_tokens, g, c.min_mask_ratio, c.mask_std)

def remember(name, mode, batch, device):
    "Two steps, and the memory that they took"
    step = work(name, mode, batch, device)
    for _ in range(2): step()
    report_memory(device)

def measure(name, batch, repeats, device, modes=('plain', 'default', 'compiled'), memory=True):
    "One model's rows of the table"
    held = {} # first: later this process is large itself
    for mode in modes if memory else ():
        if mode == 'compiled': continue # the compiler's own memory would be counted
        code = f"import benchmarks.train as t; t.remember({name!r}, {mode!r}, {batch}, {device!r})"
        held[mode] = peak_memory(code, min(3, repeats))
    cases = {mode: work(name, mode, batch, device) for mode in modes}
    seconds, first = side_by_side(cases, repeats, device, before=1) # as in a run, where a step follows its like
    about = {'model': name, 'parameters': count_parameters(AutoregressiveModel(MODELS[name]))}
    rows = as_rows(seconds, first, batch, **about)
    for row in rows: row['peak_memory_gb'] = held.get(row['mode'])
    return rows

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--model', nargs='+', default=['toy'], choices=list(MODELS))
    parser.add_argument('--modes', nargs='+', default=['plain', 'default', 'compiled'],
                        choices=['plain', 'default', 'compiled'])
    parser.add_argument('--batch', type=int,
                        help='images per step (default: 64 for the toy, 4 for MAR-B and -L, 2 for MAR-H)')
    parser.add_argument('--repeats', type=int, default=5)
    parser.add_argument('--no-memory', action='store_true',
                        help='leave out the peak memory, which takes processes of its own')
    parser.add_argument('--device', default=str(pick_device()))
    parser.add_argument('--out', type=Path, default=Path('benchmarks/results/train.json'))
    args = parser.parse_args()
    print(f"machine: {machine(args.device)}")
    rows = []
    for name in args.model:
        rows += measure(name, args.batch or BATCH[name], args.repeats, args.device, args.modes, not args.no_memory)
        shown = [{'model': r['model'], 'mode': r['mode'], 'seconds': r['seconds']['median'], 'x plain': r['ratio'],
                  'first call': r['first_call'], 'memory GB': (r['peak_memory_gb'] or {}).get('median', '-')}
                  for r in rows]
        print(table(shown, list(shown[0])), flush=True)
    command = ' '.join(['python -m benchmarks.train', *sys.argv[1:]])
    write({'what': 'one training step', 'command': command, 'machine': machine(args.device), 'commit': commit(),
           'repeats': args.repeats, 'rows': rows}, args.out)
