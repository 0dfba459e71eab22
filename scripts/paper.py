"""The paper's Tables 1 to 3 and Figures 4 to 6 at toy scale, on CIFAR-10 and a CPU. From the repository's root:

    python scripts/paper.py --list                                     # every cell, what is there, what it would take
    python scripts/paper.py                                            # do what is missing; stop it whenever you like
    python scripts/paper.py --only table1/mar-diffusion --seed 3       # one row, with another seed
    python scripts/paper.py --jobs 2 --minutes 30                      # two at a time; begin nothing after 30 minutes

A cell is one row of a table or one point of a figure with one seed, of training and of drawing alike. Each takes a few
minutes of one core at most. A finished cell is written to benchmarks/results/paper.json at once and is never done
again; trained models, encoded pictures and the second tokenizer are kept in runs/paper, so that cells share them.

All models train for the same number of steps on the same pictures, as the paper's train for the same number of epochs;
CPU time is recorded. Judge: the features of the small CIFAR-10 classifier that ships with marlearn, against test
pictures. Results of different settings or tokenizers are not mixed: the script refuses, or with --renew does again what
another tokenizer gave."""
import argparse, concurrent.futures, hashlib, json, os, subprocess, sys, threading, time
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
import numpy as np, torch
from PIL import Image
from safetensors.torch import load_file
from marlearn.data import load_shapes
from marlearn.engine.checkpoints import load_checkpoint, save_checkpoint
from marlearn.engine.evaluation import cifar10_classifier, extract
from marlearn.engine.hardware import machine
from marlearn.engine.pictures import load_data
from marlearn.engine.presets import small
from marlearn.engine.presets import variant as as_variant
from marlearn.files import atomic_file, file_hash, pretrained, read_json, save_weights, write_json
from marlearn.generate import generate
from marlearn.mar import count_parameters
from marlearn.metrics import as_bytes, as_saved, inception_score, kernel_distance, Statistics
from marlearn.tokenizers import KLTokenizer, load_tokenizer, measure_scale, PixelTokenizer, save_tokenizer, VQTokenizer
from marlearn.train import encode_data, new_model, resolve_config, TokenData, train_loop
from marlearn.vae import fit_vae, psnr, VAE, VAEConfig

@dataclass(frozen=True, kw_only=True)
class Settings:
    "What all cells share; a result file belongs to one of these"
    data:str = 'cifar10' # or 'shapes'
    pictures:int = 20_000 # to learn from
    steps:int = 1000 # of training, for every model
    batch_size:int = 32
    lr:float = 2e-3
    drawn:int = 300 # pictures that are drawn and judged
    real:int = 10_000 # test pictures: as many as are drawn are judged too, the others are what all are held against
    guided:float = 3.0 # guidance scale, the same in every step
    tokenizer_steps:int = 3000 # of training of the tokenizer of stride 8, 16 pictures each

@dataclass(frozen=True)
class Training:
    "What is trained; cells with the same one share a model"
    tokenizer:str = 'kl-stride-4'
    head:str = 'diffusion'
    variant:str = 'mar'
    head_width:int = 128 # W of the denoising MLP

    @property
    def name(self): return f'{self.variant}-{self.head}-{self.head_width}-{self.tokenizer}'

@dataclass(frozen=True)
class Cell:
    "A model and how it draws"
    training:Training
    at_once:int = 4 # tokens a generation step
    diff_steps:int = 25
    temperature:float = 1.0

@dataclass(frozen=True)
class Copies:
    "No model at all: real pictures, passed through a tokenizer"
    tokenizer:str|None = None # None: as they are

TOKENIZERS = ('vq', 'vq-continuous', 'kl-stride-4', 'kl-stride-8', 'pixels-4', 'pixels-8')

