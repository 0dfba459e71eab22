"A run that is killed, starved or misused: real processes, tiny sizes"
import hashlib, json, signal, subprocess, sys, time, warnings
from dataclasses import asdict, replace
from pathlib import Path
import numpy as np, pytest, torch
from safetensors.torch import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode
from marlearn.data import load_shapes
from marlearn.engine.checkpoints import check_checkpoint, latest_checkpoint, load_checkpoint, resume, save_checkpoint
from marlearn.engine.hardware import pick_precision
from marlearn.engine.run import (
    activation_checkpointing, fit, prefetch, read_log, run_config_from, RunConfig, warm_up_step)
from marlearn.heads import HeadConfig
from marlearn.mar import AutoregressiveModel, ModelConfig
from marlearn.tokenizers import KLTokenizer, PixelTokenizer
from marlearn.train import (
    batch_index, EMA, ema_decay, encode_data, held_out_loss, learning_rate, make_optimizer, seeded_dropout,
    step_generator, TokenData, train_loop, train_step, TrainConfig)
from marlearn.vae import VAE, VAEConfig

CONFIG = ModelConfig(n_tokens=16, token_dim=192, n_classes=10, width=16, encoder_blocks=1, decoder_blocks=1, heads=2,
                     class_slots=2, head=HeadConfig(blocks=1, width=16, noise_levels=1))
TRAIN = TrainConfig(steps=40, batch_size=24, lr=3e-3, log_every=3, save_every=10, sample_every=1, precision='fp32')
RUN = RunConfig(data='shapes', model=CONFIG, train=TRAIN)
TOKENIZER, CLASSES = PixelTokenizer(patch=8), tuple('abcdefghij')

# What the killed process runs, from outside ('anywhere') or, with half of a checkpoint on disk, by itself ('saving')
SCRIPT = """
import os, signal, sys, time
sys.path[:0] = [sys.argv[2], sys.argv[2] + '/tests']
import torch
from pathlib import Path
torch.set_num_threads(1)
import test_train as t, marlearn.engine.checkpoints as checkpoints
write = checkpoints.save_tokenizer
def die_while_saving(tokenizer, folder, *options):
    if '00000030' in str(folder): os.kill(os.getpid(), signal.SIGKILL)
    write(tokenizer, folder, *options)
def go_slowly(*_): time.sleep(0.05)
saving = sys.argv[3] == 'saving'
if saving: checkpoints.save_tokenizer = die_while_saving
t.start(Path(sys.argv[1]), on_sample=None if saving else go_slowly)
"""

@pytest.fixture(autouse=True, scope='module')
def one_thread():
    "Another number of threads adds in another order"
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)

def encoded(n=64, **options): return encode_data(TOKENIZER, load_shapes(n=n), quiet=True, **options)

@pytest.fixture(scope='module')
def data(): return encoded()

def fresh(seed=0, config=CONFIG):
    with seeded_dropout(torch.Generator().manual_seed(seed)): return AutoregressiveModel(config)

def start(folder, config=RUN, model=None, **options):
    model = model or fresh(config=config.model)
    ema, log = fit(model, encoded(), config, folder, tokenizer=TOKENIZER, classes=CLASSES, **options)
    return model, ema, log

def changed(**options): return replace(RUN, train=replace(TRAIN, **options))
def descent(model, lr=0.0): return torch.optim.SGD(model.parameters(), lr=lr)

@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    "The run that nobody interrupts"
    folder = tmp_path_factory.mktemp('whole')
    return folder, *start(folder)

def same_weights(a, b): return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
def steady(log): return [{k: v for k, v in row.items() if k != 'images_per_second'} for row in log]
def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)

# kill and resume

