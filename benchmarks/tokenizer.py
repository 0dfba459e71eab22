"""Pictures to tokens and back, plain and fast side by side: the shipped tokenizer on 32x32 pictures, or KL-16 on 256x256 (random weights)"""
import argparse, sys
from pathlib import Path
import torch
from marlearn.tokenizers import KLTokenizer, load_tokenizer, pretrained
from marlearn.train import autocast, pick_device, pick_precision
from marlearn.vae import VAE, kl16
from .common import commit, machine, peak, side_by_side, spread, table, write

def make(name, device):
    "A tokenizer and the side of its pictures"
    if name == 'shipped': return load_tokenizer(pretrained('tokenizer')).to(device), 32
    torch.manual_seed(0)
    return KLTokenizer(VAE(kl16()).eval(), scale=0.2325).to(device), 256

@torch.no_grad()
def measure(name, batch, repeats, device):
    "Rows of the table"
    (tokenizer, side), dtype, rows = make(name, device), pick_precision(device)[0], []
    images = torch.rand(batch, 3, side, side, device=device)*2 - 1
    tokens = tokenizer.moments(images)[0]
    last = images.contiguous(memory_format=torch.channels_last)
    def fast(work):
        with autocast(device, dtype): return work()
    for what, plain, quick in (('encode', lambda: tokenizer.moments(images), lambda: tokenizer.moments(last)), ('decode', lambda: tokenizer.decode(tokens), lambda: tokenizer.decode(tokens))):
        seconds = side_by_side({'plain': plain, 'fast': lambda: fast(quick)}, repeats, device)
        for mode, all_seconds in seconds.items():
            s = spread(all_seconds)
            rows.append({'tokenizer': name, 'what': what, 'mode': mode, 'batch': batch, 'side': side, 'seconds': s, 'ratio': spread(seconds['plain'])['median']/s['median'], 'images_per_second': batch/s['median'], 'all_seconds': all_seconds})
    return rows

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--tokenizer', nargs='+', default=['shipped'], choices=['shipped', 'kl16'])
    parser.add_argument('--batch', type=int, help='pictures side by side (default: 250, for KL-16 1)')
    parser.add_argument('--repeats', type=int, default=5)
    parser.add_argument('--device', default=str(pick_device()))
    parser.add_argument('--out', type=Path, default=Path('benchmarks/results/tokenizer.json'))
    args = parser.parse_args()
    dtype, _ = pick_precision(args.device)
    highest, rows = {'fp32': peak(torch.float32, args.device), str(dtype).removeprefix('torch.'): peak(dtype, args.device)}, []
    for name in args.tokenizer: rows += measure(name, args.batch or {'shipped': 250, 'kl16': 1}[name], args.repeats, args.device)
    print(table([r | {'seconds': r['seconds']['median'], 'x plain': r['ratio'], 'images/s': r['images_per_second']} for r in rows], ['tokenizer', 'what', 'mode', 'seconds', 'x plain', 'images/s']))
    write({'what': 'pictures to tokens and back', 'command': ' '.join(['python -m benchmarks.tokenizer', *sys.argv[1:]]), 'machine': machine(args.device), 'commit': commit(), 'peak_flops': highest, 'repeats': args.repeats, 'rows': rows}, args.out)
