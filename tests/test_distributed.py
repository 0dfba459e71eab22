"Real processes: two are one, pieces are the whole, kills leave no trace, and who is missing gets named"
import json, os, random, shutil, signal, subprocess, sys, tarfile, tempfile, time
from pathlib import Path
import pytest, torch
from PIL import Image
from marlearn.data import load_shapes
from marlearn.engine.checkpoints import latest_checkpoint, load_checkpoint
from marlearn.engine.processes import can_shard, check_can_shard
from marlearn.engine.run import read_log
from marlearn.engine.latents import write_latents
from marlearn.files import pretrained
from marlearn.tokenizers import load_tokenizer
from tools import free_port, kill, run_forked, start_forked

LATENTS = Path(tempfile.mkdtemp())/'latents'                           # made once, below: encoding takes its time
ENV = os.environ | {'OMP_NUM_THREADS': '1', 'MARLEARN_OFFLINE': '1'}
RUN = ['train', '--preset', 'tiny', '--data', LATENTS, '--train.precision', 'fp32', '--train.sample-every', '0',
       '--train.log-every', '1']
CAN_SHARD = can_shard('cpu')
IN_PIECES = pytest.param('fsdp', marks=pytest.mark.skipif(not CAN_SHARD, reason='FSDP2 on CPUs is wrong in this torch'))
TORCHRUN = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node']

def command(processes, *args, restarts=0):
    torchrun = [*TORCHRUN, str(processes), '--max-restarts', str(restarts)]
    return [*(torchrun if processes > 1 else [sys.executable]), '-m', 'marlearn', *map(str, args)]

def run(processes, *args, code=0):
    "As a user does it"
    done = subprocess.run(command(processes, *args), capture_output=True, text=True, env=ENV, timeout=300)
    assert done.returncode == code, done.stderr[-3000:]
    return done.stdout + done.stderr

def start(log, *args, **kw):
    "Begin, and go on; what is said goes to a file, since a full pipe would stop the run"
    return subprocess.Popen(command(*args, **kw), env=ENV, stdout=open(log, 'w'), stderr=subprocess.STDOUT)

def wait_until(there, at_work):
    "Look again and again, as long as the processes are at work"
    while not there():
        assert at_work()
        time.sleep(.02)

def workers_of(launcher):
    "The processes that `torchrun` started"
    import psutil
    children = psutil.Process(launcher.pid).children()
    return [child.pid for child in children if 'marlearn' in ' '.join(child.cmdline())]

def weights(folder, ema=False):
    model = load_checkpoint(latest_checkpoint(folder), ema=ema).model
    return torch.cat([p.detach().flatten() for p in model.parameters()])

@pytest.fixture(scope='module', autouse=True)
def latents():
    shapes, home = load_shapes(n=100), LATENTS.parent
    for i in range(100):
        x, y = shapes.batch([i])
        (home/'pictures'/shapes.classes[y]).mkdir(parents=True, exist_ok=True)
        pixels = ((x[0] + 1)*127.5).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(home/'pictures'/shapes.classes[y]/f'{i:02d}.png')
    tokenizer = load_tokenizer(pretrained('tokenizer'))
    write_latents(LATENTS, home/'pictures', tokenizer, img_size=32, shard_size=30, quiet=True)
    yield
    shutil.rmtree(home)

@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    "The same run as one process in two parts, as two processes, and as two processes that hold pieces"
    home = tmp_path_factory.mktemp('ranks')
    run_forked(1, *RUN, '--train.accumulate', 2, '--out', home/'one')
    run_forked(2, *RUN, '--out', home/'ddp')
    if CAN_SHARD: run_forked(2, *RUN, '--shard', '--out', home/'fsdp')
    return home

