"""Table 1 of the paper where pictures are few and seen many times, as in hundreds of epochs: raster or random order,
causal or bidirectional attention, one token or several a step, each with the diffusion loss and with cross-entropy
over a codebook. All have the same size and take the same number of steps:

    python scripts/table1_few.py --jobs 2

The pictures are smooth random fields, drawn from a Gaussian that is known exactly. So the Frechet distance between
drawn fields and the truth needs no feature network and misses nothing: it is zero for the truth alone. Lesson 16 draws
its figure from benchmarks/results/table1_few.json. The variants 'random-bidirectional' and 'mar' share a training: they
differ in how they draw."""
import argparse, concurrent.futures, json, os, subprocess, sys, tempfile
from pathlib import Path

# pixels, pixels per token side, pixels over which a field is alike, codebook entries
SIDE, PATCH, LENGTH, CODES = 12, 2, 3.0, 256
TRAININGS = [(v, h) for h in ('diffusion', 'cross-entropy') for v in ('raster-causal', 'random-causal', 'mar')]

def covariance():
    "Of the pixels of a field, (SIDE**2, SIDE**2) float64: alike where near, and a little noise of each pixel's own"
    import torch
    x = torch.arange(SIDE, dtype=torch.float64)
    alike = torch.exp(-(x[:, None] - x)**2/(2*LENGTH**2))
    return torch.kron(alike, alike) + 1e-3*torch.eye(SIDE*SIDE, dtype=torch.float64)

def draw_fields(n, seed):
    "(n, 1, SIDE, SIDE) from the truth"
    import torch
    root = torch.linalg.cholesky(covariance()).float()
    return (torch.randn(n, SIDE*SIDE, generator=torch.Generator().manual_seed(seed)) @ root.T).view(n, 1, SIDE, SIDE)

def distance(fields):
    "Frechet distance to the truth, per pixel, whose variance is 1"
    import torch
    from marlearn.metrics import frechet_distance, Statistics
    seen = Statistics().update(fields.flatten(1))
    return frechet_distance(seen.mean, seen.cov, torch.zeros(SIDE*SIDE), covariance())/SIDE**2

def to_nearest(fields, others):
    "Of each field, the root mean square difference to the most similar of the others"
    import torch
    return torch.cdist(fields.flatten(1), others.flatten(1)).min(1).values/SIDE

def codebook_of(tokens, seed=0):
    "Lloyd's algorithm: CODES centres of the rows (M, P)"
    import torch
    codes = tokens[torch.randperm(len(tokens), generator=torch.Generator().manual_seed(seed))[:CODES]].clone()
    for _ in range(30):
        nearest = torch.cdist(tokens, codes).argmin(1)
        for c in nearest.unique():
            codes[c] = tokens[nearest == c].mean(0)
    return codes

def snapped(tokens, codes):
    import torch
    return codes[torch.cdist(tokens.flatten(0, 1), codes).argmin(1)].view_as(tokens)

