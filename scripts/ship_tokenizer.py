"""Train the tokenizer that ships in data/pretrained/tokenizer and write its result file. From the repository's root:

    python scripts/ship_tokenizer.py
"""
import argparse, json, platform, time
from pathlib import Path
import torch
from marlearn.data import join_data, load_shapes
from marlearn.engine.pictures import load_data
from marlearn.tokenizers import KLTokenizer, save_tokenizer
from marlearn.vae import fit_vae, latent_scale, psnr, VAE, VAEConfig

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument('--steps', type=int, default=4800, help='of 16 pictures each')
parser.add_argument('--out', type=Path, default=Path('data/pretrained/tokenizer'))
args = parser.parse_args()

torch.manual_seed(0)
config = VAEConfig(width=16, mults=(1, 2, 4), latent_channels=6, embed_dim=6)
settings = {'steps': args.steps, 'batch_size': 16, 'lr': 1.5e-3, 'kl_weight': 5e-3, 'seed': 0}
vae, started = VAE(config), time.time()
cifar = load_data('cifar10')
history = fit_vae(vae, join_data(cifar, load_shapes(n=8000)), **settings)

generator = torch.Generator().manual_seed(1)
scale = latent_scale(vae, cifar.batch(range(0, len(cifar), 50))[0], generator)
tokenizer = KLTokenizer(vae, scale=scale, patch=2)
save_tokenizer(tokenizer, args.out)
machine = f'{platform.machine()}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}'
report = {'settings': settings, 'train_pictures': 'CIFAR-10 train + 8000 shapes',
          'seconds': round(time.time() - started), 'machine': machine, 'torch': torch.__version__, 'scale': scale}
for name, data in (('cifar10 test', load_data('cifar10', 'test')), ('shapes test', load_shapes('test'))):
    images = data.batch(range(0, len(data), len(data)//1000))[0]
    with torch.no_grad():
        copies = tokenizer.reconstruct(images)
    report[f'psnr, 1000 pictures of {name}'] = psnr(images, copies).mean().item()
report['history'] = history[::5]
(args.out/'report.json').write_text(json.dumps(report, indent=1), encoding='utf-8')
print(json.dumps({k: v for k, v in report.items() if k != 'history'}, indent=1))