@pytest.mark.parametrize('ema', [False, True])
@pytest.mark.parametrize('how', ['ddp', IN_PIECES])
def test_two_processes_are_one_that_does_both_parts(runs, how, ema):
    # 40 steps, with sums in another order
    torch.testing.assert_close(weights(runs/how, ema), weights(runs/'one', ema), rtol=1e-4, atol=2e-5)
    a, b = (read_log(runs/f/'log.jsonl') for f in (how, 'one'))
    assert [r['step'] for r in a] == [r['step'] for r in b] == list(range(1, 41))
    assert max(abs(x['loss'] - y['loss']) for x, y in zip(a, b)) < 1e-4

def test_pieces_need_a_pytorch_that_can_hold_them(monkeypatch):
    for version, right in (('2.6.0', False), ('2.8.0+cu128', False), ('2.14.1+cu130', True), ('3.0.0', True)):
        monkeypatch.setattr(torch, '__version__', version)
        assert can_shard('cpu') == right and can_shard('cuda:0')
        check_can_shard('cuda:0')
        if right: check_can_shard('cpu')
        else:
            with pytest.raises(RuntimeError, match='need PyTorch 2.14, this is .*leave out --shard'):
                check_can_shard('cpu')

def test_two_machines_are_one_with_two_processes(runs, tmp_path):
    "scripts/nodes.sh, started twice"
    script = str(Path(__file__).resolve().parent.parent/'scripts'/'nodes.sh')
    env = ENV | {'PORT': free_port(), 'PYTHON': sys.executable}
    line = ['bash', script, '127.0.0.1', '2', '1', *map(str, RUN), '--out', str(tmp_path/'run')]
    logs = [tmp_path/f'log{k}' for k in range(2)]
    machines = [subprocess.Popen(line, env=env, stdout=open(log, 'w'), stderr=subprocess.STDOUT) for log in logs]
    for machine, log in zip(machines, logs):
        assert machine.wait(timeout=200) == 0, log.read_text()[-3000:]
    assert torch.equal(weights(tmp_path/'run'), weights(runs/'ddp'))
    help = subprocess.run(['bash', script], capture_output=True, text=True)
    assert help.returncode == 2 and 'ADDRESS MACHINES GPUS_OF_EACH' in help.stdout

def test_a_disk_that_fills_up_is_said_once_and_costs_nothing(runs, tmp_path):
    "Files may not grow beyond 100 KB: no checkpoint can be written"
    go = command(2, *RUN, '--auto-resume', '--out', tmp_path/'run')
    line = ['bash', '-c', 'ulimit -f 100; exec "$@"', 'limited', *go]
    done = subprocess.run(line, capture_output=True, text=True, env=ENV, timeout=200)
    said = done.stdout + done.stderr
    assert done.returncode != 0 and said.count('the state after step 20 could not be saved') == 1, said[-3000:]
    assert 'make room, then go on with --resume' in said and 'marlearn/engine/run.py' not in said, said[-3000:]
    assert list((tmp_path/'run/checkpoints').iterdir()) == []
    run_forked(2, *RUN, '--auto-resume', '--out', tmp_path/'run')
    assert torch.equal(weights(tmp_path/'run'), weights(runs/'ddp'))

def test_parts_differ(tmp_path, runs):
    run_forked(1, *RUN, '--out', tmp_path/'whole')                         # one part: other masks and noise
    assert (weights(tmp_path/'whole') - weights(runs/'one')).abs().max() > 1e-3

@pytest.mark.parametrize('how', ['two', 'three', 'three, in pieces'])
def test_a_dead_process_is_started_again_and_leaves_no_trace(runs, tmp_path, how):
    "By torchrun, or by the same command; from three on, the order of a sum shows in its last bit"
    args = RUN if how == 'two' else [*RUN, '--train.batch-size', 12, *['--shard']*('pieces' in how)]
    processes, whole = 2 if how == 'two' else 3, runs/'ddp' if how == 'two' else tmp_path/'whole'
    if how != 'two': run_forked(processes, *args, '--out', whole)
    saves = ['--train.save-every', 5, '--train.keep', 50]
    def saved(): return list(tmp_path.glob('run/checkpoints/step-0000000?'))
    if how == 'two':
        going = start(tmp_path/'log', processes, *args, *saves, '--out', tmp_path/'run', restarts=2)
        wait_until(saved, lambda: going.poll() is None)
        os.kill(random.choice(workers_of(going)), signal.SIGKILL)
        assert going.wait(timeout=100) == 0, (tmp_path/'log').read_text()[-3000:]
    else:
        ranks = start_forked(processes, tmp_path/'log', *args, *saves, '--out', tmp_path/'run')
        wait_until(saved, lambda: all(rank.is_alive() for rank in ranks))
        random.choice(ranks).kill()
        for rank in ranks: rank.join(timeout=100)
        assert all(rank.exitcode for rank in ranks)                        # none went on alone
        run_forked(processes, *args, *saves, '--auto-resume', '--out', tmp_path/'run')
    for ema in (False, True):
        assert torch.equal(weights(tmp_path/'run', ema), weights(whole, ema))

