"Runs that do not hurt each other: what lies in a folder stays, one process writes there, and a stop saves"
import json, os, shutil, signal, subprocess, sys, time
from dataclasses import replace
from pathlib import Path
import numpy as np, pytest, torch
from marlearn.demo import demo, DemoConfig
from marlearn.engine import board, commands, outputs, pictures
from marlearn.engine.checkpoints import latest_checkpoint
from marlearn.engine.outputs import FolderLock, LOCK
from marlearn.engine.presets import tiny
from marlearn.engine.run import fit, read_log
from marlearn.data import load_shapes
from marlearn.files import atomic_file, atomic_folder, is_running, process_mark
from marlearn.mar import AutoregressiveModel
from marlearn.tokenizers import PixelTokenizer, save_tokenizer
from marlearn.train import encode_data, resolve_config
from tools import run

ENV = os.environ | {'OMP_NUM_THREADS': '1', 'MARLEARN_OFFLINE': '1'}
TINY = ['--preset', 'tiny', '--train.batch-size', 4, '--train.sample-every', 0, '--train.log-every', 1]

def start(*argv, **kw):
    return subprocess.Popen([sys.executable, '-m', 'marlearn', *map(str, argv)], env=ENV, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **kw)

def wait_until(there, process, seconds=100):
    until = time.monotonic() + seconds
    while not there():
        assert process.poll() is None and time.monotonic() < until
        time.sleep(.01)

def content(folder): return {p.relative_to(folder): p.read_bytes() for p in Path(folder).rglob('*') if p.is_file()}

# What lies in a folder

def make_run(folder):
    (folder/'checkpoints'/'step-00000002').mkdir(parents=True)
    (folder/'checkpoints'/'step-00000002'/'state.json').write_text('{"step": 2}')
    (folder/'log.jsonl').write_text('{"step": 2, "loss": 1.0}\n')

def make_tokenizer(folder): save_tokenizer(PixelTokenizer(8), folder)
def make_file(name):
    def make(folder):
        folder.mkdir()
        (folder/name).write_text('{"lr": 0.1}')
    return make

FOLDERS = {'run': make_run, 'tokenizer': make_tokenizer, 'latents': make_file('plan.json'),
           'pictures': make_file('pictures.json'), 'demo': make_file('demo.json'),
           'checkpoint': make_file('state.json'), 'notes': make_file('notes.txt'), 'log': make_file('log.jsonl')}
COMMANDS = {
    'demo': (['demo', '--steps', 2], FOLDERS.keys() - {'demo'}),
    'train': (['train', *TINY, '--train.steps', 2], FOLDERS.keys() - {'notes', 'log'}),
    'train-tokenizer': (['train-tokenizer', '--steps', 1], FOLDERS.keys()),
    'cache': (['cache', '--tokenizer', 'pixels', '--img-size', 32], FOLDERS.keys() - {'latents', 'tokenizer'}),
    'sample': (['sample', '--per-class', 1], FOLDERS.keys() - {'pictures'})}

@pytest.mark.parametrize('command, kind', [(c, k) for c in COMMANDS for k in sorted(COMMANDS[c][1])])
def test_a_folder_of_something_else_is_refused_and_stays(command, kind, folder, tmp_path, capsys, monkeypatch):
    def work(*_, **__): pytest.fail('work was done before the error')
    monkeypatch.setattr(pictures, 'load_data', work)
    monkeypatch.setattr('marlearn.engine.latents.write_latents', work)
    for module in ('drawing', 'evaluation'):
        monkeypatch.setattr(f'marlearn.engine.{module}.generate', work)
    FOLDERS[kind](tmp_path/'out')
    before = content(tmp_path/'out')
    data = [] if command == 'sample' else ['--data', folder]
    status, err = run(capsys, *COMMANDS[command][0], *data, '--out', tmp_path/'out')
    assert status == 2 and 'already holds' in err and 'choose another' in err, err
    assert content(tmp_path/'out') == before