def all_cells():
    "By name, table/row"
    mar = Cell(Training())
    cells = {f'copies/{name}': Copies(name) for name in ('vq', 'kl-stride-4', 'kl-stride-8')}
    cells['copies/real'] = Copies()
    for head, tokenizer in (('cross-entropy', 'vq'), ('diffusion', 'kl-stride-4')):
        cells |= {f'table1/{name}-{head}': Cell(Training(tokenizer, head, name), at_once=1)
                  for name in ('raster-causal', 'random-causal')}
        trained = Training(tokenizer, head)                                      # the last two rows share a model
        cells[f'table1/random-bidirectional-{head}'] = Cell(trained, at_once=1)
        cells[f'table1/mar-{head}'] = Cell(trained)
    cells['table2/vq-cross-entropy'] = Cell(Training('vq', 'cross-entropy'))
    cells |= {f'table2/{name}-diffusion': Cell(Training(name)) for name in TOKENIZERS[1:]}
    cells |= {f'table3/width-{w}': Cell(Training(head_width=w)) for w in (32, 64, 128, 256)}
    cells |= {f'figure4/steps-{k}': replace(mar, diff_steps=k) for k in (3, 6, 12, 25, 50, 100)}
    cells |= {f'figure5/temperature-{t:g}': replace(mar, temperature=t) for t in (.8, .9, .95, 1.0, 1.05, 1.1)}
    cells |= {f'figure6/at-once-{k}': replace(mar, at_once=k) for k in (16, 8, 4, 2, 1)}
    return cells

CELLS = all_cells()

# --- what cells share, kept in the work folder ---

def short_hash(*parts): return hashlib.sha256(repr(parts).encode()).hexdigest()[:10]

def some_pictures(settings, split, n):
    if settings.data == 'shapes': return load_shapes(split, n=n)                 # drawn here, so no more than needed
    data = load_data(settings.data, split)
    return replace(data, images=data.images[:n], labels=data.labels[:n])

@lru_cache(maxsize=1)
def train_pictures(settings): return some_pictures(settings, 'train', settings.pictures)