@pytest.mark.parametrize('die', ['anywhere', 'saving'])
def test_killed_run_resumes_to_the_same_weights(die, whole, tmp_path):
    root = str(Path(__file__).resolve().parent.parent)
    command = [sys.executable, '-c', SCRIPT, str(tmp_path/'run'), root, die]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    def steps_logged(): return max([0] + [row['step'] for row in read_log(tmp_path/'run'/'log.jsonl')])
    waited = time.monotonic()
    while die == 'anywhere' and child.poll() is None and steps_logged() < 23:
        assert time.monotonic() - waited < 120
        time.sleep(0.01)
    if die == 'anywhere': child.kill()
    message = child.communicate()[1].decode()
    assert child.returncode == -signal.SIGKILL, message
    newest = latest_checkpoint(tmp_path/'run')
    assert newest.name == 'step-00000020'
    left = list(tmp_path.glob('run/checkpoints/*.unfinished-*'))
    assert bool(left) == (die == 'saving')                     # the case is the one we mean
    model, ema, log = start(tmp_path/'run', model=fresh(seed=99), resume_from=newest)
    assert same_weights(model, whole[1]) and same_weights(ema.model, whole[2].model)
    assert steady(log) == steady(whole[3]) and steady(read_log(tmp_path/'run'/'log.jsonl')) == steady(whole[3])
    assert sorted(f.name for f in (tmp_path/'run'/'checkpoints').iterdir()) == ['step-00000030', 'step-00000040']

def test_ctrl_c_leaves_a_sound_run(whole, tmp_path):
    def interrupt(step, *_):
        if step == 25: raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): start(tmp_path/'run', on_sample=interrupt)
    model, _, log = start(tmp_path/'run', model=fresh(seed=99), resume_from=latest_checkpoint(tmp_path/'run'))
    assert same_weights(model, whole[1]) and steady(log) == steady(whole[3])

def test_dropout_is_part_of_it(data):
    "Without seeded dropout the tests above would still pass if dropout were off: it is on, and it matters"
    assert CONFIG.dropout > 0
    def norm(seed):
        model = fresh().train()
        tokens, labels = data.batch(torch.arange(8), torch.Generator().manual_seed(0))
        generator = torch.Generator().manual_seed(seed)
        return train_step(model, tokens, labels, descent(model), generator=generator)['grad_norm']
    torch.manual_seed(1)
    first = norm(5)
    torch.manual_seed(2)
    assert norm(5) == first != norm(6)

@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_activation_checkpointing_computes_the_same_gradient_with_more_work(dtype):
    config = replace(CONFIG, width=64, head=HeadConfig(blocks=2, width=64, noise_levels=2))
    tokens, labels = torch.randn(4, 16, 192, generator=torch.Generator().manual_seed(0)), torch.arange(4)
    operations, gradients = [], []
    for on in (False, True):
        model = fresh(config=config).train()
        for p in model.head.parameters():                      # at zero nothing would reach the backbone
            if not p.any(): torch.nn.init.normal_(p, std=.2, generator=torch.Generator().manual_seed(1))
        with activation_checkpointing(model, on), FlopCounterMode(display=False) as counter:
            train_step(model, tokens, labels, descent(model), generator=step_generator(0, 0), clip=1e9, dtype=dtype)
        operations.append(counter.get_total_flops())
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
        assert not any('forward' in vars(m) for m in model.modules())          # the model is left as it was
    assert torch.equal(*gradients) and gradients[0].any()
    assert 1.15*operations[0] < operations[1] < 1.4*operations[0]

@pytest.mark.parametrize('options', [{'recompute': True}, {'compile': False}])
def test_how_a_step_is_computed_may_change_from_one_day_to_the_next(options, tmp_path, whole):
    start(tmp_path/'run', changed(compile=False), stop_at=20)
    newest = latest_checkpoint(tmp_path/'run')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        model, _, log = start(tmp_path/'run', changed(**options), model=fresh(seed=99), resume_from=newest)
    assert same_weights(model, whole[1]) and steady(log) == steady(whole[3])

def test_a_run_of_version_0_1_goes_on(tmp_path, whole):
    "Its settings had one more switch, and `compile` was off unless asked for"
    start(tmp_path/'run', stop_at=20)
    newest = latest_checkpoint(tmp_path/'run')
    settings, state = (json.loads((newest/f'{name}.json').read_text()) for name in ('config', 'state'))
    settings['run']['train'] |= {'recompute_parts': True, 'compile': False}
    (newest/'config.json').write_text(json.dumps(settings, indent=1))
    state['sha256']['config.json'] = hashlib.sha256((newest/'config.json').read_bytes()).hexdigest()
    (newest/'state.json').write_text(json.dumps(state))
    assert run_config_from(settings['run']) == changed(compile=False)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        model, ema, log = start(tmp_path/'run', model=fresh(seed=99), resume_from=newest)
    assert same_weights(model, whole[1]) and same_weights(ema.model, whole[2].model) and steady(log) == steady(whole[3])

