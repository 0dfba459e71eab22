"torch.compile as a switch: the same result, one version for all mask ratios, and a way out where it does not work"
import os, shutil, subprocess, sys
import pytest, torch
from marlearn.heads import HeadConfig
from marlearn.mar import ImageModel, ModelConfig
from marlearn.train import TrainConfig, faster, make_optimizer, seeded_dropout, step_generator, train_step

CONFIG = ModelConfig(n_tokens=16, token_dim=4, n_classes=10, width=32, encoder_blocks=2, decoder_blocks=2, heads=2, class_slots=2, dropout=0.0, head=HeadConfig(blocks=2, width=32))

def fresh():
    with seeded_dropout(torch.Generator().manual_seed(0)): return ImageModel(CONFIG).train()

def losses(model, steps=6):
    opt, tokens, labels = make_optimizer(model, TrainConfig()), torch.randn(8, 16, 4, generator=torch.Generator().manual_seed(1)), torch.arange(8)
    return [train_step(model, tokens, labels, opt, generator=step_generator(0, s), n_known=n)['loss'].item() for s, n in zip(range(steps), (1, 4, 2, 3, 5, 4))]

@pytest.mark.skipif(not (shutil.which('g++') or shutil.which('clang++')), reason='no C++ compiler here')
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
