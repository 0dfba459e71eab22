"""Training steps, plain and fast side by side"""
import argparse, copy, sys
from pathlib import Path
import torch
from marlearn.mar import ImageModel, count_parameters
from marlearn.train import EMA, TrainConfig, faster, keep_memory, lighter, make_optimizer, pick_device, pick_precision, step_generator, train_step
from . import plain
from .common import MODELS, commit, machine, peak_memory, peaks, report_memory, set_shares, side_by_side, spread, table, write

RECOMPUTED = {'fast, parts recomputed': {'on': False, 'parts': True}, 'fast, recomputed': {'on': True}}      # how `lighter` is told
BATCH = {'tiny': 8, 'toy': 64, 'mar-b': 4, 'mar-l': 4, 'mar-h': 2}

def work(name, mode, batch, device, seed=0):
    "A function that does one training step, the same random numbers each time, and the share of it that is necessary work"
    torch.manual_seed(seed)
    config = MODELS[name]
    model = ImageModel(config).to(device).train()
    tokens, labels = torch.randn(batch, config.n_tokens, config.token_dim, device=device), torch.arange(batch, device=device) % config.n_classes
    generator = lambda: step_generator(seed, 0, device)
    if mode == 'plain':
        average, opt = copy.deepcopy(model).requires_grad_(False), torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.02)
        def plain_step():
            g = generator()
            torch.randint(2**62, (), generator=g, device=device)                # the library draws dropout's seed first: the same order and mask for both
            return plain.train_step(model, average, tokens, labels, opt, g)
        return plain_step
    train = TrainConfig(lr=1e-4)
    ema, opt, (dtype, _) = EMA(model, 0.9999), make_optimizer(model, train), pick_precision(device)
    if mode == 'fast, compiled': faster(model).__enter__()                      # for as long as the model lives
    def step(recomputed=RECOMPUTED.get(mode, {'on': False})):
        keep_memory(True)                                                       # as `fit` does; it holds for the whole process, so the plain way has it as well
        with lighter(model, dtype=dtype, **recomputed): parts = train_step(model, tokens, labels, opt, generator=generator(), dtype=dtype)
        ema.update(model, 10**6)
        return parts
    return step

def known_tokens(name, batch, device, seed=0):
    "How many tokens of each image are known in the step that is timed"
    from marlearn.orders import draw_n_known, make_order
    c, g = MODELS[name], step_generator(seed, 0, device)
    torch.randint(2**62, (), generator=g, device=device)                        # the draws that `train_step` makes before it
    make_order(c.order, batch, c.n_tokens, g, torch.device(device))
    return draw_n_known(c.n_tokens, g, c.min_mask_ratio, c.mask_std)

def remember(name, mode, batch, device):
    "Two steps, and the memory that they took"
    step = work(name, mode, batch, device)
    for _ in range(2): step()
    report_memory(device)

def measure(name, batch, repeats, device, memory=True, compiled=False):
    "One model's rows of the table"
    from marlearn import plan as flops                                          # here: the processes whose memory is measured need not load what it imports
    modes = ['plain', 'fast', *RECOMPUTED] + ['fast, compiled']*compiled
    memory = {mode: peak_memory(f"import benchmarks.train as t; t.remember({name!r}, {mode!r}, {batch}, {device!r})", min(3, repeats)) if memory else None for mode in modes}      # first: later this process is large itself
    fast = work(name, 'fast', batch, device)                                    # one model for three of its modes: more would not fit
    cases = {'plain': work(name, 'plain', batch, device), 'fast': fast} | {mode: lambda how=how: fast(how) for mode, how in RECOMPUTED.items()} | ({'fast, compiled': work(name, 'fast, compiled', batch, device)} if compiled else {})
    seconds, rows = side_by_side(cases, repeats, device, before=2), []            # as in a run, where a step follows its like
    necessary = flops.training(MODELS[name], batch, known_tokens(name, batch, device))
    for mode, all_seconds in seconds.items():
        s = spread(all_seconds)
        rows.append({'model': name, 'mode': mode, 'batch': batch, 'parameters': count_parameters(ImageModel(MODELS[name])), 'seconds': s, 'ratio': spread(seconds['plain'])['median']/s['median'],
                     'images_per_second': batch/s['median'], 'flops_necessary': necessary, 'gflops_per_second': necessary/s['median']/1e9,
                     'peak_memory_gb': memory[mode] and memory[mode]['median'], 'peak_memory_gb_spread': memory[mode], 'all_seconds': all_seconds})
    return rows

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--model', nargs='+', default=['toy'], choices=list(MODELS))
    parser.add_argument('--batch', type=int, help='images per step (default: 64 for the toy, 4 for MAR-B and -L, 2 for MAR-H)')
    parser.add_argument('--repeats', type=int, default=7)
    parser.add_argument('--compile', action='store_true', help='also with torch.compile (one more model in memory, and minutes before the first step)')
    parser.add_argument('--device', default=str(pick_device()))
    parser.add_argument('--out', type=Path, default=Path('benchmarks/results/train.json'))
    args = parser.parse_args()
    print(f"machine: {machine(args.device)}")
    highest, rows = peaks(args.device), []
    for name in args.model:
        rows += measure(name, args.batch or BATCH[name], args.repeats, args.device, compiled=args.compile)
        highest = peaks(args.device, highest); set_shares(rows, highest)
        print(table([r | {'seconds': r['seconds']['median'], 'memory GB': r['peak_memory_gb'], 'x plain': r['ratio'], 'images/s': r['images_per_second'], 'of peak': r['share_of_peak']} for r in rows],
                    ['model', 'mode', 'seconds', 'x plain', 'images/s', 'of peak', 'memory GB']))
    write({'what': 'one training step', 'command': ' '.join(['python -m benchmarks.train', *sys.argv[1:]]), 'machine': machine(args.device), 'commit': commit(), 'peak_flops': highest, 'repeats': args.repeats, 'rows': rows}, args.out)
