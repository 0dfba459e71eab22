"torch.compile in one place: the same result, one version for all mask ratios, and a way out where it does not work"
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
import pytest
import torch
from torch import nn
from marlearn.engine import hardware
from marlearn.engine.hardware import autocast, cast_linear_layers, compile_model, worth_compiling
from marlearn.generate import generate
from marlearn.heads import HeadConfig
from marlearn.mar import AutoregressiveModel, ModelConfig
from marlearn.train import make_optimizer, seeded_dropout, step_generator, train_step, TrainConfig

CONFIG = ModelConfig(n_tokens=16, token_dim=4, n_classes=10, width=32, encoder_blocks=2, decoder_blocks=2, heads=2,
                     class_slots=2, dropout=0.0, head=HeadConfig(blocks=2, width=32, x0_limit=3.0))

def untrained():
    with seeded_dropout(torch.Generator().manual_seed(0)): return AutoregressiveModel(CONFIG).train()

def losses(model, steps=6):
    opt, labels = make_optimizer(model, TrainConfig()), torch.arange(8)
    tokens = torch.randn(8, 16, 4, generator=torch.Generator().manual_seed(1))
    known = (1, 4, 2, 3, 5, 4)
    return [train_step(model, tokens, labels, opt, generator=step_generator(0, step),
                       n_known=known[step])['loss'].item()
            for step in range(steps)]

def ready_to_draw():
    model = untrained().eval().requires_grad_(False)
    for p in model.head.parameters():
        # at zero it would say the same to all
        if not p.any(): nn.init.normal_(p, std=.2, generator=torch.Generator().manual_seed(3))
    return model

def draw(model, B=3, make=generate, **options):
    device = next(model.parameters()).device
    usual = {'ar_steps': 5, 'diff_steps': 12, 'generator': torch.Generator(device).manual_seed(1)}
    return make(model, torch.arange(B, device=device), **usual | options)

def alike(a, b, limit=1e-3): return (a - b).abs().max() < limit*b.abs().max()

def versions():
    from torch._dynamo.utils import counters
    return counters['stats']['unique_graphs']

@pytest.fixture
def from_scratch():
    from torch._dynamo.utils import counters
    torch._dynamo.reset()
    counters.clear()
    yield
    torch.compiler.set_stance('default')

needs_compiler = pytest.mark.skipif(not (shutil.which('g++') or shutil.which('clang++')), reason='no C++ compiler here')
# what was not compiled would agree as well
no_fall_back = pytest.mark.filterwarnings('error:torch.compile does not work here')

@needs_compiler
@no_fall_back
def test_compiled_steps_agree_and_do_not_compile_again(from_scratch):
    plain, model = losses(untrained()), untrained()
    assert compile_model(model, True, device='cpu').startswith('compiled')
    losses(model, 2)
    before = versions()
    assert before > 0
    model.load_state_dict(untrained().state_dict())
    assert losses(model) == pytest.approx(plain, rel=1e-3)
    assert versions() <= before + 2 # five mask ratios, no version for each

@needs_compiler
@no_fall_back
def test_a_compiled_drawing_is_the_same(from_scratch):
    plain, model = ready_to_draw(), ready_to_draw()
    compile_model(model, True, device='cpu', drawing=True)
    def all_alike(*settings): return all(alike(draw(model, **options), draw(plain, **options)) for options in settings)
    # guidance is linear: another scale in every set
    assert all_alike({}, {'cfg_scale': 3.0}, {'B': 5, 'temperature': 0.7},
                     {'B': 4, 'cfg_scale': 2.0, 'guidance': 'constant', 'diff_steps': 7})
    before = versions()
    assert 0 < before <= MOST_VERSIONS
    assert all_alike({'B': 7, 'temperature': 0.7}, {'B': 6, 'cfg_scale': 2.5, 'guidance': 'constant', 'diff_steps': 9})
    assert versions() == before

# a block that answers for all rows, one that answers for some, the head's network; each with one row and with several
@needs_compiler
@no_fall_back
def test_a_causal_model_draws_without_compiling_for_each_token(from_scratch):
    def causal():
        torch.manual_seed(0)
        return AutoregressiveModel(replace(CONFIG, backbone='causal')).eval()
    plain, model = causal(), causal()
    compile_model(model, True, device='cpu', drawing=True)
    def write(model, B): return draw(model, B, ar_steps=None, diff_steps=4)
    assert alike(write(model, 3), write(plain, 3))
    before = versions()
    assert 0 < before <= 3 # the head's network; the cache of the blocks grows with every token
    for B in (5, 2): assert alike(write(model, B), write(plain, B))
    assert versions() == before

