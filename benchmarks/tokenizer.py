"""Pictures to tokens and back, plain and fast side by side: the shipped tokenizer on 32x32 pictures, or KL-16 on 256x256 (random weights)"""
import argparse, sys
from pathlib import Path
import torch
from torch.utils.flop_counter import FlopCounterMode
from marlearn.tokenizers import KLTokenizer, load_tokenizer, pretrained
from marlearn.train import autocast, pick_device, pick_precision
from marlearn.vae import VAE, kl16
from .common import commit, machine, peak_memory, peaks, report_memory, set_shares, side_by_side, spread, table, write

def make(name, device):
    "A tokenizer and the side of its pictures"
    if name == 'shipped': return load_tokenizer(pretrained('tokenizer')).to(device), 32
    torch.manual_seed(0)
    return KLTokenizer(VAE(kl16()).eval(), scale=0.2325).to(device), 256

@torch.no_grad()
def cases(name, batch, device):
    "What is done -> mode -> a function that does it; and the side of the pictures"
    (tokenizer, side), dtype = make(name, device), pick_precision(device)[0]
    images = torch.rand(batch, 3, side, side, device=device)*2 - 1
    tokens = torch.randn(batch, *tokenizer.moments(images[:1])[0].shape[1:], device=device)
    last = images.contiguous(memory_format=torch.channels_last)
    def fast(work):
        with autocast(device, dtype): return work()
    encode, decode = lambda pictures: tokenizer.moments(pictures), lambda: tokenizer.decode(tokens)
    return {'encode': {'plain': lambda: encode(images), 'fast': lambda: fast(lambda: encode(last))}, 'decode': {'plain': decode, 'fast': lambda: fast(decode)}}, side

@torch.no_grad()
def remember(name, what, mode, batch, device):
    "The memory that it takes"
    cases(name, batch, device)[0][what][mode]()
    report_memory(device)

@torch.no_grad()
def measure(name, batch, repeats, device, memory=True):
    "Rows of the table"
    (work, side), rows = cases(name, batch, device), []
    for what, modes in work.items():
        with FlopCounterMode(display=False) as counter: modes['plain']()
        seconds, flops = side_by_side(modes, repeats, device), counter.get_total_flops()
        for mode, all_seconds in seconds.items():
            s, held = spread(all_seconds), peak_memory(f"import benchmarks.tokenizer as t; t.remember({name!r}, {what!r}, {mode!r}, {batch}, {device!r})", min(3, repeats)) if memory else None
            rows.append({'tokenizer': name, 'what': what, 'mode': mode, 'batch': batch, 'side': side, 'seconds': s, 'ratio': spread(seconds['plain'])['median']/s['median'], 'seconds_per_image': s['median']/batch, 'images_per_second': batch/s['median'],
                         'flops': flops, 'gflops_per_second': flops/s['median']/1e9, 'peak_memory_gb': held and held['median'], 'peak_memory_gb_spread': held, 'all_seconds': all_seconds})
    return rows

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--tokenizer', nargs='+', default=['shipped'], choices=['shipped', 'kl16'])
    parser.add_argument('--batch', type=int, help='pictures side by side (default: 250, for KL-16 1)')
    parser.add_argument('--repeats', type=int, default=5)
    parser.add_argument('--device', default=str(pick_device()))
    parser.add_argument('--out', type=Path, default=Path('benchmarks/results/tokenizer.json'))
    args = parser.parse_args()
    print(f"machine: {machine(args.device)}")
    highest, rows = peaks(args.device), []
    for name in args.tokenizer: rows += measure(name, args.batch or {'shipped': 250, 'kl16': 1}[name], args.repeats, args.device)
    highest = peaks(args.device, highest); set_shares(rows, highest)
    print(table([r | {'seconds': r['seconds']['median'], 'x plain': r['ratio'], 'images/s': r['images_per_second'], 'of peak': r['share_of_peak'], 'memory GB': r['peak_memory_gb']} for r in rows], ['tokenizer', 'what', 'mode', 'seconds', 'x plain', 'images/s', 'of peak', 'memory GB']))
    write({'what': 'pictures to tokens and back', 'command': ' '.join(['python -m benchmarks.tokenizer', *sys.argv[1:]]), 'machine': machine(args.device), 'commit': commit(), 'peak_flops': highest, 'repeats': args.repeats, 'rows': rows}, args.out)
