"""Time to quality: distance against minutes of training, for the paper's recipe and for ours, on the same tokens

    python -m benchmarks.quality --minutes 7.5

Both train the same backbone on the same CIFAR-10 pictures and tokenizer. 'paper' follows MAR App. B and the official
release where a recipe can: head of 3 blocks x 1024 with 4 noise levels, mask ratios from 0.7 up, dropout 0.1, a
constant rate of 8e-4 after the warm-up, an average with decay 0.9999 from the first step on, and every picture goes
through the tokenizer each time it is seen. 'ours' is what `marlearn demo` trains (preset 'small'): its tokens are
encoded once, and that time counts. The number of steps follows from the speed measured at the start. Run it on an idle
machine."""
import argparse
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
import numpy as np
import torch
from marlearn.engine.evaluation import cifar10_classifier, reference_statistics
from marlearn.engine.hardware import autocast, pick_device, pick_precision
from marlearn.engine.pictures import load_data
from marlearn.engine.presets import small
from marlearn.files import pretrained
from marlearn.generate import generate
from marlearn.heads import HeadConfig
from marlearn.metrics import as_saved, Statistics
from marlearn.tokenizers import load_tokenizer
from marlearn.train import (batch_index, EMA, encode_data, learning_rate, make_optimizer, new_model, resolve_config,
                            step_generator, train_step)
from .common import commit, machine, ROOT, table, write

DRAWING = {'cfg_scale': 3.0, 'guidance': 'constant', 'diff_steps': 25, 'temperature': 1.0}

def recipes():
    "name -> (model, training, are tokens kept?)"
    run = small()
    head = HeadConfig(blocks=3, width=1024, noise_levels=4, x0_limit=run.model.head.x0_limit)
    paper_model = replace(run.model, head=head, min_mask_ratio=0.7, mask_std=0.25, dropout=0.1)
    paper_train = replace(run.train, lr=8e-4, decay=False, ema=0.9999, paper_exact=True)
    return {'ours': (run.model, run.train, True), 'paper': (paper_model, paper_train, False)}

class Fresh:
    "Tokens of pictures that go through the tokenizer each time"
    def __init__(self, tokenizer, data, dtype): self.tokenizer, self.data, self.dtype = tokenizer, data, dtype
    def __len__(self): return 2*len(self.data)                     # each also mirrored, as `encode_data` has them
    def batch(self, index, generator, device):
        flip = (index >= len(self.data)).numpy()
        images, labels = self.data.batch(index.numpy() % len(self.data), flip=flip, device=device)
        with torch.no_grad(), autocast(device, self.dtype): mean, std = self.tokenizer.moments(images)
        tokens = mean.float() + std.float()*torch.randn(mean.shape, generator=generator, device=device)
        return tokens, torch.as_tensor(labels, device=device)