def test_compiling_is_decided_once_and_alike_on_resume(monkeypatch, tmp_path):
    "A run that goes on must come to the same decision, or its weights would differ in their last bits"
    import marlearn.engine.run as run
    asked = []
    def compile_model(model, wish, **options):
        asked.append((wish, options['device'], options['operations']))
        return 'not compiled'
    monkeypatch.setattr(run, 'compile_model', compile_model)
    start(tmp_path/'run', stop_at=10)
    start(tmp_path/'run', resume_from=latest_checkpoint(tmp_path/'run'))
    assert asked[0] == asked[1] and len(asked) == 2
    assert asked[0][:2] == ('auto', 'cpu') and asked[0][2] > 0

def test_the_long_run_makes_the_steps_of_the_methods_loop(whole):
    model = fresh()
    ema, history = train_loop(model, encoded(), TRAIN, encoded(n=20))
    assert same_weights(model, whole[1]) and same_weights(ema.model, whole[2].model)
    assert [row['step'] for row in history] == [*range(3, 40, 3), 40]
    assert history[-1]['held_out_ema'] < history[0]['held_out'] and not model.training

def test_held_out_loss_asks_the_same_each_time_and_leaves_no_trace(data):
    model, chance = fresh().train(), torch.get_rng_state()
    first = held_out_loss(model, data, batch_size=50)
    assert held_out_loss(model, data, batch_size=50) == first != held_out_loss(model, data, batch_size=50, seed=1)
    assert model.training and torch.equal(torch.get_rng_state(), chance)
    assert all(p.grad is None for p in model.parameters())
    parts = [model.eval().loss(*data.batch(index, g := step_generator(0, k)), generator=g)['loss'].item()*len(index)
             for k, index in enumerate(torch.arange(128).split(50))]
    assert first == pytest.approx(sum(parts)/128)

def test_torn_log_and_log_ahead_of_the_checkpoint(tmp_path):
    start(tmp_path/'run', stop_at=26)
    with open(tmp_path/'run'/'log.jsonl', 'a') as f: f.write('{"step": 27, "lo')
    assert [r['step'] for r in read_log(tmp_path/'run'/'log.jsonl')] == [3, 6, 9, 10, 12, 15, 18, 20, 21, 24]
    _, _, log = start(tmp_path/'run', resume_from=latest_checkpoint(tmp_path/'run'), stop_at=22)
    on_disk = read_log(tmp_path/'run'/'log.jsonl')
    assert [r['step'] for r in log] == [r['step'] for r in on_disk] == [3, 6, 9, 10, 12, 15, 18, 20, 21]

def test_going_back_sets_the_future_aside(tmp_path):
    start(tmp_path/'run', changed(keep=4), stop_at=30)
    back = tmp_path/'run'/'checkpoints'/'step-00000010'
    start(tmp_path/'run', resume_from=back, stop_at=15)
    assert latest_checkpoint(tmp_path/'run') == back and [f.name for f in back.parent.iterdir()] == [back.name]
    aside = tmp_path/'run'/'abandoned'
    assert {f.name for f in aside.iterdir()} == {'step-00000020', 'step-00000030', 'log.jsonl'}
    assert check_checkpoint(aside/'step-00000030')['step'] == 30 and read_log(aside/'log.jsonl')[-1]['step'] == 30

def test_new_run_in_a_used_folder_is_not_mixed_with_the_old_one(tmp_path):
    start(tmp_path/'run', changed(keep=1), stop_at=30)
    _, _, log = start(tmp_path/'run', changed(keep=1, seed=1), stop_at=10)
    assert latest_checkpoint(tmp_path/'run').name == 'step-00000010'               # it was pruned as the oldest once
    assert [r['step'] for r in read_log(tmp_path/'run'/'log.jsonl')] == [3, 6, 9, 10] == [r['step'] for r in log]
    assert (tmp_path/'run'/'abandoned'/'step-00000030').exists()