@torch.enable_grad()
def make_second_tokenizer(settings, folder):
    "A KL autoencoder of stride 8: as many tokens, of as many numbers, as the shipped one of stride 4 with 2x2 cells"
    torch.manual_seed(0)
    vae = VAE(VAEConfig(width=8, mults=(1, 2, 4, 8), latent_channels=40, embed_dim=40))
    pictures = train_pictures(settings)
    fit_vae(vae, pictures, steps=settings.tokenizer_steps, batch_size=16, seed=0)
    images, _ = pictures.batch(range(0, len(pictures), max(1, len(pictures)//500)))
    scale = measure_scale(KLTokenizer(vae, 1.0), images, torch.Generator().manual_seed(1))
    save_tokenizer(KLTokenizer(vae, scale), folder)

def tokenizer_folder(name, settings, work):
    "Where it lies, or is to lie"
    if name == 'kl-stride-4': return pretrained('tokenizer')
    if name == 'kl-stride-8':
        code = short_hash(settings.data, settings.pictures, settings.tokenizer_steps)
        return Path(work)/'tokenizers'/f'kl-stride-8-{code}'
    return pretrained('vq')

def tokenizer_hash(name, settings, work):
    "None: not made yet"
    if name.startswith('pixels'): return name
    file = tokenizer_folder(name, settings, work)/'tokenizer.safetensors'
    return file_hash(file)[:10] if file.exists() else None

def get_tokenizer(name, settings, work):
    if name.startswith('pixels'): return PixelTokenizer(patch=int(name[-1]))     # pixels per side of a token
    folder = tokenizer_folder(name, settings, work)
    if name == 'kl-stride-8' and not folder.exists():
        make_second_tokenizer(settings, folder)
    tokenizer = load_tokenizer(folder)
    return VQTokenizer(tokenizer.vq, tokenizer.scale, quantise=False) if name == 'vq-continuous' else tokenizer

def get_tokens(name, tokenizer, settings, work):
    "All training pictures, encoded once"
    code = tokenizer_hash(name, settings, work)
    path = Path(work)/'tokens'/f'{name}-{settings.data}-{settings.pictures}-{code}.safetensors'
    pictures = train_pictures(settings)
    labels = torch.from_numpy(np.array(pictures.labels))
    if not path.exists():
        tokens = encode_data(tokenizer, pictures, flip=False, quiet=True)        # float32: codes must stay exact
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as new:
            save_weights({'mean': tokens.mean} | ({} if tokens.std is None else {'std': tokens.std}), new)
    found = load_file(path)
    return TokenData(found['mean'], found.get('std'), labels)

def config_of(training, seed, settings, tokenizer):
    "The preset `small` with this tokenizer, head and variant"
    run, classes = small(), len(train_pictures(settings).classes)
    head = replace(run.model.head, kind=training.head, width=training.head_width)
    model = resolve_config(replace(run.model, head=head), tokenizer, run.img_size, classes)
    train = replace(run.train, steps=settings.steps, batch_size=settings.batch_size, lr=settings.lr, seed=seed,
                    log_every=max(1, settings.steps//20))
    return replace(run, data=settings.data, model=as_variant(model, training.variant), train=train)

@torch.enable_grad()
def get_model(training, seed, settings, work):
    "The trained model with averaged weights, its tokenizer, and what its training took"
    torch.set_num_threads(1)
    tokenizer = get_tokenizer(training.tokenizer, settings, work)
    config = config_of(training, seed, settings, tokenizer)
    code = short_hash(asdict(config), settings.pictures, tokenizer_hash(training.tokenizer, settings, work))
    folder = Path(work)/'models'/f'{training.name}-seed{seed}-{code}'
    if not folder.exists():
        tokens = get_tokens(training.tokenizer, tokenizer, settings, work)
        torch.manual_seed(seed)
        model = new_model(config.model, tokenizer)
        started = time.process_time()
        ema, log = train_loop(model, tokens, config.train)
        took = {'training_seconds': time.process_time() - started, 'last_loss': log[-1]['loss']}
        folder.parent.mkdir(parents=True, exist_ok=True)
        write_json(folder.with_name(f'{folder.name}.json'), took)
        save_checkpoint(folder, model=ema.model, tokenizer=tokenizer, config=config, step=settings.steps,
                        classes=train_pictures(settings).classes)
    return load_checkpoint(folder).model, tokenizer, read_json(folder.with_name(f'{folder.name}.json'))

# --- the judge ---

@lru_cache(maxsize=1)
def real_features(settings, work):
    "Of test pictures in a random order, kept: the first ones are judged, the others are the reference"
    data = some_pictures(settings, 'test', settings.real)
    index = np.random.default_rng(0).permutation(len(data))
    weights = file_hash(pretrained('classifier')/'classifier.safetensors')[:10]
    path = Path(work)/f'judge-{settings.data}-{settings.real}-{weights}.safetensors'
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as new:
            save_weights(extract(cifar10_classifier(), data, index, quiet=True), new)
    return load_file(path), data, index

def judge(found, labels, settings, work):
    "Four verdicts on features and probabilities"
    n = settings.drawn
    reference = real_features(settings, work)[0]['features'][n:]
    return {'frechet': Statistics().update(found['features']).distance(Statistics().update(reference)),
            'kernel': kernel_distance(found['features'], reference[:2000]),
            'inception_score': inception_score(found['probabilities'], splits=1)[0],
            'recognised': (found['probabilities'].argmax(1) == labels).float().mean().item()}

def in_parts(images): return images.split(100)

@torch.no_grad()
def judge_copies(cell, settings, work):
    "The yardstick's ends: real pictures, and what tokenizers leave of them"
    found, data, index = real_features(settings, work)
    if cell.tokenizer is None:
        images, labels = data.batch(index[:settings.drawn])
        copies, kept = images, {k: v[:settings.drawn] for k, v in found.items()}
    else:
        tokenizer = get_tokenizer(cell.tokenizer, settings, work)
        images, labels = data.batch(index[:settings.drawn])
        copies = torch.cat([as_saved(tokenizer.reconstruct(part)) for part in in_parts(images)])
        kept = looked_at(copies)
    lost = {} if cell.tokenizer is None else {'psnr': psnr(images, copies).mean().item()}
    return lost | {'unguided': judge(kept, labels, settings, work)}, [copies]

def looked_at(images):
    extractor = cifar10_classifier()
    found = [extractor(part) for part in in_parts(images)]
    return {k: torch.cat([f[k] for f in found]) for k in found[0]}

@torch.no_grad()
def judge_drawn(cell, seed, settings, work):
    "Draw without and with guidance, and judge both"
    model, tokenizer, took = get_model(cell.training, seed, settings, work)
    c = model.config
    K = max(1, c.n_tokens//cell.at_once)
    result = took | {'parameters': count_parameters(model), 'head_parameters': count_parameters(model.head),
                     'tokens': [c.n_tokens, c.token_dim], 'ar_steps': K}
    labels, grids = torch.arange(settings.drawn) % c.n_classes, []
    for kind, scale in (('unguided', 1.0), ('guided', settings.guided)):
        drawn, started = [], time.process_time()
        for i, part in enumerate(in_parts(labels)):
            generator = torch.Generator().manual_seed(1000*seed + i)
            drawn.append(generate(model, part, ar_steps=K, diff_steps=cell.diff_steps, cfg_scale=scale,
                                  guidance='constant', temperature=cell.temperature, generator=generator))
        seconds = (time.process_time() - started)/len(labels)                    # of the tokens, not of the decoder
        images = torch.cat([as_saved(tokenizer.decode(part)) for part in drawn])
        verdict = judge(looked_at(images), labels, settings, work)
        result[kind] = verdict | {'seconds_per_picture': seconds}
        grids.append(images)
    return result, grids

def run_cell(name, seed, settings, work):
    "Everything that a cell needs, from the training to the verdict"
    cell, machine_now = CELLS[name], machine()
    torch.set_num_threads(1)
    started = time.process_time()
    result, grids = (judge_copies(cell, settings, work) if isinstance(cell, Copies)
                     else judge_drawn(cell, seed, settings, work))
    tokenizer = cell.tokenizer if isinstance(cell, Copies) else cell.training.tokenizer
    save_grid(grids, grid_path(name, seed, settings, work))
    made_with = {'tokenizer': tokenizer, 'tokenizer_hash': tokenizer and tokenizer_hash(tokenizer, settings, work)}
    return {'cell': name, 'seed': seed} | made_with | result | {
        'cpu_seconds': time.process_time() - started,
        'cpu': f"{machine_now['cpu']}, {machine_now['simd']}, torch {machine_now['torch']}"}

# --- grids: the first pictures that a cell draws, one of each class; without guidance left, with it right ---

SHOWN, GAP = 10, 12 # pictures, pixels between the two halves

def grid_path(name, seed, settings, work):
    return Path(work)/'grids'/short_hash(settings)/f"{name.replace('/', '-')}-seed{seed}.png"

def save_grid(halves, path):
    strips = [as_bytes(torch.cat(list(half[:SHOWN]), dim=2)).permute(1, 2, 0).numpy() for half in halves]
    gap = np.full((strips[0].shape[0], GAP, 3), 255, np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as new:
        Image.fromarray(np.concatenate([strips[0], *(x for s in strips[1:] for x in (gap, s))], 1)).save(new, 'PNG')

def save_sheets(cells, settings, work, out):
    "One picture for each table and figure, its rows in the order of CELLS; of the seed that has most of them"
    sheets = {}
    for table in dict.fromkeys(name.split('/')[0] for name in CELLS):
        paths = {}
        for r in cells:
            path = grid_path(r.get('same_as', r['cell']), r['seed'], settings, work)
            if r['cell'].startswith(f'{table}/') and path.exists():
                paths.setdefault(r['seed'], {})[r['cell']] = path
        if not paths: continue
        seed = max(sorted(paths), key=lambda seed: len(paths[seed]))
        rows = [name for name in CELLS if name in paths[seed]]
        with atomic_file(out.with_name(f'{out.stem}_{table}.jpg')) as new:
            pictures = np.concatenate([np.asarray(Image.open(paths[seed][name])) for name in rows])
            Image.fromarray(pictures).save(new, 'JPEG', quality=92, subsampling=0)
        sheets[table] = {'seed': seed, 'rows': rows}
    return sheets

# --- the result file ---

MEASURES = ('frechet', 'kernel', 'inception_score', 'recognised', 'seconds_per_picture')

def mean_and_spread(values):
    values = np.array(values)
    return [float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else None, len(values)]

def spread_of(cells):
    "Per row: mean, standard deviation between seeds and number of seeds of each measure"
    rows = {}
    for r in cells:
        rows.setdefault(r['cell'], []).append(r)
    def summary(seeds, kind):
        return {m: mean_and_spread([r[kind][m] for r in seeds]) for m in MEASURES if m in seeds[0][kind]}
    return {name: {kind: summary(rows[name], kind) for kind in ('unguided', 'guided') if kind in rows[name][0]}
            for name in CELLS if name in rows}

def read_result(out, settings, work):
    "What is finished, or an empty beginning; other settings and other tokenizers are refused"
    if not out.exists(): return {'cells': []}
    result = json.loads(out.read_text(encoding='utf-8'))
    if result['settings'] != asdict(settings):
        other = {k: v for k, v in result['settings'].items() if v != asdict(settings).get(k)}
        raise SystemExit(f'{out} holds results of other settings, {other}: give the same ones, or another --out')
    stale = stale_cells(result, settings, work)
    if stale:
        raise SystemExit(f"{out} holds results of another tokenizer {stale[0]['tokenizer']}, {len(stale)} cells: "
                         'what two tokenizers gave cannot be compared; --renew does them again, or give another --out')
    return result

def stale_cells(result, settings, work):
    "Those whose tokenizer is no longer what it was"
    now = {name: tokenizer_hash(name, settings, work) for name in TOKENIZERS}
    return [r for r in result['cells'] if r['tokenizer'] and now[r['tokenizer']] not in (None, r['tokenizer_hash'])]

def forget_stale_cells(settings, work, out):
    "Take what another tokenizer gave out of the file"
    result = json.loads(out.read_text(encoding='utf-8'))
    stale = stale_cells(result, settings, work)
    result['cells'] = [r for r in result['cells'] if r not in stale]
    result['mean, spread, seeds'] = spread_of(result['cells'])
    left = {r['cell'] for r in result['cells']}
    result['sheets'] = {table: sheet for table, sheet in result['sheets'].items() if set(sheet['rows']) <= left}
    save_result(result, out)
    print(f'{len(stale)} cells of other tokenizers will be done again')

def save_result(result, out):
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(out) as new:
        new.write_text(json.dumps(result, indent=1) + '\n', encoding='utf-8')

ONE_AT_A_TIME = threading.Lock()

def add_cell(found, settings, work, out):
    "One more finished cell: the file is read again, and replaced in one step"
    with ONE_AT_A_TIME:
        write_result(read_result(out, settings, work), found, settings, work, out)

def write_result(result, found, settings, work, out):
    cells = [r for r in result['cells'] if (r['cell'], r['seed']) != (found['cell'], found['seed'])] + [found]
    names = list(CELLS)
    cells.sort(key=lambda r: (names.index(r['cell']), r['seed']))
    result = {'what': "The paper's Tables 1 to 3 and Figures 4 to 6 at toy scale",
              'command': 'python scripts/paper.py',
              'judge': 'features of cifar10_classifier (data/pretrained/classifier), '
                       f'{settings.drawn} drawn pictures against {settings.real - settings.drawn} test pictures',
              'settings': asdict(settings), 'machine': machine(), 'mean, spread, seeds': spread_of(cells),
              'sheets': result.get('sheets', {}) | save_sheets(cells, settings, work, out), 'cells': cells}
    save_result(result, out)

def same_work(name, seed, finished):
    "A finished cell that trained and drew exactly so, such as table2/kl-stride-4-diffusion after table1/mar-diffusion"
    return next((r for (other, s), r in finished.items()
                 if s == seed and CELLS[other] == CELLS[name] and 'same_as' not in r), None)

def keys_in(out, settings, work):
    return {(r['cell'], r['seed']): r for r in read_result(out, settings, work)['cells']}

# --- the command ---

def groups_of(names, seeds):
    "Cells with one training are done one after the other; seed by seed, so that every table is soon there once"
    groups = {}
    for seed in seeds:
        for name in names:
            cell = CELLS[name]
            if isinstance(cell, Copies):
                groups.setdefault('copies', {})[name, 0] = None                  # nothing in them depends on a seed
            else:
                groups.setdefault((seed, cell.training), {})[name, seed] = None
    return [list(group) for group in groups.values()]

SECONDS_A_STEP = {'vq': .09, 'vq-continuous': .12, 'kl-stride-4': .05, 'kl-stride-8': .05, 'pixels-4': .12,
                  'pixels-8': .07}

def estimate(name, finished, settings):
    "Minutes of one core: what the same row took with another seed, or a rough guess"
    took = [r['cpu_seconds'] for (other, _), r in finished.items() if other == name and 'same_as' not in r]
    if took: return max(took)/60
    if isinstance(CELLS[name], Copies): return .2
    training = settings.steps*settings.batch_size/32*SECONDS_A_STEP[CELLS[name].training.tokenizer]
    return ((training if name.startswith('table') else 0) + settings.drawn*.02)/60

def show_list(names, seeds, finished, settings):
    for name in names:
        done = [s for s in ([0] if isinstance(CELLS[name], Copies) else seeds) if (name, s) in finished]
        state = 'seeds ' + ', '.join(map(str, done)) + ' finished' if done else 'nothing yet'
        print(f'{name:36} {state:24} about {estimate(name, finished, settings):4.1f} minutes a seed')

def in_another_process(group, arguments, received):
    "Work a group off; every finished cell arrives as a line of JSON"
    cells = [f'{name}:{seed}' for name, seed in group]
    process = subprocess.Popen([sys.executable, __file__, *arguments, '--worker', *cells], text=True,
                               stdout=subprocess.PIPE, env=os.environ | {'OMP_NUM_THREADS': '1'})
    try:
        for line in process.stdout:
            if line.startswith('{'):
                received(json.loads(line))
        if process.wait(): raise SystemExit(f"{', '.join(cells)}: exit status {process.returncode}, see above")
    finally:
        if process.poll() is None:
            process.terminate()

def parse(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--only', nargs='+', default=[], help='tables or cells, such as table1 or table3/width-64')
    parser.add_argument('--seed', nargs='+', type=int, default=[0, 1, 2])
    parser.add_argument('--jobs', type=int, default=1, help='side by side, each on one core')
    parser.add_argument('--minutes', type=float, default=float('inf'), help='begin nothing after so many')
    parser.add_argument('--renew', action='store_true', help='drop what another tokenizer gave, and do it again')
    parser.add_argument('--list', action='store_true', help='say what is there and what the rest would take')
    parser.add_argument('--out', type=Path, default=Path('benchmarks/results/paper.json'))
    parser.add_argument('--work', type=Path, default=Path('runs/paper'), help='trained models and encoded pictures')
    parser.add_argument('--worker', nargs='+', help=argparse.SUPPRESS)
    for name, value in asdict(Settings()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    args = parser.parse_args(arguments)
    settings = Settings(**{name: getattr(args, name) for name in asdict(Settings())})
    names = [n for n in CELLS if not args.only or n in args.only or n.split('/')[0] in args.only]
    wrong = [o for o in args.only if o not in CELLS and o not in {n.split('/')[0] for n in CELLS}]
    if wrong: parser.error(f"there is no {', '.join(wrong)}; --list shows what there is")
    return args, settings, names

def main(arguments=None):
    args, settings, names = parse(arguments)
    if args.worker:
        for key in args.worker:
            name, seed = key.split(':')
            print(json.dumps(run_cell(name, int(seed), settings, args.work)), flush=True)
        return
    if args.renew and args.out.exists(): forget_stale_cells(settings, args.work, args.out)
    finished = keys_in(args.out, settings, args.work)
    if args.list: return show_list(names, args.seed, finished, settings)
    shared = [x for name in asdict(settings) for x in (f"--{name.replace('_', '-')}", str(getattr(settings, name)))]
    shared += ['--work', str(args.work), '--out', str(args.out)]
    started = time.monotonic()
    def received(found):
        add_cell(found, settings, args.work, args.out)
        measured = ', '.join(f"{kind} {found[kind]['frechet']:.1f}" for kind in ('unguided', 'guided') if kind in found)
        print(f"{found['cell']} seed {found['seed']}: distance {measured}; {found['cpu_seconds']/60:.1f} CPU minutes",
              flush=True)
    def one(group):
        if (time.monotonic() - started)/60 > args.minutes: return
        finished, missing, later = keys_in(args.out, settings, args.work), [], []
        for name, seed in group:
            if (name, seed) in finished: continue
            twin = any(CELLS[name] == CELLS[other] and s == seed for other, s in [*missing, *finished])
            (later if twin else missing).append((name, seed))
        if missing: in_another_process(missing, shared, received)
        finished = keys_in(args.out, settings, args.work)
        for name, seed in later:
            twin = same_work(name, seed, finished)
            add_cell(twin | {'cell': name, 'same_as': twin['cell']}, settings, args.work, args.out)
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        futures = [pool.submit(one, group) for group in groups_of(names, args.seed)]
        try:
            for future in futures: future.result()
        except BaseException:                                                    # Ctrl-C, or a cell that failed
            pool.shutdown(cancel_futures=True)
            raise

if __name__ == '__main__': main()