@pytest.mark.parametrize('command', [['evaluate', '--n', 2], ['measure-tokenizer', '--n', 20]])
def test_a_json_file_that_is_no_result_is_not_written_over(command, folder, tmp_path, capsys):
    for name, text in (('config.json', '{"step": 1}'), ('x.json', '[1]'), ('y.json', 'text'), ('z.json', '')):
        (tmp_path/name).write_text(text)
        status, err = run(capsys, *command, '--data', folder, '--out', tmp_path/name)
        assert status == 2 and 'choose another --out' in err and (tmp_path/name).read_text() == text
    args = ['measure-tokenizer', '--tokenizer', 'pixels', '--data', folder, '--n', 20, '--out', tmp_path/'m.json']
    for _ in range(2): assert run(capsys, *args)[0] == 0                       # an earlier result is replaced

def test_a_demo_that_became_a_run_is_no_demo_any_more(folder, tmp_path, capsys):
    for steps in (4, 2):
        demo(DemoConfig(data=str(folder), out=tmp_path/'out', steps=steps, per_class=1, diff_steps=2, run=tiny()))
    assert latest_checkpoint(tmp_path/'out').name == 'step-00000002' and not (tmp_path/'out'/'abandoned').exists()
    base = ['train', '--preset', 'tiny', '--data', folder, '--out', tmp_path/'out', '--train.sample-every', 0]
    status, err = run(capsys, *base)
    assert status == 2 and 'already holds checkpoints' in err
    assert run(capsys, *base, '--train.steps', 3, '--resume')[0] == 0
    before = content(tmp_path/'out')
    status, err = run(capsys, 'demo', '--data', folder, '--steps', 2, '--out', tmp_path/'out')
    assert status == 2 and 'a training run' in err and content(tmp_path/'out') == before

def test_writing_in_one_step_replaces_itself_and_nothing_else(tmp_path):
    make_run(tmp_path/'run')
    before = content(tmp_path/'run')
    for k in (1, 2):
        with pytest.warns(UserWarning, match='checkpoints, log.jsonl'): make_tokenizer(tmp_path/'run')
        assert content(tmp_path/f'run.before-{k}') == before and (tmp_path/'run'/'tokenizer.json').exists()
        shutil.rmtree(tmp_path/'run')
        shutil.copytree(tmp_path/'run.before-1', tmp_path/'run')
    for _ in range(2): make_tokenizer(tmp_path/'tokenizer')
    (tmp_path/'file').write_text('mine')
    with pytest.warns(UserWarning, match='moved to'):
        with atomic_folder(tmp_path/'file'): pass
    assert (tmp_path/'file.before-1').read_text() == 'mine'
    (tmp_path/'file').rmdir()
    (tmp_path/'file').write_text('mine')
    with pytest.raises(OSError):
        with atomic_file(tmp_path/'file') as new:
            new.write_text('half')
            raise OSError('full')
    assert (tmp_path/'file').read_text() == 'mine' and not list(tmp_path.glob('*unfinished*'))

# One at a time

def elsewhere(folder, seconds=0.0):
    "A lock of a process on another machine, touched some seconds ago"
    (folder/LOCK).write_text(json.dumps({'mark': 'elsewhere-1-1', 'host': 'node7', 'pid': 1, 'user': 'ann',
                                         'since': 'today', 'purpose': 'marlearn train'}))
    os.utime(folder/LOCK, (time.time() - seconds,)*2)

def test_a_mark_names_one_process():
    machine, pid, began = process_mark().split('-')
    assert is_running(process_mark()) is True and is_running(f'{machine}-{pid}-{int(began) - 1}') is False
    child = subprocess.Popen(['sleep', '60'])
    from marlearn.files import _start_of
    mark = f'{machine}-{child.pid}-{_start_of(child.pid)}'
    assert is_running(mark)
    child.kill()
    time.sleep(.2)
    assert is_running(mark) is False                                           # a zombie: nobody has waited for it yet
    child.wait()
    assert is_running(mark) is False
    for other in (f'elsewhere-{pid}-{began}', '', 'None', '17', f'{machine}-x-1'): assert is_running(other) is None

def test_a_lock_is_kept_and_let_go(tmp_path):
    for error in (None, KeyboardInterrupt, ValueError):
        try:
            with FolderLock(tmp_path, 'one'):
                with pytest.raises(FileExistsError, match=f'process {os.getpid()} of .* \\(one, since'):
                    with FolderLock(tmp_path, 'two'): pass
                if error: raise error
        except (KeyboardInterrupt, ValueError): pass
        assert list(tmp_path.iterdir()) == []