# what must be refused

@pytest.mark.parametrize('change, message', [
    (dict(heads=4), 'model.heads was 2, is 4'),
    (dict(dropout=0.0), 'model.dropout was 0.1, is 0.0'),
    (dict(width=32), 'does not fit this model')])
def test_resume_refuses_another_network(change, message, whole, tmp_path):
    other, newest = replace(RUN, model=replace(CONFIG, **change)), latest_checkpoint(whole[0])
    with pytest.raises(ValueError, match=message): start(tmp_path/'run', other, resume_from=newest)
    assert not (tmp_path/'run').exists()

def test_resume_refuses_another_tokenizer_and_other_classes(whole, data, tmp_path):
    def go_on(tokenizer=TOKENIZER, classes=CLASSES):
        newest = latest_checkpoint(whole[0])
        fit(fresh(), data, RUN, tmp_path/'run', tokenizer=tokenizer, classes=classes, resume_from=newest)
    with pytest.raises(ValueError, match='tokenizer.scale was 2.0, is 3.0'): go_on(tokenizer=PixelTokenizer(8, 3.0))
    with pytest.raises(ValueError, match='classes was'): go_on(classes=CLASSES[::-1])

def test_resume_knows_its_own_tokenizer(data, tmp_path):
    "Its settings hold tuples, and JSON gives lists back"
    tokenizer = KLTokenizer(VAE(VAEConfig(width=8, mults=(1, 2), latent_channels=2, embed_dim=2)), 1.0)
    def go(**options):
        short = changed(steps=2, save_every=1)
        return fit(fresh(), data, short, tmp_path/'run', tokenizer=tokenizer, classes=CLASSES, **options)
    go(stop_at=1)
    _, log = go(resume_from=latest_checkpoint(tmp_path/'run'))
    assert log[-1]['step'] == 2

def test_resume_says_which_training_settings_changed(whole, tmp_path):
    newest = latest_checkpoint(whole[0])
    with pytest.warns(UserWarning, match='train.steps was 40, is 41; train.lr was 0.003, is 0.001$'):
        start(tmp_path/'run', changed(steps=41, lr=1e-3), resume_from=newest)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        start(tmp_path/'other', changed(log_every=7, keep=1), resume_from=newest)

def test_sampling_checkpoint_cannot_be_resumed(whole, tmp_path):
    save_checkpoint(tmp_path/'light', model=whole[1], ema=whole[2], tokenizer=TOKENIZER, config=RUN, classes=CLASSES,
                    step=40, dtype=torch.float16)
    model = fresh()
    with pytest.raises(ValueError, match='sampled from but not resumed: it has no optimizer.safetensors'):
        resume(tmp_path/'light', model, EMA(model), make_optimizer(model, TRAIN))
    light = load_checkpoint(tmp_path/'light').model
    torch.testing.assert_close(list(light.parameters()), list(whole[2].model.parameters()), rtol=2e-3, atol=1e-4)

def test_optimizer_of_another_model_is_refused(whole):
    folder = latest_checkpoint(whole[0])
    files = {f: f.read_bytes() for f in (folder/'optimizer.safetensors', folder/'state.json')}
    tensors = load_file(folder/'optimizer.safetensors')
    other = {k.replace('mask_token', 'mask_tokens'): v for k, v in tensors.items()}
    message = 'does not fit this model: missing backbone.mask_token/exp_avg; .*unexpected backbone.mask_tokens/exp_avg'
    try:
        save_file(other, folder/'optimizer.safetensors')
        state = json.loads((folder/'state.json').read_text())
        digest = hashlib.sha256((folder/'optimizer.safetensors').read_bytes()).hexdigest()
        state['sha256']['optimizer.safetensors'] = digest
        (folder/'state.json').write_text(json.dumps(state))
        model = fresh()
        with pytest.raises(ValueError, match=message): resume(folder, model, EMA(model), make_optimizer(model, TRAIN))
    finally:
        for f, content in files.items():
            f.write_bytes(content)

