"""Train other heads on the shipped CIFAR-10 model's backbone, for `benchmarks.front`

    python -m benchmarks.heads

The backbone stays as it is, so every head is asked the same questions; only the heads learn, a new diffusion head among
them, for comparison: it has had the same training as the others. About a quarter of an hour for each head on one core
(OMP_NUM_THREADS=1 and one `--head` per process use several)."""
import argparse
from dataclasses import replace
from pathlib import Path
import torch
from marlearn.engine.checkpoints import load_checkpoint
from marlearn.engine.hardware import pick_device, pick_precision
from marlearn.engine.pictures import load_data
from marlearn.engine.run import fit, RunConfig
from marlearn.files import pretrained
from marlearn.mar import AutoregressiveModel
from marlearn.train import encode_data, TrainConfig

KINDS, RUNS = ('diffusion', 'flow', 'energy'), Path('runs/heads')

def with_new_head(model:AutoregressiveModel, kind:str, seed:int=0)->AutoregressiveModel:
    "The same backbone, frozen, and a head of this kind and of the same size that knows nothing yet"
    head = replace(model.config.head, kind=kind, noise_levels=4, samples=4)
    torch.manual_seed(seed)
    new = AutoregressiveModel(replace(model.config, head=head))
    new.backbone.load_state_dict(model.backbone.state_dict())
    new.backbone.requires_grad_(False)
    return new

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--head', nargs='+', default=list(KINDS), choices=KINDS)
    parser.add_argument('--steps', type=int, default=8000)
    parser.add_argument('--data', default='cifar10')
    parser.add_argument('--out', type=Path, default=RUNS)
    args = parser.parse_args()
    device = pick_device()
    c, data = load_checkpoint(pretrained('mar'), device=device), load_data(args.data, 'train', 32)
    tokens = encode_data(c.tokenizer, data, device=device, dtype=pick_precision(device)[0])
    train = TrainConfig(steps=args.steps, batch_size=64, lr=1e-3, ema=0.999, sample_every=0, save_every=args.steps//4,
                        keep=1, log_every=100)
    for kind in args.head:
        model = with_new_head(c.model, kind)
        config = RunConfig(data=args.data, model=model.config, train=train)
        fit(model, tokens, config, args.out/kind, tokenizer=c.tokenizer, classes=c.classes, device=device)