@pytest.mark.parametrize('text', ['', '{', '[]', '{}'])
def test_a_lock_that_cannot_be_read_counts_until_it_is_old(text, tmp_path):
    (tmp_path/LOCK).write_text(text)
    with pytest.raises(FileExistsError, match='does not name'):
        with FolderLock(tmp_path, 'run'): pass
    os.utime(tmp_path/LOCK, (time.time() - 301,)*2)
    with FolderLock(tmp_path, 'run'): pass
    assert list(tmp_path.iterdir()) == []

def test_a_lock_of_another_machine_counts_while_it_gives_signs_of_life(tmp_path, monkeypatch, capsys):
    elsewhere(tmp_path, 299 - 30)
    with pytest.raises(FileExistsError, match='process 1 of ann on node7 .*5 minutes after.*remove'):
        with FolderLock(tmp_path, 'run'): pass
    elsewhere(tmp_path, 301)
    with FolderLock(tmp_path, 'run'): pass
    monkeypatch.setattr(outputs, 'SILENCE', 1.0)
    monkeypatch.setattr(outputs, 'BEAT', .1)
    elsewhere(tmp_path)
    began = time.monotonic()
    with FolderLock(tmp_path, 'run', wait=True):                               # it was silent for long enough
        assert time.monotonic() - began > .5 and json.loads((tmp_path/LOCK).read_text())['pid'] == os.getpid()
        before = (tmp_path/LOCK).stat().st_mtime
        time.sleep(.4)
        assert (tmp_path/LOCK).stat().st_mtime > before                        # a sign of life of ours
    elsewhere(tmp_path)
    touch = f'while true; do sleep .1; touch "{tmp_path}/{LOCK}"; done'
    alive = subprocess.Popen(['bash', '-c', touch])
    try:
        with pytest.raises(FileExistsError, match='node7'):
            with FolderLock(tmp_path, 'run', wait=True): pass
    finally:
        alive.kill()
        alive.wait()
    assert 'no sign of life' not in capsys.readouterr().out

def test_a_lock_that_somebody_took_is_not_let_go(tmp_path):
    with FolderLock(tmp_path, 'run'):
        (tmp_path/LOCK).unlink()
        elsewhere(tmp_path)
    assert json.loads((tmp_path/LOCK).read_text())['host'] == 'node7'

def test_two_runs_in_one_folder_and_one_after_a_kill(folder, tmp_path):
    args = ['train', *TINY, '--data', folder, '--train.steps', 4000, '--train.save-every', 2, '--out', tmp_path/'run']
    first = start(*args)
    wait_until((tmp_path/'run'/LOCK).exists, first)
    for command in (args, ['demo', '--data', folder, '--steps', 2, '--out', tmp_path/'run']):
        second = start(*command)
        said = second.communicate(timeout=100)[0]
        assert second.returncode == 2 and f'in use by process {first.pid} of' in said, said
    wait_until(lambda: latest_checkpoint(tmp_path/'run'), first)
    first.kill()
    first.communicate()
    third = start(*args, '--auto-resume', '--train.steps', 20)
    said = third.communicate(timeout=100)[0]
    assert third.returncode == 0 and not (tmp_path/'run'/LOCK).exists(), said

# A stop saves

@pytest.mark.parametrize('name', ['SIGUSR1', 'SIGINT'])
def test_a_signal_saves(name, folder, tmp_path):
    args = ['train', *TINY, '--data', folder, '--train.steps', 4000, '--train.save-every', 4000, '--out',
            tmp_path/'run']
    going = start(*args)
    wait_until(lambda: len(read_log(tmp_path/'run/log.jsonl')) >= 3, going)
    going.send_signal(getattr(signal, name))
    said = going.communicate(timeout=60)[0]
    step = read_log(tmp_path/'run/log.jsonl')[-1]['step']
    assert going.returncode == 75 and latest_checkpoint(tmp_path/'run').name == f'step-{step:08d}', said
    assert not (tmp_path/'run'/LOCK).exists()

@pytest.mark.parametrize('name, status', [('SIGUSR1', 75), ('SIGINT', 130)])
def test_a_signal_before_the_first_step_ends_with_one_line(name, status, tmp_path):
    going = start('train', *TINY, '--data', 'shapes', '--out', tmp_path/'run')
    wait_until((tmp_path/'run'/LOCK).exists, going)
    going.send_signal(getattr(signal, name))
    said = going.communicate(timeout=60)[0]
    assert going.returncode == status and f'stopped by {name} before the first step' in said, said
    assert 'Traceback' not in said and list((tmp_path/'run').iterdir()) == []