@pytest.mark.parametrize('log_every, save_every', [(3, 10), (40, 7), (40, 40)])
def test_non_finite_loss_stops_before_it_is_saved(log_every, save_every, tmp_path):
    wild = changed(lr=1e30, warmup=1.0, clip=1e30, log_every=log_every, save_every=save_every)
    with pytest.raises(FloatingPointError, match=r'is (nan|inf).* at step \d+: lower lr=1e\+30'):
        start(tmp_path/'run', wild)
    for folder in tmp_path.glob('run/checkpoints/step-*'):
        assert all(p.isfinite().all() for p in load_checkpoint(folder, ema=False).model.parameters())
    assert all(np.isfinite(list(row.values())).all() for row in read_log(tmp_path/'run'/'log.jsonl'))

def test_gradient_that_is_not_finite_is_noticed_where_the_loss_is_not(tmp_path):
    class Spiky(AutoregressiveModel):
        def loss(self, *a, **kw):
            parts = super().loss(*a, **kw)
            if self.training and self.countdown == 0:          # plus zero, whose slope is infinite
                parts['loss'] = parts['loss'] + (self.backbone.mask_token.sum()*0).sqrt()
            self.countdown -= 1
            return parts
    with seeded_dropout(torch.Generator().manual_seed(0)): model = Spiky(CONFIG)
    model.countdown = 9                                       # the step right before the first checkpoint
    start(tmp_path/'run', model=model)
    log = read_log(tmp_path/'run'/'log.jsonl')
    assert sum(r['skipped'] for r in log) == 1 and all(np.isfinite(list(r.values())).all() for r in log)
    assert not (tmp_path/'run'/'checkpoints'/'step-00000010').exists()    # not in the middle of trouble
    assert all(p.isfinite().all() for p in model.parameters())

def test_steps_without_a_gradient_stop_the_run_after_a_while_and_leave_their_batch(tmp_path):
    class Broken(AutoregressiveModel):
        def loss(self, *a, **kw):
            parts = super().loss(*a, **kw)
            self.calls += 1
            if self.calls > 6: parts['loss'] = parts['loss']*torch.nan
            return parts
    with seeded_dropout(torch.Generator().manual_seed(0)): model = Broken(CONFIG)
    model.calls, config = 0, changed(max_skipped=4, log_every=1)
    with pytest.raises(FloatingPointError, match='at step 10: lower lr=.* up to 4 in a row'):
        start(tmp_path/'run', config, model=model)
    assert all(p.isfinite().all() for p in model.parameters())
    kept = load_file(tmp_path/'run'/'bad-batch-step-00000010.safetensors')
    assert kept['tokens'].shape == (TRAIN.batch_size, CONFIG.n_tokens, CONFIG.token_dim)
    assert [r['step'] for r in read_log(tmp_path/'run'/'log.jsonl')] == [1, 2, 3, 4, 5, 6]

def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path/'file').write_text('')
    for folder in (tmp_path/'file', tmp_path/'file'/'run'):
        with pytest.raises(OSError, match=f'{folder} cannot be written to'): start(folder)

def test_full_disk_is_an_oserror_and_keeps_the_run(whole, tmp_path):
    resource = pytest.importorskip('resource')
    model, ema = fresh(), EMA(fresh())
    opt = make_optimizer(model, TRAIN)
    resume(latest_checkpoint(whole[0]), model, ema, opt)
    def save(step):
        folder = tmp_path/'run'/'checkpoints'/f'step-{step:08d}'
        save_checkpoint(folder, step=step, model=model, ema=ema, opt=opt, tokenizer=TOKENIZER, config=RUN,
                        classes=CLASSES)
    save(1)
    sizes = {f.name: f.stat().st_size for f in (tmp_path/'run'/'checkpoints'/'step-00000001').glob('*.safetensors')}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit, name in ((sizes['model.safetensors'] - 99, 'model'), (sizes['optimizer.safetensors'] - 99, 'optimizer')):
        before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
            with pytest.raises(OSError, match=f'{name}.safetensors could not be written'): save(2)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, before)
    assert [f.name for f in (tmp_path/'run'/'checkpoints').iterdir()] == ['step-00000001']
    assert latest_checkpoint(tmp_path/'run').name == 'step-00000001'

# damage