# torch 2.6 compiles two versions more where two sizes happen to be equal: heads x 8 pictures, and the width of a head
OLD_TORCH = tuple(map(int, torch.__version__.split('.')[:2])) < (2, 8)
EIGHT = pytest.param(8, marks=pytest.mark.xfail(OLD_TORCH, reason='equal sizes are taken for one', strict=False))

@no_fall_back
@pytest.mark.parametrize('B', [7, EIGHT])
def test_the_first_call_of_a_run_compiles_what_its_steps_use(B, from_scratch, monkeypatch):
    "Versions are counted where Python is read; what turns them into machine code is slow, and not needed to count"
    from marlearn.engine.hardware import training_attention
    from marlearn.engine.run import warm_up_step
    model, dtype, compiled = untrained(), torch.bfloat16, nn.Module.compile
    def read_only(self, dynamic, options): compiled(self, dynamic=dynamic, backend='aot_eager')
    monkeypatch.setattr(nn.Module, 'compile', read_only)
    def first_call():
        with training_attention('cpu', dtype): warm_up_step(model, model, dtype)
    compile_model(model, True, device='cpu', first_call=first_call)
    before = versions()
    opt, labels = make_optimizer(model, TrainConfig()), torch.arange(B) % 10
    for step, n_known in enumerate((4, 3, 5)):
        with training_attention('cpu', dtype):
            train_step(model, torch.randn(B, 16, 4), labels, opt, generator=step_generator(0, step), dtype=dtype,
                       n_known=n_known)
    assert 0 < versions() <= before + 1

MOST_VERSIONS = 12

@needs_compiler
@no_fall_back
def test_a_compiled_drawing_follows_the_weights(from_scratch):
    plain, model = ready_to_draw(), ready_to_draw()
    compile_model(model, True, device='cpu')
    before = draw(model)
    for net in (model, plain):
        for p in net.head.net.blocks.parameters(): p.mul_(1.5) # as a step of training does
    after = draw(model)
    assert alike(after, draw(plain)) and not torch.allclose(after, before, atol=.05)

@needs_compiler
@no_fall_back
def test_a_compiled_drawing_in_half_precision(from_scratch):
    exact, eager, compiled = ready_to_draw(), ready_to_draw(), ready_to_draw()
    for model in (eager, compiled): cast_linear_layers(model, torch.bfloat16)
    compile_model(compiled, True, device='cpu')
    with autocast('cpu', torch.bfloat16): half, fused = draw(eager), draw(compiled)
    error, fused_error = ((tokens - draw(exact)).square().mean() for tokens in (half, fused))
    assert 0 < fused_error < 2*error + 1e-6 # rounded in fewer places; twice: chance

WITHOUT_COMPILER = """
import sys
sys.path.insert(0, {tests!r})
from test_compile import *
model, plain = ready_to_draw(), ready_to_draw()
print(compile_model(model, True, device='cpu', first_call=lambda: draw(model, diff_steps=1)))
print(torch.equal(draw(model), draw(plain)))
print(len(losses(untrained(), 2)))
"""

def test_without_a_compiler_one_warning_and_on(tmp_path):
    env = {k: v for k, v in os.environ.items() if k not in ('CXX', 'CC')}
    env |= {'PATH': str(tmp_path), 'TORCHINDUCTOR_CACHE_DIR': str(tmp_path/'cache'),
            'TORCHINDUCTOR_FX_GRAPH_CACHE': '0'}
    code = WITHOUT_COMPILER.format(tests=str(Path(__file__).parent))
    done = subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr.count('UserWarning: torch.compile does not work here') == 1
    assert done.stdout == 'not compiled: torch.compile does not work here\nTrue\n2\n'

@pytest.mark.parametrize('device, drawing', hardware.EARNS_BACK)
def test_auto_looks_at_the_length_of_the_run_and_says_so(device, drawing):
    border = hardware.EARNS_BACK[device, drawing]*hardware.NOMINAL_SPEED[device]
    (short, why_not), (long, why) = (worth_compiling(device, share*border, drawing) for share in (.9, 1.1))
    assert (short, long) == (False, True) and 'does not earn back' in why_not and 'earns it back' in why

def test_auto_leaves_what_it_does_not_know():
    assert worth_compiling('mps', 1e20) == (False, 'not tested on mps')
    assert not worth_compiling('cuda', None)[0]
    assert not worth_compiling('cpu', 1e20)[0] # training
    model = untrained()
    why_not = compile_model(model, device='cpu', operations=1e9, drawing=True)
    assert why_not.startswith('not compiled: a run of about 0 s')
    assert compile_model(model, False, device='cpu', operations=1e20) == 'not compiled: as asked'