@pytest.mark.parametrize('there', ['', '{"pid": 1}'])
def test_a_signal_while_the_lock_is_made(there, tmp_path, monkeypatch):
    "What we had begun goes; what another process has finished stays"
    def interrupted(path, *args, **kw):
        path.write_text(there)
        raise KeyboardInterrupt
    monkeypatch.setattr(outputs, 'open', interrupted, raising=False)
    with pytest.raises(KeyboardInterrupt), outputs.FolderLock(tmp_path, 'a test'): pass
    assert [file.read_text() for file in tmp_path.iterdir()] == ([there] if there else [])

def test_what_a_signal_does_when():
    before = [signal.getsignal(number) for number in commands.STOP_SIGNALS]
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with commands.StopSignals() as signals:
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN            # as nohup wants it
            with pytest.raises(KeyboardInterrupt): signal.raise_signal(signal.SIGUSR1)
            signals.training = True
            assert not signals()
            for _ in range(2): signal.raise_signal(signal.SIGTERM)
            assert signals()
            with pytest.raises(KeyboardInterrupt): signal.raise_signal(signal.SIGINT)      # the person is impatient
    finally:
        for number, handler in zip(commands.STOP_SIGNALS, before): signal.signal(number, handler)

# Refused before any work

def test_another_network_is_refused_before_pictures_are_decoded(folder, tmp_path, capsys, monkeypatch):
    base = ['train', *TINY, '--data', folder, '--out', tmp_path/'run', '--train.steps', 2]
    assert run(capsys, *base)[0] == 0
    def decode(*_, **__): pytest.fail('decoded')
    monkeypatch.setattr(pictures, 'load_data', decode)
    for more, message in ((['--model.width', 48], 'model.width was'), (['--tokenizer', 'pixels'], 'was'),
                          (['--variant', 'random-causal'], 'model.backbone was')):
        status, err = run(capsys, *base, '--resume', *more)
        assert status == 2 and 'belongs to another run' in err and message in err, err

def test_other_classes_are_refused_before_pictures_are_encoded(folder, tmp_path, capsys, monkeypatch):
    base = ['train', *TINY, '--out', tmp_path/'run', '--train.steps', 2]
    assert run(capsys, *base, '--data', folder)[0] == 0
    shutil.copytree(folder, tmp_path/'other')
    (tmp_path/'other'/'red').rename(tmp_path/'other'/'green')
    monkeypatch.setattr('marlearn.train.encode_data', lambda *_, **__: pytest.fail('encoded'))
    status, err = run(capsys, *base, '--data', tmp_path/'other', '--resume')
    assert status == 2 and 'classes was' in err

@pytest.mark.parametrize('more, message', [(['--n', 15], 'n=15 must be a multiple of the 10 classes'),
                                           (['--n', 10, '--seeds', 0], '--seeds 0'),
                                           (['--n', 10, '--batch-size', 0], '--batch-size 0')])
def test_an_impossible_evaluation_is_refused_before_pictures_are_decoded(more, message, folder, tmp_path, capsys,
                                                                        monkeypatch):
    monkeypatch.setattr(commands, 'load_reference', lambda *_: pytest.fail('decoded'))
    status, err = run(capsys, 'evaluate', '--data', folder, '--out', tmp_path/'e.json', *more)
    assert status == 2 and message in err

