"""Which recipe draws CIFAR-10 best after a few minutes on one core? From the repository's root:

    python scripts/recipe.py --list                              # the candidates, and which are done
    python scripts/recipe.py --seeds 0 1                         # all of them; stop whenever you like, and go on
    python scripts/recipe.py --only "width 192" --seeds 3        # one of them, with another seed

Each candidate differs from the preset `toy` in one thing, the last in three, and gets the time in which `toy` does
--steps. A busy machine slows both down, so it is their ratio that is measured, a few steps of one and of the other in
turn.
Judge: the small classifier that ships, on drawn pictures held against test pictures. Finished runs are written to
benchmarks/results/recipe.json at once, and as a page for people to recipe.txt beside it; encoded pictures are kept in
runs/recipe."""
import argparse, json, sys, time
from dataclasses import replace
from pathlib import Path
import numpy as np, torch
from safetensors.torch import load_file
from marlearn.engine.evaluation import cifar10_classifier, reference_statistics
from marlearn.engine.hardware import machine, pick_precision
from marlearn.engine.pictures import load_data
from marlearn.engine.presets import toy
from marlearn.files import atomic_file, pretrained, save_weights
from marlearn.mar import count_parameters
from marlearn.tokenizers import KLTokenizer, load_tokenizer
from marlearn.train import encode_data, new_model, resolve_config, TokenData, train_loop

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.quality import DRAWING, judge

MASKS = {'min_mask_ratio': .7, 'mask_std': .25} # Section 4.2 of the paper

CANDIDATES = { # name -> what is not as in the preset: of the model, of its head, of the training; and the patch
    'toy': {},
    'width 96': {'model': {'width': 96, 'heads': 3}},
    'width 192': {'model': {'width': 192, 'heads': 6}},
    '12 blocks': {'model': {'encoder_blocks': 4, 'decoder_blocks': 8}},
    'head 2 x 128': {'head': {'blocks': 2, 'width': 128}},
    'head 4 x 256': {'head': {'blocks': 4, 'width': 256}},
    'flow head': {'head': {'kind': 'flow', 'x0_limit': None}},
    '1 noise level': {'head': {'noise_levels': 1}},
    '4 noise levels': {'head': {'noise_levels': 4}},
    "the paper's mask ratios": {'model': MASKS},
    'rate 1e-3': {'train': {'lr': 1e-3}},
    'rate 4e-3': {'train': {'lr': 4e-3}},
    'batch 32': {'train': {'batch_size': 32}},
    'batch 128': {'train': {'batch_size': 128}},
    'average 0.99': {'train': {'ema': .99}},
    'average 0.9998': {'train': {'ema': .9998}},
    '64 tokens of 10': {'patch': 1},
    # a larger model, with the mask ratios that were ahead
    "the paper's mask ratios, width 192, head 4 x 256": {'model': MASKS | {'width': 192, 'heads': 6},
                                                         'head': {'blocks': 4, 'width': 256}},
}

def tokens_of(patch, data, work):
    "A tokenizer with this patch, and the training pictures' tokens, encoded once"
    tokenizer, path = load_tokenizer(pretrained('tokenizer')), work/f'tokens-{patch}.safetensors'
    tokenizer = KLTokenizer(tokenizer.vae, tokenizer.scale, patch)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        found = encode_data(tokenizer, data, quiet=True)
        with atomic_file(path) as new:
            save_weights({'mean': found.mean, 'std': found.std, 'labels': found.labels}, new)
    found = load_file(path)
    return tokenizer, TokenData(found['mean'], found['std'], found['labels'])

def trained(name, seed, steps, data, work):
    "A candidate after so many steps: tokenizer, averaged model, parameters, pictures in a batch, CPU seconds"
    change, preset = CANDIDATES[name], toy()
    tokenizer, tokens = tokens_of(change.get('patch', 2), data, work)
    head = replace(preset.model.head, **change.get('head', {}))
    config = replace(preset.model, **{'head': head, 'n_tokens': tokens.mean.shape[1]} | change.get('model', {}))
    config = resolve_config(config, tokenizer, 32, len(data.classes))
    settings = {'ema': .999, 'seed': seed, 'log_every': 10_000, 'steps': steps} | change.get('train', {})
    train = replace(preset.train, **settings)
    torch.manual_seed(seed)
    start, model = time.process_time(), new_model(config, tokenizer)
    ema, _ = train_loop(model, tokens, train, dtype=pick_precision('cpu')[0])
    return tokenizer, ema.model.eval(), count_parameters(model), train.batch_size, time.process_time() - start

def cost(name, data, work, repeats=3, steps=6):
    "Time of a step of this candidate, in steps of `toy`: the median over pairs of short runs"
    ratios = []
    for repeat in range(repeats + 1):                                 # the first pair warms up
        ours, base = (trained(other, 0, steps, data, work)[-1] for other in (name, 'toy'))
        if repeat: ratios.append(ours/base)
    return float(np.median(ratios))

