"""The rows and columns of MAR's Table 1 at toy scale: four ways of generating, each with cross-entropy over a codebook and with the diffusion loss. Writes data/results/table1.json.
From the repository's root, about half an hour on one core: python scripts/table1.py

All cells see the same pictures of `shapes`, as often, with the same number of blocks and the same width. Cross-entropy needs the codebook tokenizer (64 tokens of 8 numbers), the diffusion loss takes the KL tokenizer (16 tokens of 24 numbers),
so rows can be compared within a column, and columns only as a whole."""
import argparse, json, time
from dataclasses import asdict, replace
from pathlib import Path
import numpy as np, torch
from marlearn.data import load_shapes
from marlearn.demo import machine
from marlearn.generate import generate
from marlearn.mar import count_parameters
from marlearn.metrics import Statistics, as_saved, cifar10_classifier, extract
from marlearn.presets import VARIANTS, small, variant
from marlearn.tokenizers import load_tokenizer, pretrained
from marlearn.train import EMA, autocast, batch_index, encode_data, fitted, learning_rate, make_optimizer, new_model, pick_precision, step_generator, train_step

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument('--steps', type=int, default=1000, help='of 64 pictures, in every cell')
parser.add_argument('--seeds', type=int, default=2)
parser.add_argument('--pictures', type=int, default=500, help='drawn in every cell')
parser.add_argument('--out', type=Path, default=Path('data/results/table1.json'))
args = parser.parse_args()

data, test = load_shapes(), load_shapes('test')
extractor, dtype = cifar10_classifier(), pick_precision('cpu')[0]
real = extract(extractor, test, quiet=True)['features']
reference, test_labels = Statistics().update(real), torch.from_numpy(np.array(test.labels))
centres = torch.stack([real[test_labels == c].mean(0) for c in range(10)])

def judge(images, labels):
    "Frechet distance, and the share of pictures whose features are nearest to those of their own class"
    found = torch.cat([extractor(part)['features'] for part in images.split(250)])
    return Statistics().update(found).distance(reference), (torch.cdist(found, centres).argmin(1) == labels).float().mean().item()

def cell(name, loss, tokenizer, tokens, seed):
    config = small()
    model_config = fitted(replace(config.model, head=replace(config.model.head, kind='diffusion' if loss == 'diffusion' else 'cross-entropy')), tokenizer, 32, 10)
    model_config, train = variant(model_config, name), replace(config.train, steps=args.steps, seed=seed, ema=0.995)
    torch.manual_seed(seed)
    model = new_model(model_config, tokenizer).train()
    ema, opt, started = EMA(model, train.ema), make_optimizer(model, train), time.process_time()
    for step in range(args.steps):
        for group in opt.param_groups: group['lr'] = learning_rate(train, step)
        generator = step_generator(seed, step)
        batch, labels = tokens.batch(batch_index(len(tokens), train.batch_size, step, seed), generator)
        parts = train_step(model, batch, labels, opt, generator=generator, dtype=dtype)
        ema.update(model, step)
    labels, g = torch.arange(args.pictures) % 10, torch.Generator().manual_seed(seed)
    with torch.no_grad(), autocast('cpu', dtype): drawn = torch.cat([tokenizer.decode(generate(ema.model, part, diff_steps=50, generator=g)).float() for part in labels.split(250)])
    distance, recognised = judge(as_saved(drawn), labels)
    row = {'variant': name, 'loss': loss, 'seed': seed, 'frechet distance': round(distance, 1), 'recognised': round(recognised, 3), 'last loss': round(parts['loss'].item(), 4), 'parameters': count_parameters(model),
           'steps of generation': model_config.ar_steps, 'cpu seconds': round(time.process_time() - started)}
    print(json.dumps(row), flush=True)
    return row

rows, ceiling = [], {}
for loss, kind in (('diffusion', 'tokenizer'), ('cross-entropy', 'vq')):
    tokenizer = load_tokenizer(pretrained(kind))
    tokens = encode_data(tokenizer, data, flip=False, dtype=dtype, quiet=True)
    copies = torch.cat([tokenizer.decode(tokenizer.encode(part)).detach() for part in test.batch(range(args.pictures))[0].split(100)])
    ceiling[loss] = dict(zip(('frechet distance', 'recognised'), judge(as_saved(copies), test_labels[:args.pictures])))
    rows += [cell(name, loss, tokenizer, tokens, seed) for seed in range(args.seeds) for name in VARIANTS]
args.out.parent.mkdir(parents=True, exist_ok=True)
args.out.write_text(json.dumps({'made by': f'python scripts/table1.py --steps {args.steps} --seeds {args.seeds} --pictures {args.pictures}', 'reference': 'shapes test, 2000 pictures, cifar10-classifier features', 'settings': asdict(small()),
                                'machine': machine(), 'pictures through the tokenizer alone': ceiling, 'rows': rows}, indent=1))
