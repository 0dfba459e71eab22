"""The whole path of an ImageNet run at a size that a laptop can do: cache latents with a KL-16-shaped tokenizer, train on two processes, stop, resume, sample, evaluate. All through the command line, as one would on a cluster

    python scripts/rehearse.py imagenet-sample.tar --out runs/rehearsal                        # MAR-B as it is; about half an hour and 12 GB of memory on two cores
    python scripts/rehearse.py imagenet-sample.tar --out runs/rehearsal --small --pictures 16   # a narrow tokenizer and model: a minute

The tokenizer's weights are random: what is rehearsed are files, processes and shapes, and the pictures at the end are noise. Give --tokenizer for a real one."""
import argparse, os, shutil, subprocess, sys, tarfile, time
from pathlib import Path
import torch
from marlearn.tokenizers import KLTokenizer, save_tokenizer
from marlearn.engine.checkpoints import latest_checkpoint
from marlearn.vae import kl16, VAE, VAEConfig

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument('pictures_from', type=Path, help='an image folder or an uncompressed tar of one')
parser.add_argument('--out', type=Path, default=Path('runs/rehearsal'))
parser.add_argument('--pictures', type=int, default=32, help='how many of them, spread over the classes')
parser.add_argument('--processes', type=int, default=2)
parser.add_argument('--tokenizer', type=Path, help='a folder; nothing: KL-16 with random weights')
parser.add_argument('--small', action='store_true')
args = parser.parse_args()

def marlearn(*words, processes=1):
    "Run a command, show it, and say how long it took"
    launcher = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', str(processes)] if processes > 1 else [sys.executable]
    words, start = [str(w) for w in words], time.perf_counter()
    print('$', f'torchrun --nproc_per_node={processes} -m marlearn' if processes > 1 else 'marlearn', *words, flush=True)
    subprocess.run([*launcher, '-m', 'marlearn', *words], check=True, env={'OMP_NUM_THREADS': '1', 'MARLEARN_OFFLINE': '1'} | os.environ)
    print(f'  {time.perf_counter() - start:.0f} s\n', flush=True)

args.out.mkdir(parents=True, exist_ok=True)
folder, side = args.out/'pictures', 64 if args.small else 256
if not folder.exists():                                                    # a few of many: each class keeps its folder
    with tarfile.open(args.pictures_from) as tar:
        for m in [m for m in tar if m.isfile() and m.name.lower().endswith(('.jpg', '.jpeg', '.png'))][:args.pictures]:
            to = folder/Path(m.name).parent.name/Path(m.name).name
            to.parent.mkdir(parents=True, exist_ok=True)
            with tar.extractfile(m) as source, open(to, 'wb') as target: shutil.copyfileobj(source, target)
tokenizer = args.tokenizer or args.out/'tokenizer'
if not args.tokenizer and not tokenizer.exists():
    torch.manual_seed(0)
    shape = VAEConfig(**(kl16().__dict__ | {'width': 32})) if args.small else kl16()
    save_tokenizer(KLTokenizer(VAE(shape), scale=0.2325), tokenizer)

model = ['--preset', 'mar-b-imagenet256'] if not args.small else ['--preset', 'tiny']
train = ['train', *model, '--data', args.out/'latents', '--img-size', side, '--out', args.out/'run', '--train.batch-size', 4, '--train.log-every', 1, '--train.sample-every', 0, '--train.warmup', 0.5, '--auto-resume']
marlearn('plan', *model, '--img-size', side, '--gpus', args.processes, '--train.batch-size', 4, '--pictures', args.pictures)
marlearn('cache', '--data', folder, '--tokenizer', tokenizer, '--img-size', side, '--shard-size', 4, '--batch-size', 2, '--out', args.out/'latents', processes=args.processes)
marlearn('cache', '--data', folder, '--tokenizer', tokenizer, '--out', args.out/'latents', '--verify')
marlearn(*train, '--train.steps', 2, '--train.save-every', 2, processes=args.processes)
marlearn(*train, '--train.steps', 4, '--train.save-every', 2, processes=args.processes)
marlearn('sample', '--checkpoint', args.out/'run', '--per-class', 1, '--ar-steps', 4, '--diff-steps', 10, '--out', args.out/'samples.png')
marlearn('sample', '--checkpoint', args.out/'run', '--per-class', 1, '--ar-steps', 4, '--diff-steps', 10, '--batch-size', 2, '--out', args.out/'samples', processes=args.processes)
marlearn('evaluate', '--checkpoint', args.out/'run', '--data', folder, '--num-images', 2*args.pictures, '--seeds', 1, '--ar-steps', 2, '--diff-steps', 4, '--cfg-scale', 1.0, '--batch-size', 8, '--out', args.out/'evaluation.json', processes=args.processes)
print(f"{latest_checkpoint(args.out/'run')} is the end of the run")
