"""Train the VQ tokenizer that ships in data/pretrained/vq and write its result file. From the repository's root:

    python scripts/ship_vq.py
"""
import argparse, json, platform, time
from dataclasses import asdict, replace
from pathlib import Path
import torch
from marlearn.data import join_data, load_shapes
from marlearn.engine.pictures import load_data
from marlearn.engine.tokenizers import fit_tokenizer, TOKENIZERS
from marlearn.tokenizers import save_tokenizer
from marlearn.vae import psnr, ssim
from marlearn.vq import code_usage

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument('--steps', type=int, default=TOKENIZERS['small-vq'].steps, help='of 16 pictures each')
parser.add_argument('--out', type=Path, default=Path('data/pretrained/vq'))
args = parser.parse_args()

config = replace(TOKENIZERS['small-vq'], steps=args.steps)
started, cpu_started = time.time(), time.process_time()
history, recent = [], []

def watch(step, parts):
    recent.append({k: v.item() for k, v in parts.items()})
    if (step + 1) % 100 == 0:
        means = {k: sum(r[k] for r in recent)/len(recent) for k in recent[0]}
        history.append({'step': step + 1} | means)
        recent.clear()
        print(json.dumps({k: round(v, 4) for k, v in history[-1].items()}), flush=True)

tokenizer = fit_tokenizer(config, join_data(load_data('cifar10'), load_shapes(n=8000)), callback=watch)
save_tokenizer(tokenizer, args.out)                                    # first of all: what follows only measures
machine = f'{platform.machine()}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}'
report = {'settings': asdict(config), 'train_pictures': 'CIFAR-10 train + 8000 shapes',
          'seconds': round(time.time() - started), 'cpu_seconds': round(time.process_time() - cpu_started),
          'machine': machine, 'torch': torch.__version__, 'scale': tokenizer.scale,
          'bytes': (args.out/'tokenizer.safetensors').stat().st_size}
for name, data in (('cifar10 test', load_data('cifar10', 'test')), ('shapes test', load_shapes('test'))):
    images = data.batch(range(0, len(data), len(data)//1000))[0]
    with torch.no_grad():
        indices = torch.cat([tokenizer.indices(part) for part in images.split(100)])
        copies = torch.cat([tokenizer.decode(tokenizer.from_indices(part)) for part in indices.split(100)])
    measured = {'psnr': psnr(images, copies).mean().item(), 'ssim': ssim(images, copies).mean().item()}
    measured |= code_usage(indices, config.codes)
    report |= {f'{k}, 1000 pictures of {name}': v for k, v in measured.items()}
report['history'] = history
(args.out/'report.json').write_text(json.dumps(report, indent=1), encoding='utf-8')
print(json.dumps({k: v for k, v in report.items() if k != 'history'}, indent=1))