def test_space_is_taken_before_the_first_picture_is_decoded(tmp_path):
    resource = pytest.importorskip('resource')
    def no_picture():
        pytest.fail('decoded')
        yield
    limits, before = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
        with pytest.raises(OSError, match='the image cache .* could not be written.*make room'):
            pictures.write_cache(tmp_path/'x', (400, 3, 32, 32), no_picture(), {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert list(tmp_path.iterdir()) == []

@pytest.mark.parametrize('reserve', ['by the system', 'by zeros'])
def test_rows_that_were_not_filled_are_closed_up(reserve, tmp_path, monkeypatch):
    if reserve == 'by zeros': monkeypatch.delattr(os, 'posix_fallocate')
    drawn = np.random.default_rng(0).integers(0, 256, (9, 3, 700, 701), dtype=np.uint8)
    order, broken = [4, 8, 0, 2, 7, 5], [1, 3, 6]
    pictures.write_cache(tmp_path/'x', drawn.shape, ((i, drawn[i], i) for i in order), {'classes': 'ab'})
    images, labels, _ = pictures.read_cache(tmp_path/'x')
    assert np.array_equal(images, np.delete(drawn, broken, 0)) and labels.tolist() == sorted(order)
    assert os.stat(tmp_path/'x'/'images.npy').st_blocks*512 >= drawn.nbytes

# The loop

def small_run(out, on_sample=None, on_log=None, **train):
    tokenizer, shapes = PixelTokenizer(8), load_shapes(n=16)
    config = tiny()
    config = replace(config, model=resolve_config(config.model, tokenizer, 32, 10),
                     train=replace(config.train, batch_size=4, log_every=1, precision='fp32', **train))
    torch.manual_seed(0)
    return fit(AutoregressiveModel(config.model), encode_data(tokenizer, shapes, quiet=True), config, out,
               tokenizer=tokenizer, classes=shapes.classes, on_sample=on_sample, on_log=on_log)

def test_a_step_is_saved_before_samples_are_drawn_and_a_failure_there_ends_nothing(tmp_path):
    seen, rows = [], []
    def on_sample(step, model, ema):
        model.eval()
        seen.append((step, latest_checkpoint(tmp_path/'run').name))
        raise ValueError('$1_$5')
    with pytest.warns(UserWarning, match=r'nothing was drawn after step 4 \(ValueError: \$1_\$5\)'):
        _, log = small_run(tmp_path/'run', on_sample, rows.append, steps=6, save_every=2, sample_every=2)
    assert seen == [(2, 'step-00000002'), (4, 'step-00000004')] and rows == log and log[-1]['step'] == 6
    quiet = small_run(tmp_path/'other', steps=6, save_every=2, sample_every=0)
    assert [r['loss'] for r in log] == [r['loss'] for r in quiet[1]]            # training mode was put back

def test_what_is_set_aside_is_kept_each_time(tmp_path):
    for k in range(3):
        small_run(tmp_path/'run', steps=2 + k)
        (tmp_path/'run'/'log.jsonl').open('a').write(json.dumps({'step': 99, 'run': k}) + '\n')
    aside = [tmp_path/'run'/name for name in ('abandoned', 'abandoned-2')]
    for k, folder in enumerate(aside):
        assert sorted(f.name for f in folder.iterdir()) == ['log.jsonl', f'step-{2 + k:08d}']
        assert read_log(folder/'log.jsonl')[-1] == {'step': 99, 'run': k}

def test_a_log_of_something_else_is_set_aside(tmp_path):
    (tmp_path/'run').mkdir()
    (tmp_path/'run'/'log.jsonl').write_text('[1]\n{"epoch": 3}\n')
    _, log = small_run(tmp_path/'run', steps=2)
    assert (tmp_path/'run'/'abandoned'/'log.jsonl').read_text() == '[1]\n{"epoch": 3}\n'
    assert read_log(tmp_path/'run'/'log.jsonl') == log

# TensorBoard

def test_tensorboard_that_is_not_there_is_said_before_any_work(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(board.importlib.util, 'find_spec', lambda name: None)
    for option in ('--tensorboard', '--train.tensorboard'):
        status, err = run(capsys, 'train', *TINY, option, '--out', tmp_path/'run')
        assert status == 2 and 'pip install tensorboard' in err and not (tmp_path/'run').exists()

def test_tensorboard_shows_log_and_samples(folder, tmp_path, capsys):
    events = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
    base = ['train', *TINY, '--data', folder, '--out', tmp_path/'run', '--tensorboard', '--train.save-every', 2,
            '--train.sample-every', 2]
    assert run(capsys, *base, '--train.steps', 3)[0] == 0
    assert run(capsys, *base, '--train.steps', 5, '--resume')[0] == 0
    found = events.EventAccumulator(str(tmp_path/'run'/'tensorboard')).Reload()
    log = read_log(tmp_path/'run'/'log.jsonl')
    assert [(e.step, round(e.value, 4)) for e in found.Scalars('loss')] == [
        (r['step'], round(r['loss'], 4)) for r in log]
    assert [i.step for i in found.Images('samples')] == [2, 4]