def test_every_flipped_bit_is_noticed(whole):
    folder, g = latest_checkpoint(whole[0]), np.random.default_rng(0)
    for f in sorted(f for f in folder.rglob('*') if f.is_file()):
        size = f.stat().st_size
        places = range(0, size, 7) if f.name == 'state.json' else {0, size - 1, *g.integers(size, size=3).tolist()}
        for at in places:
            if f.read_bytes()[at:at + 1].isspace(): continue     # another blank is no damage
            flip(f, at)
            with pytest.raises((ValueError, FileNotFoundError), match='damaged|no checkpoint'): check_checkpoint(folder)
            flip(f, at)
    assert check_checkpoint(folder)['step'] == 40

def test_damaged_newest_falls_back(tmp_path):
    start(tmp_path/'run', stop_at=20)
    newest = tmp_path/'run'/'checkpoints'/'step-00000020'
    weights = newest/'ema.safetensors'
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.warns(UserWarning, match='ema.safetensors missing or not as written.*trying the one before'):
        assert latest_checkpoint(tmp_path/'run').name == 'step-00000010'
    with pytest.raises(ValueError, match='damaged: ema.safetensors'): load_checkpoint(newest)
    with pytest.raises(ValueError, match='damaged: ema.safetensors'): start(tmp_path/'run', resume_from=newest)
    (newest/'state.json').unlink()
    with pytest.raises(FileNotFoundError, match='is no checkpoint'): check_checkpoint(newest)
    with pytest.warns(UserWarning, match='no checkpoint'):
        assert latest_checkpoint(tmp_path/'run').name == 'step-00000010'
    assert latest_checkpoint(tmp_path/'nowhere') is None

# the parts

def test_batch_index_properties():
    for n, B in ((10, 3), (7, 7), (4, 9), (1, 5)):
        line = torch.cat([batch_index(n, B, step, seed=3) for step in range(4*n)])
        assert len(line) == 4*n*B
        epochs = line.view(-1, n)
        assert torch.equal(epochs.sort().values, torch.arange(n).expand_as(epochs))        # each row once an epoch
        if n == 10: assert len(epochs.unique(dim=0)) == len(epochs)                        # never the same order twice
    assert not torch.equal(batch_index(100, 50, 0, seed=0), batch_index(100, 50, 0, seed=1))
    assert torch.equal(batch_index(50_000, 64, 10**6), batch_index(50_000, 64, 10**6))
    with pytest.raises(ValueError, match='n=0'): batch_index(0, 4, 0)

def test_batches_do_not_depend_on_what_came_before():
    alone = {step: batch_index(10, 3, step) for step in (31, 2, 17)}
    in_order = {step: batch_index(10, 3, step) for step in range(40)}
    assert all(torch.equal(in_order[step], index) for step, index in alone.items())

def test_step_generators_are_independent():
    def draw(*numbers): return torch.rand(4, generator=step_generator(*numbers)).tolist()
    assert draw(1, 2) == draw(1, 2)
    assert len({tuple(draw(seed, step)) for seed in range(5) for step in range(40)}) == 200

def test_seeded_dropout_restores_the_global_state():
    def drop(): return torch.nn.functional.dropout(torch.ones(99)).tolist()
    before = torch.get_rng_state()
    with seeded_dropout(torch.Generator().manual_seed(0)): first = drop()
    torch.manual_seed(123)
    moved = torch.get_rng_state()
    with pytest.raises(KeyError), seeded_dropout(torch.Generator().manual_seed(0)):
        assert drop() == first
        raise KeyError
    assert torch.equal(torch.get_rng_state(), moved) and not torch.equal(before, moved)

def test_ema_warms_up(data):
    start_model, final = fresh(0), fresh(1)
    ema = EMA(start_model, 0.9999)
    for step in range(30):
        ema.update(final, step)
    left = np.prod([ema_decay(step) for step in range(30)])
    assert left < 1e-6 < 0.99 < 0.9999**30
    for p, q in zip(ema.model.parameters(), final.parameters()):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-5)
    assert [ema_decay(s, 0.9) for s in (0, 80, 81, 1000)] == pytest.approx([0.1, 0.9, 0.9, 0.9])
    assert not ema.model.training and not any(p.requires_grad for p in ema.model.parameters())
    one = EMA(start_model, 0.9999)
    one.update(final, 10**7)
    for p, q, r in zip(one.model.parameters(), start_model.parameters(), final.parameters()):
        torch.testing.assert_close(p, 0.9999*q + 0.0001*r)

