"The plain rendering in benchmarks is an oracle: same weights, same noise, same result; FLOPs as torch counts"
import json
import subprocess
import sys
from pathlib import Path
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from benchmarks import plain, sample, train
from benchmarks.common import peak_memory, side_by_side
from marlearn.engine import flops
from marlearn.generate import generate
from marlearn.orders import draw_n_known, make_order

ROOT = Path(__file__).resolve().parents[1]

def seeded(seed=0): return torch.Generator().manual_seed(seed)

@pytest.fixture(scope='module')
def model():
    model = sample.make_model('tiny', 'cpu').requires_grad_(True)
    config = model.head.config.__dict__ | {'x0_limit': 3.0} # untrained, it would run away
    model.head.config = type(model.head.config)(**config)
    return model

@pytest.mark.parametrize('cfg_scale', [1.0, 3.0])
@pytest.mark.parametrize('ar_steps', [1, 5, 16])
def test_generation_equals_the_plain_one(model, cfg_scale, ar_steps):
    options = {'ar_steps': ar_steps, 'diff_steps': 20, 'cfg_scale': cfg_scale, 'temperature': 0.9}
    slow, ours = (f(model, torch.arange(5), generator=seeded(4), **options) for f in (plain.generate, generate))
    torch.testing.assert_close(ours, slow, atol=2e-5, rtol=1e-4)
    assert slow.std() > 0.1

def test_half_precision_stays_close_to_the_plain_generation(model):
    options = {'ar_steps': 8, 'diff_steps': 20, 'cfg_scale': 3.0}
    slow = plain.generate(model, torch.arange(5), generator=seeded(3), **options)
    with torch.autocast('cpu', torch.bfloat16): half = generate(model, torch.arange(5), generator=seeded(3), **options)
    assert 0 < (half - slow).square().mean().sqrt() < 0.05*slow.std()

@pytest.mark.parametrize('seed', range(4))
def test_loss_and_gradient_equal_the_plain_ones(model, seed):
    c, gradients, values = model.config, [], []
    tokens, labels = torch.randn(6, c.n_tokens, c.token_dim, generator=seeded(seed)), torch.arange(6)
    def plain_loss(): return plain.loss(model, tokens, labels, seeded(seed))
    def our_loss(): return model.loss(tokens, labels, generator=seeded(seed))['loss']
    for loss in (plain_loss, our_loss):
        model.zero_grad()
        value = loss()
        value.backward()
        values.append(value.detach())
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(*values, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-4)

@pytest.mark.parametrize('name', ['tiny', 'toy'])
def test_flops_of_a_training_step(name):
    model = sample.make_model(name, 'cpu').requires_grad_(True).train()
    c, B, g = model.config, 3, seeded(5)
    tokens, labels = torch.randn(B, c.n_tokens, c.token_dim), torch.arange(B)
    make_order(c.order, B, c.n_tokens, g, torch.device('cpu'))
    n_known = draw_n_known(c.n_tokens, g, c.min_mask_ratio, c.mask_std)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.loss(tokens, labels, generator=seeded(5))['loss'].backward()
    assert counter.get_total_flops() == flops.training(c, B, n_known)

@pytest.mark.parametrize('cfg_scale', [1.0, 3.0])
def test_flops_of_a_generation(cfg_scale):
    model = sample.make_model('tiny', 'cpu')
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        plain.generate(model, torch.arange(2), ar_steps=4, diff_steps=7, cfg_scale=cfg_scale)
    guided = cfg_scale != 1.0
    needed = flops.generation(model.config, 2, 4, 7, guided)
    assert needed < counter.get_total_flops() == flops.generation(model.config, 2, 4, 7, guided, plain=True)

@pytest.mark.parametrize('batch', [3, 8])
def test_both_modes_hide_the_same_tokens(batch, monkeypatch):
    seen = []
    def watch(*args):
        seen.append(draw_n_known(*args))
        return seen[-1]
    monkeypatch.setattr('marlearn.mar.draw_n_known', watch)
    monkeypatch.setattr('benchmarks.plain.draw_n_known', watch)
    for mode in ('plain', 'default'): train.work('tiny', mode, batch, 'cpu')()
    assert seen == [train.known_tokens('tiny', batch, 'cpu')]*2

def test_side_by_side_takes_turns():
    calls = []
    cases = {name: lambda name=name: calls.append(name) for name in 'ab'}
    seconds, first = side_by_side(cases, 3, 'cpu')
    assert ''.join(calls) == 'ab'*4 and all(len(s) == 3 for s in seconds.values()) and first.keys() == seconds.keys()
    calls.clear()
    seconds, _ = side_by_side(cases, 2, 'cpu', before=2)
    assert ''.join(calls) == 'ab' + 'aaabbb'*2 and all(len(s) == 2 for s in seconds.values())

@pytest.mark.parametrize('what, modes', [('train', ['plain', 'default']), ('sample', ['plain', 'default', 'fastest'])])
def test_benchmark_runs_and_writes_its_result(what, modes, tmp_path):
    command = [sys.executable, '-m', f'benchmarks.{what}', '--model', 'tiny', '--repeats', '2', '--device', 'cpu',
               '--modes', *modes]
    subprocess.run([*command, '--out', str(tmp_path/'r.json')], check=True, cwd=ROOT, capture_output=True)
    result = json.loads((tmp_path/'r.json').read_text())
    assert {'machine', 'command', 'rows'} <= result.keys()
    assert {row['mode'] for row in result['rows']} == set(modes)
    for row in result['rows']:
        assert row['seconds']['min'] <= row['seconds']['median'] <= row['seconds']['max']
        assert len(row['all_seconds']) == 2 and (result | row)['repeats'] == 2 and (result | row)['commit']
        if row['mode'] == 'plain': assert row['ratio'] == 1
        held = row['peak_memory_gb']
        assert .1 < held['min'] <= held['median'] <= held['max'] < 10
        assert row['images_per_second'] == row['batch']/row['seconds']['median']

def test_rows_of_models_that_are_not_measured_again_stay(tmp_path):
    rows = [{'model': name, 'mode': 'plain'} for name in ('toy', 'mar-b')]
    (tmp_path/'r.json').write_text(json.dumps({'machine': {'cpu': 'this'}, 'rows': rows}))
    assert sample.earlier_rows(tmp_path/'r.json', {'cpu': 'this'}, ['toy']) == rows[1:]
    assert sample.earlier_rows(tmp_path/'r.json', {'cpu': 'other'}, ['toy']) == []
    assert sample.earlier_rows(tmp_path/'none.json', {'cpu': 'this'}, ['toy']) == []

def test_peak_memory_is_that_of_the_process_and_at_its_highest():
    "64 million numbers, freed before anybody looks"
    code = "import torch; from benchmarks.common import report_memory; torch.ones({}).sum(); report_memory('cpu')"
    small, large = (peak_memory(code.format(n), tries=1)['median'] for n in (1, 64_000_000))
    assert .25 < large - small < .28
    with pytest.raises(subprocess.CalledProcessError): peak_memory('raise SystemExit(1)', tries=1)