@pytest.fixture(scope='module')
def stopped(tmp_path_factory):
    "A run of two processes, killed after step 10"
    out = tmp_path_factory.mktemp('stopped')/'run'
    ranks = start_forked(2, out.parent/'log', *RUN, '--train.save-every', 10, '--out', out)
    wait_until((out/'checkpoints/step-00000010').exists, lambda: all(rank.is_alive() for rank in ranks))
    kill(ranks)
    return out

@pytest.mark.parametrize('processes, more, how', [
    (1, ['--train.accumulate', '2'], 'to rounding only'), (1, [], 'masks, noise and dropout differ'),
    (2, ['--shard'], '')])
def test_another_number_of_processes_goes_on_and_says_what_changes(
        runs, stopped, tmp_path, processes, more, how):
    shutil.copytree(stopped, tmp_path/'run')
    said = run_forked(processes, *RUN, '--out', tmp_path/'run', '--resume', *more)
    assert how in said and ('note' in said) == bool(how)
    if 'noise' not in how:
        torch.testing.assert_close(weights(tmp_path/'run'), weights(runs/'one'), rtol=1e-4, atol=2e-5)

def test_killed_ten_times(tmp_path):
    "One process, ten kills at random moments, each followed by the same command"
    args = [*RUN, '--train.steps', 150, '--train.save-every', 7]
    run_forked(1, *args, '--out', tmp_path/'whole')
    chance = random.Random()
    for _ in range(10):
        before = len(read_log(tmp_path/'run/log.jsonl'))
        going = start_forked(1, tmp_path/'log', *args, '--auto-resume', '--out', tmp_path/'run')
        while going[0].is_alive() and len(read_log(tmp_path/'run/log.jsonl')) <= before:
            time.sleep(.01)
        time.sleep(chance.uniform(0, .25))
        kill(going)
    run_forked(1, *args, '--auto-resume', '--out', tmp_path/'run')
    for ema in (False, True):
        assert torch.equal(weights(tmp_path/'run', ema), weights(tmp_path/'whole', ema))

@pytest.mark.parametrize('processes', [1, 2])
def test_sigterm_saves_and_asks_for_a_requeue(tmp_path, processes):
    args = [*RUN, '--train.steps', 400, '--train.save-every', 400, '--auto-resume', '--out', tmp_path/'run']
    going = start(tmp_path/'log', processes, *args)
    wait_until(lambda: len(read_log(tmp_path/'run/log.jsonl')) >= 5, lambda: going.poll() is None)
    going.send_signal(signal.SIGTERM)                                      # torchrun passes it on
    code, said = going.wait(timeout=60), (tmp_path/'log').read_text()
    step = read_log(tmp_path/'run/log.jsonl')[-1]['step']
    assert 5 <= step < 400 and latest_checkpoint(tmp_path/'run').name == f'step-{step:08d}', said[-2000:]
    if processes == 1: assert code == 75 and 'go on with --resume' in said
    else: assert code != 0

