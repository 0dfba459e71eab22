"""Table 1 of the paper at the size of a laptop: raster or random order, causal or bidirectional attention, one token or
several a step, each with cross-entropy over a codebook and with the diffusion loss. Every cell has the same size and
gets the same time on one CPU core:

    python scripts/table1.py --minutes 9 --jobs 2

It writes benchmarks/results/table1.json, from which lesson 16 draws its figure. The last two rows share a training:
they differ in how they draw."""
import argparse, concurrent.futures, json, os, subprocess, sys, tempfile, time
from dataclasses import replace
from pathlib import Path

TRAININGS = [(v, h) for v in ('raster-causal', 'random-causal', 'mar') for h in ('diffusion', 'cross-entropy')]

def cell(variant_name, kind, minutes, data_name, n, seed):
    "Train one model for so many minutes, draw with it, judge; returns rows of the table"
    import numpy as np, torch
    from marlearn.engine.pictures import load_data
    from marlearn.demo import measure_speed, take_pictures
    from marlearn.generate import generate
    from marlearn.mar import count_parameters
    from marlearn.engine.evaluation import cifar10_classifier, extract
    from marlearn.metrics import as_saved, Statistics
    from marlearn.engine.presets import small, variant
    from marlearn.files import pretrained
    from marlearn.tokenizers import load_tokenizer
    from marlearn.engine.run import fit
    from marlearn.engine.hardware import autocast, pick_precision
    from marlearn.train import encode_data, new_model, resolve_config
    torch.set_num_threads(1)
    data, dtype = load_data(data_name), pick_precision('cpu')[0]
    tokenizer = load_tokenizer(pretrained('tokenizer' if kind == 'diffusion' else 'vq'))
    config = small()
    model = resolve_config(replace(config.model, head=replace(config.model.head, kind=kind)), tokenizer,
                           config.img_size,
                   len(data.classes))
    config = replace(config, model=variant(model, variant_name))
    speed = measure_speed(config, tokenizer, 'cpu', dtype, seconds=8)
    steps = int(60*minutes*speed/config.train.batch_size)
    config = replace(config, train=replace(config.train, steps=steps, seed=seed, sample_every=0, save_every=steps,
                                           log_every=max(1, steps//50)))
    seen = min(len(data), steps*config.train.batch_size)
    tokens = encode_data(tokenizer, take_pictures(data, np.random.default_rng(seed).permutation(len(data))[:seen]),
                         flip=seen == len(data), dtype=dtype, quiet=True)
    torch.manual_seed(seed)
    network = new_model(config.model, tokenizer)
    ema, log = fit(network, tokens, config, Path(tempfile.mkdtemp()), tokenizer=tokenizer, classes=data.classes)
    extractor, rows = cifar10_classifier(), []
    labels = torch.arange(len(data.classes)).repeat_interleave(n//len(data.classes))
    real = load_data(data_name, 'test')
    some = np.random.default_rng(0).permutation(len(real))[:5000]
    reference = Statistics().update(extract(extractor, real, some, quiet=True)['features'])
    for name in ([variant_name] if variant_name != 'mar' else ['random-bidirectional', 'mar']):
        for scale in (1.0, 3.0):
            start, drawn = time.perf_counter(), []
            for i, part in enumerate(labels.split(100)):
                with torch.no_grad(), autocast('cpu', dtype):
                    drawn.append(generate(ema.model, part, ar_steps=variant(model, name).ar_steps, diff_steps=25,
                                          cfg_scale=scale, guidance='constant', temperature=1.0,
                                          generator=torch.Generator().manual_seed(i)))
            seconds = time.perf_counter() - start
            found = [extractor(as_saved(tokenizer.decode(t.float()).clamp(-1, 1))) for t in drawn]
            features, guess = (torch.cat([f[k] for f in found]) for k in ('features', 'probabilities'))
            rows.append({'variant': name, 'head': kind, 'cfg_scale': scale,
                         'frechet': Statistics().update(features).distance(reference),
                         'recognised': (guess.argmax(1) == labels).float().mean().item(),
                         'ar_steps': variant(model, name).ar_steps, 'seconds_per_image': seconds/len(labels),
                         'images_seen': steps*config.train.batch_size, 'parameters': count_parameters(network),
                         'last_loss': log[-1]['loss']})
    return rows

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--minutes', type=float, default=9, help='of training for every cell, on one core')
    parser.add_argument('--jobs', type=int, default=2, help='cells side by side')
    parser.add_argument('--data', default='cifar10')
    parser.add_argument('--n', type=int, default=1000, help='pictures that every cell draws')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--out', type=Path, default=Path('benchmarks/results/table1.json'))
    parser.add_argument('--cell', nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.cell:
        print(json.dumps(cell(*args.cell, args.minutes, args.data, args.n, args.seed)))
        sys.exit()
    from marlearn.engine.hardware import machine
    about = len(TRAININGS)*(args.minutes + 1)/args.jobs
    print(f'{len(TRAININGS)} trainings of {args.minutes:g} minutes, {args.jobs} at a time: about {about:.0f} minutes')
    def one(c):
        out = subprocess.run([sys.executable, __file__, '--cell', *c, '--minutes', str(args.minutes), '--data',
                              args.data, '--n', str(args.n), '--seed', str(args.seed)],
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                             env=os.environ | {'OMP_NUM_THREADS': '1'})
        if out.returncode: raise RuntimeError(f"{' '.join(c)} failed:\n{out.stderr[-2000:]}")
        rows = json.loads(out.stdout.splitlines()[-1])
        for r in rows:
            print(f"{r['variant']:22} {r['head']:14} guidance {r['cfg_scale']:g}: distance {r['frechet']:6.1f}, "
                  f"recognised {r['recognised']:.2f}, {r['images_seen']} pictures seen", flush=True)
        return rows
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        rows = [r for found in pool.map(one, TRAININGS) for r in found]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps({'what': "Table 1's variants, equal size, equal time on one core",
                                    'command': ' '.join(['python scripts/table1.py', *sys.argv[1:]]),
                                    'settings': {k: str(v) for k, v in vars(args).items() if k not in ('out', 'cell')},
                                    'machine': machine(), 'rows': rows}, indent=1) + '\n', encoding='utf-8')
    print(f'written to {args.out}')