def test_gradient_reaches_every_parameter(data):
    model = fresh().train()
    opt = make_optimizer(model, TRAIN)
    start_weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    reached = set()
    for step in range(6):
        g = step_generator(0, step)
        train_step(model, *data.batch(batch_index(len(data), 24, step), g), opt, generator=g)
        reached |= {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert reached == start_weights.keys()
    assert all(not torch.equal(p, start_weights[name]) for name, p in model.named_parameters())

@pytest.mark.parametrize('fused', [True, False])
@pytest.mark.parametrize('clip', [0.01, 1e6])
def test_a_long_gradient_is_shortened(clip, fused, data):
    "Seen in the optimizer's moments: the first step itself is as long for any length of the gradient"
    model, config = fresh().train(), TRAIN
    twin, tokens, labels = fresh().train(), *data.batch(torch.arange(8), torch.Generator().manual_seed(0))
    opt = make_optimizer(model, config)
    if not fused: opt = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), fused=False)
    found = train_step(model, tokens, labels, opt, generator=step_generator(0, 0), clip=clip)
    g = step_generator(0, 0)
    with seeded_dropout(g): twin.loss(tokens, labels, generator=g)['loss'].backward()
    norm = sum(p.grad.square().sum() for p in twin.parameters())**.5
    assert found['grad_norm'] == pytest.approx(norm.item(), rel=1e-4) and 0.02 < norm < 1e3
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(opt.state[p]['exp_avg'], 0.1*q.grad*min(1, clip/norm.item()), rtol=1e-3, atol=1e-9)

def test_weight_decay_groups():
    model = fresh()
    decayed, free = make_optimizer(model, TRAIN).param_groups
    assert (decayed['weight_decay'], free['weight_decay'], decayed['betas']) == (0.02, 0.0, (0.9, 0.95))
    names = {p: n for n, p in model.named_parameters()}
    want = {n for p, n in names.items() if n.startswith('backbone.') and p.ndim > 1}
    assert {names[p] for p in decayed['params']} == want
    assert {names[p] for p in free['params']} == set(names.values()) - want

def test_learning_rate():
    c = TrainConfig(steps=100, warmup=0.1, lr=1.0)
    assert [learning_rate(c, s) for s in (0, 9, 10, 55)] == pytest.approx([0.1, 1, 1, 0.5])
    rates = [learning_rate(c, s) for s in range(100)]
    assert rates[10:] == sorted(rates[10:], reverse=True) and 0 < rates[-1] < 1e-3
    assert learning_rate(replace(c, decay=False), 99) == 1.0
    assert learning_rate(replace(c, warmup=0.0), 0) == 1.0

def test_precision():
    assert pick_precision('cpu', 'bf16') == (torch.bfloat16, 'as asked')
    assert pick_precision('cpu', 'fp32')[0] == torch.float32
    dtype, why = pick_precision('cpu')
    assert dtype in (torch.float32, torch.bfloat16)
    assert (dtype == torch.float32) == ('no bf16' in why or 'cannot say' in why)

def test_bf16_step_is_close_and_keeps_fp32_weights(data):
    losses = []
    for dtype in (torch.float32, torch.bfloat16):
        model, g = fresh().train(), torch.Generator().manual_seed(0)
        opt = make_optimizer(model, TRAIN)
        for _ in range(2):                                     # the first predicts zeros in any type
            part = train_step(model, *data.batch(torch.arange(32), g), opt, generator=g, dtype=dtype)
        assert part['loss'].dtype == torch.float32 and all(p.dtype == torch.float32 for p in model.parameters())
        losses.append(part['loss'].item())
    assert losses[0] != losses[1] and losses[0] == pytest.approx(losses[1], rel=0.05)