def run(name, seed, base_steps, n, data, work):
    "Train one candidate for as long as `toy` needs for its steps, and judge what it draws"
    relative = cost(name, data, work) if name != 'toy' else 1.0
    steps = round(base_steps/relative)
    tokenizer, model, parameters, batch_size, seconds = trained(name, seed, steps, data, work)
    dtype = pick_precision('cpu')[0]
    reference, drawing = reference_statistics('cifar10-test'), time.process_time()
    distance, right = judge(model, tokenizer, cifar10_classifier(), reference, n, 'cpu', dtype, seed)
    return {'candidate': name, 'seed': seed, 'parameters': parameters, 'steps': steps,
            'time of a step': relative, 'pictures seen': steps*batch_size, 'CPU seconds': round(seconds, 1),
            'CPU seconds for 100 pictures': round((time.process_time() - drawing)*100/n, 1),
            'distance': distance, 'recognised': right}

def page(rows):
    "For people: best first"
    lines = {}
    for name in dict.fromkeys(row['candidate'] for row in rows):
        mine = [row for row in rows if row['candidate'] == name]
        distance, right = (np.array([row[k] for row in mine]) for k in ('distance', 'recognised'))
        spread = f'{np.ptp(distance)/2:5.1f}' if len(mine) > 1 else '    -'
        lines[f'{name:50}{mine[0]["parameters"]/1e6:5.1f} M{mine[0]["pictures seen"]/1e3:7.0f} k{len(mine):7}'
              f'{distance.mean():10.1f} +- {spread}{right.mean():16.2f}'] = distance.mean()
    head = f"{'candidate':50}{'size':>7}{'pictures':>9}{'seeds':>7}{'distance':>10} +- half range  recognised"
    return '\n'.join([head, *sorted(lines, key=lines.get)])

def write_page(out):
    "The same as text, beside the results"
    result = json.loads(out.read_text(encoding='utf-8'))
    about = result['settings']
    out.with_suffix('.txt').write_text(
        f"{result['what']}: that of {about['steps of toy']} steps of the preset toy, on one thread of "
        f"{result['machine']['cpu']}.\n{about['n']} pictures are drawn and judged for each seed, with "
        f"{about['drawn with']}.\n\n{page(result['rows'])}\n", encoding='utf-8')

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--only', nargs='+', choices=list(CANDIDATES), default=list(CANDIDATES))
    parser.add_argument('--seeds', nargs='+', type=int, default=[0])
    parser.add_argument('--steps', type=int, default=700, help='of the preset toy; the others get the same time')
    parser.add_argument('--n', type=int, default=500, help='pictures to draw and judge')
    parser.add_argument('--list', action='store_true', help='show what is there and stop')
    parser.add_argument('--work', type=Path, default=Path('runs/recipe'))
    parser.add_argument('--out', type=Path, default=Path('benchmarks/results/recipe.json'))
    args = parser.parse_args()
    settings = {'steps of toy': args.steps, 'n': args.n, 'drawn with': DRAWING}
    earlier = {'settings': settings, 'rows': []}
    if args.out.exists():
        earlier = json.loads(args.out.read_text(encoding='utf-8'))
    if earlier['settings'] != settings and not args.list:
        raise SystemExit(f"{args.out} holds runs with {earlier['settings']}: ask for the same, or give another --out")
    rows = earlier['rows']
    done = {(row['candidate'], row['seed']) for row in rows}
    if args.list:
        for name, change in CANDIDATES.items():
            print(f"{name:50} seeds done: {sorted(s for c, s in done if c == name)}   {change}")
        return
    if rows: write_page(args.out)
    todo = [(name, seed) for seed in args.seeds for name in args.only if (name, seed) not in done]
    torch.set_num_threads(1)
    data = load_data('cifar10')
    if todo:
        trained('toy', 0, 5, data, args.work)                         # warm
        minutes = (trained('toy', 0, 10, data, args.work)[-1]/10*args.steps + 60)/60
        print(f'{len(todo)} trainings of about {minutes:.0f} minutes each, with judging: {len(todo)*minutes/60:.1f} h')
    for name, seed in todo:
        row = run(name, seed, args.steps, args.n, data, args.work)
        if args.out.exists():                                         # a second process may have written meanwhile
            rows = json.loads(args.out.read_text(encoding='utf-8'))['rows']
        rows.append(row)
        result = {'what': 'Recipes for CIFAR-10, the same CPU time each', 'command': 'python scripts/recipe.py',
                  'settings': settings, 'machine': machine(), 'rows': rows}
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1) + '\n', encoding='utf-8')
        write_page(args.out)
        print(page(rows), flush=True)

if __name__ == '__main__': main()