def test_pictures_drawn_by_three_processes_with_kills(tmp_path):
    "Killed at random moments, and with another number of processes, an evaluation ends with the same numbers"
    args = ['evaluate', '--data', LATENTS.parent/'pictures', '--num-images', 60, '--seeds', 2, '--ar-steps', 4,
            '--diff-steps', 20, '--batch-size', 6]
    def n_drawn(): return len(list(tmp_path.glob('e-pictures/*/*/*.png')))
    run_forked(1, *args, '--out', tmp_path/'whole.json')
    chance = random.Random(0)
    for _ in range(3):
        ranks = start_forked(3, tmp_path/'log', *args, '--out', tmp_path/'e.json')
        enough, until = n_drawn() + chance.randint(1, 20), time.monotonic() + 120
        while n_drawn() < enough and all(rank.is_alive() for rank in ranks) and time.monotonic() < until:
            time.sleep(.01)
        kill(ranks)
    assert not (tmp_path/'e.json').exists() and 3 <= n_drawn() < 120       # each start drew something, none finished
    run_forked(2, *args, '--out', tmp_path/'e.json')
    found, want = (json.loads((tmp_path/f'{name}.json').read_text())['per seed'] for name in ('e', 'whole'))
    assert found == want and n_drawn() == 120 and not list(tmp_path.rglob('*unfinished*'))

HANGS = '''
import sys, time
from marlearn.data import load_shapes
from marlearn.engine.presets import preset
from marlearn.engine.processes import MultiProcess
from marlearn.engine.run import RunConfig, fit
from marlearn.mar import AutoregressiveModel
from marlearn.tokenizers import PixelTokenizer
from marlearn.train import encode_data, resolve_config, TrainConfig
processes, tokenizer, pictures = MultiProcess(timeout=4), PixelTokenizer(8), load_shapes(n=40)
class Sleepy:
    data, calls = encode_data(tokenizer, pictures, quiet=True), 0
    def __len__(self): return len(self.data)
    def batch(self, *a):
        Sleepy.calls += 1
        if processes.rank == 1 and Sleepy.calls == 4: time.sleep(60)
        return self.data.batch(*a)
model = resolve_config(preset('tiny').model, tokenizer, 32, 10)
run = RunConfig(model=model, train=TrainConfig(steps=9, batch_size=16, sample_every=0))
fit(AutoregressiveModel(model), Sleepy(), run, sys.argv[1], tokenizer=tokenizer, classes=pictures.classes,
    processes=processes)
'''

def test_a_process_that_hangs_is_named(tmp_path):
    (tmp_path/'hangs.py').write_text(HANGS)
    start = time.monotonic()
    line = [*TORCHRUN, '2', str(tmp_path/'hangs.py'), str(tmp_path/'run')]
    done = subprocess.run(line, capture_output=True, text=True, env=ENV, timeout=100)
    assert done.returncode != 0
    assert 'TimeoutError: step 4: rank 1 of 2 does not answer' in done.stderr, done.stderr[-3000:]
    assert time.monotonic() - start < 55

def test_refusals(tmp_path):
    assert 'cannot be shared by 3 processes' in run(3, *RUN, '--out', tmp_path/'three', code=1)
    assert 'start them with torchrun' in run(1, *RUN, '--shard', '--out', tmp_path/'alone', code=2)

def test_rehearsal_of_a_large_run(tmp_path):
    "scripts/rehearse.py at a reduced size: cache, plan, train on two processes, resume, sample, evaluate"
    with tarfile.open(tmp_path/'pictures.tar', 'w') as tar:
        tar.add(LATENTS.parent/'pictures', 'pictures')
    script = Path(__file__).resolve().parent.parent/'scripts'/'rehearse.py'
    line = [sys.executable, script, tmp_path/'pictures.tar', '--small', '--pictures', '8', '--out', tmp_path/'out']
    done = subprocess.run(line, capture_output=True, text=True, env=ENV, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert 'step-00000004 is the end of the run' in done.stdout and (tmp_path/'out/samples.png').exists()
    assert [r['step'] for r in read_log(tmp_path/'out/run/log.jsonl')] == [1, 2, 3, 4]
    assert json.loads((tmp_path/'out/evaluation.json').read_text())['reference'].startswith('pictures')
