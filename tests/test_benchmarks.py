"The plain rendering that benchmarks compare with is an oracle: same weights, same noise, same result; and FLOPs are those that torch counts"
import json, subprocess, sys
from pathlib import Path
import pytest, torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from benchmarks import plain, sample, train
from marlearn import plan as flops
from benchmarks.common import MODELS, peak, peak_memory, peaks, set_shares, side_by_side, table
from marlearn.generate import generate
from marlearn.orders import draw_n_known, make_order

ROOT = Path(__file__).resolve().parents[1]

def seeded(seed=0): return torch.Generator().manual_seed(seed)

@pytest.fixture(scope='module')
def model():
    model = sample.make_model('tiny', 'cpu').requires_grad_(True)
    model.head.config = type(model.head.config)(**{**model.head.config.__dict__, 'x0_limit': 3.0})            # untrained, it would run away
    return model

@pytest.mark.parametrize('cfg_scale', [1.0, 3.0])
@pytest.mark.parametrize('ar_steps', [1, 5, 16])
def test_generation_equals_the_plain_one(model, cfg_scale, ar_steps):
    options = {'ar_steps': ar_steps, 'diff_steps': 20, 'cfg_scale': cfg_scale, 'temperature': 0.9}
    slow, fast = (f(model, torch.arange(5), generator=seeded(3), **options) for f in (plain.generate, generate))
    torch.testing.assert_close(fast, slow, atol=2e-5, rtol=1e-4)
    assert slow.std() > 0.1

def test_half_precision_stays_close_to_the_plain_generation(model):
    slow = plain.generate(model, torch.arange(5), ar_steps=8, diff_steps=20, cfg_scale=3.0, generator=seeded(3))
    with torch.autocast('cpu', torch.bfloat16): fast = generate(model, torch.arange(5), ar_steps=8, diff_steps=20, cfg_scale=3.0, generator=seeded(3))
    assert 0 < (fast - slow).square().mean().sqrt() < 0.05*slow.std()

@pytest.mark.parametrize('seed', range(4))
def test_loss_and_gradient_equal_the_plain_ones(model, seed):
    c, gradients, values = model.config, [], []
    tokens, labels = torch.randn(6, c.n_tokens, c.token_dim, generator=seeded(seed)), torch.arange(6)
    for f in (lambda: plain.loss(model, tokens, labels, seeded(seed)), lambda: model.loss(tokens, labels, generator=seeded(seed))['loss']):
        model.zero_grad(); value = f(); value.backward()
        values.append(value.detach()); gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(*values, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-4)

@pytest.mark.parametrize('name', ['tiny', 'toy'])
def test_flops_of_a_training_step(name):
    model = sample.make_model(name, 'cpu').requires_grad_(True).train()
    c, B, g = model.config, 3, seeded(5)
    tokens, labels = torch.randn(B, c.n_tokens, c.token_dim), torch.arange(B)
    make_order(c.order, B, c.n_tokens, g, torch.device('cpu')); n_known = draw_n_known(c.n_tokens, g, c.min_mask_ratio, c.mask_std)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter: model.loss(tokens, labels, generator=seeded(5))['loss'].backward()
    assert counter.get_total_flops() == flops.training(c, B, n_known)

@pytest.mark.parametrize('cfg_scale', [1.0, 3.0])
def test_flops_of_a_generation(cfg_scale):
    model = sample.make_model('tiny', 'cpu')
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter: plain.generate(model, torch.arange(2), ar_steps=4, diff_steps=7, cfg_scale=cfg_scale)
    needed = flops.generation(model.config, 2, 4, 7, cfg_scale != 1.0)
    assert needed < counter.get_total_flops() == flops.generation(model.config, 2, 4, 7, cfg_scale != 1.0, plain=True)

@pytest.mark.parametrize('batch', [3, 8])
def test_both_modes_hide_the_tokens_that_are_counted(batch, monkeypatch):
    seen = []
    def watch(*args): seen.append(draw_n_known(*args)); return seen[-1]
    monkeypatch.setattr('marlearn.mar.draw_n_known', watch); monkeypatch.setattr('benchmarks.plain.draw_n_known', watch)
    for mode in ('plain', 'fast'): train.work('tiny', mode, batch, 'cpu')()
    assert seen == [train.known_tokens('tiny', batch, 'cpu')]*2

def test_side_by_side_takes_turns():
    calls = []
    seconds = side_by_side({name: lambda name=name: calls.append(name) for name in 'ab'}, 3, 'cpu')
    assert ''.join(calls) == 'ab'*4 and all(len(s) == 3 for s in seconds.values())
    calls.clear()
    seconds = side_by_side({name: lambda name=name: calls.append(name) for name in 'ab'}, 2, 'cpu', before=2)
    assert ''.join(calls) == 'ab' + 'aaabbb'*2 and all(len(s) == 2 for s in seconds.values())

def test_peak_is_above_what_any_part_of_it_reaches():
    assert peak(torch.float32, 'cpu', sizes=(256,), seconds=.1) > 1e8

@pytest.mark.parametrize('what', ['train', 'sample', 'tokenizer'])
def test_benchmark_runs_and_writes_its_result(what, tmp_path):
    more = ['--model', 'tiny'] if what != 'tokenizer' else ['--batch', '8']
    subprocess.run([sys.executable, '-m', f'benchmarks.{what}', *more, '--repeats', '2', '--device', 'cpu', '--out', str(tmp_path/'r.json')], check=True, cwd=ROOT, capture_output=True)
    result = json.loads((tmp_path/'r.json').read_text())
    assert {'machine', 'commit', 'command', 'rows', 'peak_flops'} <= result.keys()
    for row in result['rows']:
        assert row['seconds']['min'] <= row['seconds']['median'] <= row['seconds']['max'] and len(row['all_seconds']) == 2
        if row['mode'] == 'plain': assert row['ratio'] == 1
        held = row['peak_memory_gb_spread']
        assert .1 < held['min'] <= row['peak_memory_gb'] == held['median'] <= held['max'] < 10 and row['images_per_second'] == row['batch']/row['seconds']['median']
        if row['mode'] != 'approximate': assert 0 < row['share_of_peak'] < 1 and row['share_of_peak'] == pytest.approx(1e9*row['gflops_per_second']/max(result['peak_flops'].values()))

def test_the_higher_peak_counts():
    before = peaks('cpu')
    assert peaks('cpu', {k: 1e18 for k in before}) == {k: 1e18 for k in before} and all(v >= before[k] for k, v in peaks('cpu', before).items())
    rows = [{'gflops_per_second': 5.0}, {'gflops_per_second': None}]
    set_shares(rows, {'fp32': 1e10, 'bfloat16': 2e10})
    assert [r['share_of_peak'] for r in rows] == [.25, None]

def test_peak_memory_is_that_of_the_process_and_at_its_highest():
    "64 million numbers, freed before anybody looks"
    code = lambda n: f"import torch; from benchmarks.common import report_memory; torch.ones({n}).sum(); report_memory('cpu')"
    small, large = peak_memory(code(1), tries=1)['median'], peak_memory(code(64_000_000), tries=1)['median']
    assert .25 < large - small < .28
    with pytest.raises(subprocess.CalledProcessError): peak_memory('raise SystemExit(1)', tries=1)
