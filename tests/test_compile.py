"torch.compile as a switch: the same result, one version for all mask ratios and sets, and a way out where it does not work"
import os, shutil, subprocess, sys
import pytest, torch
from torch import nn
from marlearn.generate import generate
from marlearn.heads import HeadConfig, KernelMLP
from marlearn.mar import ImageModel, ModelConfig
from marlearn.train import TrainConfig, faster, make_optimizer, seeded_dropout, step_generator, train_step

CONFIG = ModelConfig(n_tokens=16, token_dim=4, n_classes=10, width=32, encoder_blocks=2, decoder_blocks=2, heads=2, class_slots=2, dropout=0.0, head=HeadConfig(blocks=2, width=32))

def fresh():
    with seeded_dropout(torch.Generator().manual_seed(0)): return ImageModel(CONFIG).train()

def losses(model, steps=6):
    opt, tokens, labels = make_optimizer(model, TrainConfig()), torch.randn(8, 16, 4, generator=torch.Generator().manual_seed(1)), torch.arange(8)
    return [train_step(model, tokens, labels, opt, generator=step_generator(0, s), n_known=n)['loss'].item() for s, n in zip(range(steps), (1, 4, 2, 3, 5, 4))]

needs_compiler = pytest.mark.skipif(not (shutil.which('g++') or shutil.which('clang++')), reason='no C++ compiler here')

@needs_compiler
def test_compiled_steps_agree_and_do_not_compile_again():
    from torch._dynamo.utils import counters
    torch._dynamo.reset(); counters.clear()
    plain, model = losses(fresh()), fresh()
    with faster(model):
        losses(model, 2)
        versions = counters['stats']['unique_graphs']
        assert versions > 0
        again = fresh(); model.load_state_dict(again.state_dict())
        assert losses(model) == pytest.approx(plain, rel=1e-3)
        assert counters['stats']['unique_graphs'] <= versions + 2           # five mask ratios, no version for each
    assert all(m._compiled_call_impl is None for m in model.modules())

def test_without_a_compiler_a_warning_and_on(tmp_path):
    code = f"import sys; sys.path.insert(0, {os.path.dirname(__file__)!r}); from test_compile import *; model = fresh()\nwith faster(model): print(losses(model, 2))"
    env = {k: v for k, v in os.environ.items() if k not in ('CXX', 'CC')} | {'PATH': str(tmp_path), 'TORCHINDUCTOR_CACHE_DIR': str(tmp_path/'cache'), 'TORCHINDUCTOR_FX_GRAPH_CACHE': '0'}
    done = subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert 'torch.compile does not work here' in done.stderr and done.stdout.startswith('[')

# --- drawing --------------------------------------------------------------------------------------------------
def ready(kind='diffusion', **head):
    config = ModelConfig(**{**vars(CONFIG), 'head': HeadConfig(kind=kind, blocks=2, width=32, **head)})
    torch.manual_seed(0)
    model = ImageModel(config).eval().requires_grad_(False)
    for p in model.head.parameters():
        if not p.any(): nn.init.normal_(p, std=.2)          # at zero the network would say the same to everything
    return model

def draw(model, B=3, make=generate, **options):
    device = next(model.parameters()).device
    return make(model, torch.arange(B, device=device), **{'ar_steps': 5, 'diff_steps': 12, 'generator': torch.Generator(device).manual_seed(1)} | options)

def alike(a, b, limit=1e-3): return (a - b).abs().max() < limit*b.abs().max()

no_fall_back = pytest.mark.filterwarnings('error:torch.compile does not work here')      # what was not compiled would agree as well

@needs_compiler
@no_fall_back
@pytest.mark.parametrize('x0_limit', [3.0, None])
def test_a_compiled_drawing_is_the_same(x0_limit):
    from torch._dynamo.utils import counters
    torch._dynamo.reset(); counters.clear()
    model = ready(x0_limit=x0_limit)
    for options in ({}, {'cfg_scale': 3.0}):                # guidance is linear: another scale in every set
        assert alike(draw(model, compile=True, **options), draw(model, **options))
    versions = counters['stats']['unique_graphs']
    assert 0 < versions <= 4                                # with guidance and without; a set of one row apart
    for options in ({'B': 5, 'temperature': 0.7}, {'B': 4, 'cfg_scale': 2.0, 'guidance': 'constant', 'diff_steps': 7}):
        assert alike(draw(model, compile=True, **options), draw(model, **options))
    assert counters['stats']['unique_graphs'] == versions

@needs_compiler
@no_fall_back
def test_a_compiled_drawing_shows_every_step():
    torch._dynamo.reset()
    head, z = ready(x0_limit=3.0).head, torch.randn(6, 32, generator=torch.Generator().manual_seed(2))
    seen = {compile: [] for compile in (False, True)}
    for compile, states in seen.items():
        head.sample(z, diff_steps=12, compile=compile, generator=torch.Generator().manual_seed(1), callback=lambda t, xt, x0: states.append((t, xt, x0)))
    assert [t for t, *_ in seen[True]] == list(range(11, -1, -1))
    for a, b in zip(seen[True], seen[False], strict=True): assert a[0] == b[0] and alike(a[1], b[1]) and alike(a[2], b[2])

@needs_compiler
@no_fall_back
def test_a_compiled_drawing_follows_the_weights():
    torch._dynamo.reset()
    model = ready(x0_limit=3.0); before = draw(model, compile=True)
    for p in model.head.net.blocks.parameters(): p.mul_(1.5)            # a step of training
    after = draw(model, compile=True)
    assert alike(after, draw(model)) and not torch.allclose(after, before, atol=.05)

@needs_compiler
@no_fall_back
def test_a_compiled_drawing_in_half_precision(monkeypatch):
    monkeypatch.setattr(KernelMLP, 'suits', lambda *args: False)        # where it does, nothing is left to compile
    torch._dynamo.reset()
    model = ready(x0_limit=3.0)
    with torch.autocast('cpu', torch.bfloat16): eager, compiled = draw(model), draw(model, compile=True)
    exact = draw(model)
    assert (compiled - exact).square().mean() < 2*(eager - exact).square().mean() + 1e-6      # rounded in fewer places; twice: chance

def test_drawing_without_a_compiler_a_warning_and_on(tmp_path):
    code = (f"import sys; sys.path.insert(0, {os.path.dirname(__file__)!r}); from test_compile import *; model = ready(x0_limit=3.0)\n"
            "assert torch.allclose(draw(model, compile=True), draw(model), atol=1e-4); print('same')")
    env = {k: v for k, v in os.environ.items() if k not in ('CXX', 'CC')} | {'PATH': str(tmp_path), 'TORCHINDUCTOR_CACHE_DIR': str(tmp_path/'cache'), 'TORCHINDUCTOR_FX_GRAPH_CACHE': '0'}
    done = subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr.count('UserWarning: torch.compile does not work here') == 1 and done.stdout == 'same\n'

def test_what_has_no_compiled_step():
    with pytest.raises(ValueError, match="only sampler='ddpm' has a compiled step, not 'ddim'"): draw(ready(), compile=True, sampler='ddim')
    with pytest.raises(ValueError, match='FlowHead has no compiled step'): draw(ready('flow'), compile=True)
    model = ready(); model.head.net.__class__ = type('Mine', (type(model.head.net),), {})
    with pytest.raises(ValueError, match='not a Mine'): draw(model, compile=True)