def test_token_data(data):
    assert data.std is None and len(data) == 128 and data.mean.dtype == torch.float16
    g = torch.Generator().manual_seed(0)
    tokens, labels = data.batch(torch.tensor([5, 5 + 64]), g)
    images = TOKENIZER.decode(tokens)
    torch.testing.assert_close(images[0], images[1].flip(-1))
    assert tokens.dtype == torch.float32 and labels[0] == labels[1]
    mean, std = torch.zeros(2, 16, 8).half(), torch.full((2, 16, 8), 3.0).half()
    unsure = TokenData(mean, std, torch.zeros(2, dtype=torch.int64))
    first, second = (unsure.batch(torch.tensor([0, 1]*50), g)[0] for _ in range(2))
    assert first.std().item() == pytest.approx(3, rel=0.05) and not torch.equal(first, second)
    assert unsure.mean.abs().sum() == 0                       # drawing must not write into the store

@pytest.mark.parametrize('wrong, message', [
    (dict(steps=0), 'steps=0'), (dict(batch_size=0), 'batch_size=0'), (dict(keep=0), 'keep=0'),
    (dict(lr=0.0), 'lr=0.0 must be positive'), (dict(clip=float('nan')), 'clip=nan'),
    (dict(warmup=100), 'share of the steps'), (dict(ema=1.0), r'ema=1.0 must lie in \[0, 1\)'),
    (dict(precision='fp16'), "'auto', 'bf16' or 'fp32'"), (dict(compile='yes'), "True, False or 'auto'")])
def test_settings_that_cannot_be(wrong, message):
    with pytest.raises(ValueError, match=message): TrainConfig(**wrong)

def test_run_config_round_trip():
    assert run_config_from(json.loads(json.dumps(asdict(RUN)))) == RUN
    with pytest.raises(ValueError, match='not a run configuration of this version'):
        run_config_from(asdict(RUN) | {'unknown': 1})

def test_fewer_rows_than_a_batch(tmp_path):
    few = encoded(n=10, flip=False)
    _, log = fit(fresh(), few, changed(steps=3), tmp_path/'run', tokenizer=TOKENIZER, classes=CLASSES)
    assert log[-1]['step'] == 3 and np.isfinite(log[-1]['loss'])

def test_stop_at_zero_trains_nothing(tmp_path):
    model, _, log = start(tmp_path/'run', stop_at=0)
    assert log == [] and same_weights(model, fresh())

@pytest.mark.parametrize('on', [False, True])
def test_prefetch_prepares_one_more_and_no_further(on):
    made = []
    def make(i):
        if i == 4: raise ValueError('four')
        made.append(i)
        return i
    coming = prefetch(make, range(6), on)
    assert next(coming) == 0
    time.sleep(.2)
    assert made == ([0, 1] if on else [0])
    assert [next(coming) for _ in range(3)] == [1, 2, 3]
    with pytest.raises(ValueError, match='four'): next(coming)

def test_prefetched_data_gives_the_same_weights(whole, tmp_path):
    "A data set that is not in memory goes through the other thread"
    class Elsewhere:
        def __init__(self, data): self.data = data
        def __len__(self): return len(self.data)
        def batch(self, *a): return self.data.batch(*a)
    model = fresh()
    fit(model, Elsewhere(encoded()), RUN, tmp_path/'run', tokenizer=TOKENIZER, classes=CLASSES)
    assert same_weights(model, load_checkpoint(latest_checkpoint(whole[0]), ema=False).model)

@pytest.mark.parametrize('kind', ['diffusion', 'cross-entropy'])
def test_warm_up_step_leaves_nothing_behind(kind):
    "Also with codes, of which every token has to be one"
    torch.manual_seed(0)
    model = AutoregressiveModel(replace(CONFIG, head=HeadConfig(kind=kind, blocks=1, width=16, codes=7)))
    if kind == 'cross-entropy': model.head.set_codebook(torch.randn(7, CONFIG.token_dim))
    before, seen, chance = [p.clone() for p in model.parameters()], [], torch.get_rng_state()
    hooks = [p.register_hook(lambda g: seen.append(g.abs().sum())) for p in model.parameters()]
    warm_up_step(model, model)
    assert len(seen) == len(hooks) and torch.stack(seen).any()             # a gradient reached every weight
    assert all(p.grad is None and torch.equal(p, b) for p, b in zip(model.parameters(), before))
    assert torch.equal(torch.get_rng_state(), chance)