def cell(name, kind, fields, steps, every, n, seed):
    "Train one model; returns the distance at every checkpoint"
    import torch
    from marlearn.generate import generate
    from marlearn.heads import HeadConfig
    from marlearn.mar import count_parameters, AutoregressiveModel, ModelConfig
    from marlearn.engine.presets import variant
    from marlearn.tokenizers import PixelTokenizer
    from marlearn.engine.run import fit, RunConfig
    from marlearn.engine.hardware import autocast, pick_precision
    from marlearn.train import TokenData, TrainConfig
    torch.set_num_threads(1)
    tokenizer, dtype = PixelTokenizer(PATCH, scale=1.0, channels=1), pick_precision('cpu')[0]
    tokens = tokenizer.encode(draw_fields(fields, seed=5))
    N, P = tokens.shape[1:]
    head = HeadConfig(kind=kind, blocks=2, width=128, noise_levels=2, x0_limit=5.0,
                      codes=CODES if kind == 'cross-entropy' else 0)
    model = variant(ModelConfig(n_tokens=N, token_dim=P, n_classes=1, width=64, encoder_blocks=2, decoder_blocks=2,
                                heads=2, class_slots=4, dropout=0.0, label_drop=0.0, min_mask_ratio=0.05, mask_std=0.5,
                                head=head), name)
    torch.manual_seed(seed)
    network = AutoregressiveModel(model)
    if kind == 'cross-entropy':
        codes = codebook_of(tokens.flatten(0, 1))
        network.head.set_codebook(codes)
        tokens = snapped(tokens, codes)
    train = TrainConfig(steps=steps, batch_size=64, lr=2e-3, ema=0.999, seed=seed, sample_every=every, save_every=steps,
                        log_every=every)
    data, rows, learned = TokenData(tokens, None, torch.zeros(fields, dtype=torch.long)), [], tokenizer.decode(tokens)
    # nearer to a training field than 99 of 100 true fields are
    copy = to_nearest(draw_fields(n, seed=6), learned).quantile(.01)
    def judge(step, ema):
        for drawn_as in ([name] if name != 'mar' else ['random-bidirectional', 'mar']):
            K, drawn = variant(model, drawn_as).ar_steps or N, []
            for i in range(0, n, 250):
                with torch.no_grad(), autocast('cpu', dtype):
                    drawn.append(generate(ema, torch.zeros(min(250, n - i), dtype=torch.long), ar_steps=K,
                                          diff_steps=25, generator=torch.Generator().manual_seed(i)).float())
            found = tokenizer.decode(torch.cat(drawn))
            rows.append({'variant': drawn_as, 'head': kind, 'step': step, 'epochs': step*train.batch_size/fields,
                         'distance': distance(found),
                         'copies': (to_nearest(found, learned) < copy).float().mean().item(), 'ar_steps': K,
                         'parameters': count_parameters(network)})
            if step == steps:
                rows[-1]['drawn'] = [[round(v, 2) for v in field.flatten().tolist()] for field in found[:8]]
    ema, _ = fit(network, data, RunConfig(data='fields', img_size=SIDE, model=model, train=train),
                 Path(tempfile.mkdtemp()), tokenizer=tokenizer, classes=('field',),
                 on_sample=lambda step, _, ema: judge(step, ema))
    judge(steps, ema.model)
    return rows

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--fields', type=int, default=300, help='pictures to learn from')
    parser.add_argument('--steps', type=int, default=6000, help='of 64 pictures each')
    parser.add_argument('--every', type=int, default=500, help='steps between two judgements')
    parser.add_argument('--n', type=int, default=1000, help='pictures drawn for a judgement')
    parser.add_argument('--jobs', type=int, default=2, help='trainings side by side, each on one core')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--out', type=Path, default=Path('benchmarks/results/table1_few.json'))
    parser.add_argument('--cell', nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.cell:
        print(json.dumps(cell(*args.cell, args.fields, args.steps, args.every, args.n, args.seed)))
        sys.exit()
    from marlearn.engine.hardware import machine
    from marlearn.tokenizers import PixelTokenizer
    about = len(TRAININGS)*args.steps*.1/60/args.jobs
    print(f'{len(TRAININGS)} trainings of {args.steps} steps, {args.jobs} at a time: about {about:.0f} minutes')
    def one(c):
        own = [x for k in ('fields', 'steps', 'every', 'n', 'seed') for x in (f'--{k}', str(getattr(args, k)))]
        out = subprocess.run([sys.executable, __file__, '--cell', *c, *own], stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True, env=os.environ | {'OMP_NUM_THREADS': '1'})
        if out.returncode: raise RuntimeError(f"{' '.join(c)} failed:\n{out.stderr[-2000:]}")
        rows = json.loads(out.stdout.splitlines()[-1])
        for r in rows:
            print(f"{r['variant']:22} {r['head']:14} step {r['step']:5}: distance {r['distance']:.4f}, "
                  f"copies {r['copies']:.0%}", flush=True)
        return rows
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        rows = [r for found in pool.map(one, TRAININGS) for r in found]
    fields, tokenizer = draw_fields(args.fields, seed=5), PixelTokenizer(PATCH, scale=1.0, channels=1)
    tokens = tokenizer.encode(fields)
    true = draw_fields(args.n, seed=6)
    as_codes = tokenizer.decode(snapped(tokenizer.encode(true), codebook_of(tokens.flatten(0, 1))))
    known = {f'{args.n} other true fields': distance(true), 'the training fields themselves': distance(fields),
             'true fields, snapped to the codebook': distance(as_codes)}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    what = ("Table 1's variants on few smooth fields seen many times; "
            "Frechet distance to the known truth, per pixel of variance 1")
    settings = {k: str(v) for k, v in vars(args).items() if k not in ('out', 'cell')}
    result = {'what': what, 'command': ' '.join(['python scripts/table1_few.py', *sys.argv[1:]]), 'settings': settings,
              'machine': machine(), 'known': known, 'rows': rows}
    args.out.write_text(json.dumps(result) + '\n', encoding='utf-8')
    print(f'written to {args.out}')
