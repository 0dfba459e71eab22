"""The whole path of an ImageNet run at a size that a laptop can do: cache latents with a KL-16-shaped tokenizer, train
on two processes, stop, resume, sample, evaluate. All through the command line, as one would on a cluster

    python scripts/rehearse.py imagenet-sample.tar --out runs/rehearsal
        MAR-B as it is: about half an hour and 12 GB of memory on two cores
    python scripts/rehearse.py imagenet-sample.tar --out runs/rehearsal --small --pictures 16
        a narrow tokenizer and model: a minute

The tokenizer's weights are random: what is rehearsed are files, processes and shapes, and the pictures at the end are
noise. Give --tokenizer for a real one."""
import argparse, os, shutil, subprocess, sys, tarfile, time
from pathlib import Path
import torch
from marlearn.engine.checkpoints import latest_checkpoint
from marlearn.tokenizers import KLTokenizer, save_tokenizer
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
    launcher, shown = [sys.executable], 'marlearn'
    if processes > 1:
        launcher += ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', str(processes)]
        shown = f'torchrun --nproc_per_node={processes} -m marlearn'
    words, start = [str(w) for w in words], time.perf_counter()
    print('$', shown, *words, flush=True)
    environment = {'OMP_NUM_THREADS': '1', 'MARLEARN_OFFLINE': '1'} | os.environ
    subprocess.run([*launcher, '-m', 'marlearn', *words], check=True, env=environment)
    print(f'  {time.perf_counter() - start:.0f} s\n', flush=True)

args.out.mkdir(parents=True, exist_ok=True)
folder, side = args.out/'pictures', 64 if args.small else 256
if not folder.exists():                                                    # a few of many: each class keeps its folder
    with tarfile.open(args.pictures_from) as tar:
        members = [m for m in tar if m.isfile() and m.name.lower().endswith(('.jpg', '.jpeg', '.png'))]
        for m in members[:args.pictures]:
            to = folder/Path(m.name).parent.name/Path(m.name).name
            to.parent.mkdir(parents=True, exist_ok=True)
            with tar.extractfile(m) as source, open(to, 'wb') as target:
                shutil.copyfileobj(source, target)
tokenizer = args.tokenizer or args.out/'tokenizer'
if not args.tokenizer and not tokenizer.exists():
    torch.manual_seed(0)
    shape = VAEConfig(**(kl16().__dict__ | {'width': 32})) if args.small else kl16()
    save_tokenizer(KLTokenizer(VAE(shape), scale=0.2325), tokenizer)

out, processes = args.out, args.processes
model = ['--preset', 'tiny' if args.small else 'mar-b-imagenet256']
train = ['train', *model, '--data', out/'latents', '--img-size', side, '--out', out/'run', '--train.batch-size', 4,
         '--train.log-every', 1, '--train.sample-every', 0, '--train.warmup', 0.5, '--auto-resume']
sample = ['sample', '--checkpoint', out/'run', '--per-class', 1, '--ar-steps', 4, '--diff-steps', 10]
marlearn('plan', *model, '--img-size', side, '--gpus', processes, '--train.batch-size', 4, '--pictures', args.pictures)
marlearn('cache', '--data', folder, '--tokenizer', tokenizer, '--img-size', side, '--shard-size', 4, '--batch-size', 2,
         '--out', out/'latents', processes=processes)
marlearn('cache', '--data', folder, '--tokenizer', tokenizer, '--out', out/'latents', '--verify')
for steps in (2, 4):                                                       # the second call resumes the first
    marlearn(*train, '--train.steps', steps, '--train.save-every', 2, processes=processes)
marlearn(*sample, '--out', out/'samples.png')
marlearn(*sample, '--batch-size', 2, '--out', out/'samples', processes=processes)
marlearn('evaluate', '--checkpoint', out/'run', '--data', folder, '--num-images', 2*args.pictures, '--seeds', 1,
         '--ar-steps', 2, '--diff-steps', 4, '--cfg-scale', 1.0, '--batch-size', 8, '--out', out/'evaluation.json',
         '--any-reference', processes=processes)                           # pictures of any size will do here
print(f"{latest_checkpoint(args.out/'run')} is the end of the run")