@torch.no_grad()
def judge(model, tokenizer, extractor, reference, n, device, dtype, seed):
    "Frechet distance and recognised share of n pictures, as many of each class"
    labels = torch.arange(model.config.n_classes, device=device).repeat_interleave(n//model.config.n_classes)
    seen, right = Statistics(), 0
    for k, part in enumerate(labels.split(100)):
        with autocast(device, dtype):
            tokens = generate(model, part, generator=torch.Generator(device).manual_seed(1000*seed + k), **DRAWING)
            images = tokenizer.decode(tokens.float()).float()
        found = extractor(as_saved(images))
        seen.update(found['features'])
        right += (found['probabilities'].argmax(1) == part).sum().item()
    return seen.distance(reference), right/len(labels)

def train(name, data, tokenizer, minutes, marks, n, device, seed):
    "One recipe: a row at each of the marks (minutes of training)"
    model_config, config, keep = recipes()[name]
    dtype = pick_precision(device)[0]
    model_config = resolve_config(model_config, tokenizer, data.images.shape[2], len(data.classes))
    extractor, reference = cifar10_classifier().to(device), reference_statistics('cifar10-test')
    start = time.perf_counter()
    if keep: tokens = encode_data(tokenizer, data, dtype=dtype, device=device, quiet=True)
    else: tokens = Fresh(tokenizer, data, dtype)
    encoding = time.perf_counter() - start

    def begin(config):
        torch.manual_seed(seed)
        model = new_model(model_config, tokenizer).to(device).train()
        return model, make_optimizer(model, config), EMA(model, config.ema, warm_up=not config.paper_exact)

    def one_step(step, config, model, opt, ema):
        generator = step_generator(seed, step, device)
        index = batch_index(len(tokens), config.batch_size, step, seed)
        batch, labels = tokens.batch(index, generator, device)
        for group in opt.param_groups: group['lr'] = learning_rate(config, step)
        train_step(model, batch, labels, opt, generator=generator, clip=config.clip, dtype=dtype,
                   every_token=config.paper_exact)
        ema.update(model, step)

    parts = begin(config)                                           # a model to throw away, to learn how fast it goes
    one_step(0, config, *parts)
    start = time.perf_counter()
    for step in range(1, 11): one_step(step, config, *parts)
    steps = max(10, round((60*minutes - encoding)/((time.perf_counter() - start)/10)))
    config = replace(config, steps=steps, seed=seed)
    model, opt, ema = begin(config)
    ends = {max(1, round(steps*(60*m - encoding)/(60*minutes - encoding))): m for m in marks if encoding < 60*m}
    ends |= {steps: minutes}
    trained, rows = 0.0, []
    for step in range(steps):
        start = time.perf_counter()
        one_step(step, config, model, opt, ema)
        trained += time.perf_counter() - start
        if step + 1 not in ends: continue
        for weights, judged in (('averaged', ema.model), ('raw', model.eval())):
            distance, right = judge(judged, tokenizer, extractor, reference, n, device, dtype, seed)
            rows.append({'recipe': name, 'seed': seed, 'minutes': ends[step + 1], 'weights': weights, 'step': step + 1,
                         'pictures_seen': (step + 1)*config.batch_size, 'frechet': distance, 'recognised': right,
                         'seconds': {'encoding': encoding, 'training': trained}})
            print(table(rows[-1:], ['recipe', 'seed', 'minutes', 'weights', 'step', 'frechet', 'recognised']),
                  flush=True)
        model.train()
    return rows

def summary(rows):
    "Mean and range over seeds"
    found = {}
    for row in rows: found.setdefault((row['recipe'], row['weights'], row['minutes']), []).append(row['frechet'])
    return [{'recipe': r, 'weights': w, 'minutes': m, 'seeds': len(d), 'frechet': statistics.mean(d), 'min': min(d),
             'max': max(d)} for (r, w, m), d in found.items()]

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--minutes', type=float, default=7.5, help='of training, for each recipe and seed')
    parser.add_argument('--marks', type=float, nargs='*', default=[2, 4], help='minutes at which it is judged too')
    parser.add_argument('--n', type=int, default=1000, help='pictures drawn at each mark')
    parser.add_argument('--pictures', type=int, default=50_000, help='of CIFAR-10 to train on')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0])
    parser.add_argument('--recipes', nargs='+', choices=['ours', 'paper'], default=['ours', 'paper'])
    parser.add_argument('--out', type=Path, default=ROOT/'benchmarks'/'results'/'quality.json')
    args = parser.parse_args()
    device, tokenizer = pick_device(), load_tokenizer(pretrained('tokenizer')).to(pick_device())
    data = load_data('cifar10')
    if args.pictures < len(data):
        chosen = np.linspace(0, len(data) - 1, args.pictures).round().astype(int)
        data = replace(data, images=data.images[chosen], labels=data.labels[chosen])
    rows = []
    for seed in args.seeds:
        for name in args.recipes:
            rows += train(name, data, tokenizer, args.minutes, args.marks, args.n, device, seed)
            write({'what': 'Frechet distance against minutes of training', 'drawing': DRAWING,
                   'command': ' '.join(['python -m benchmarks.quality', *sys.argv[1:]]),
                   'machine': machine(device), 'commit': commit(), 'rows': rows, 'summary': summary(rows)}, args.out)
    print(table(summary(rows), ['recipe', 'weights', 'minutes', 'seeds', 'frechet', 'min', 'max']))
