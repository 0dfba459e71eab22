"""Is all of it ready for a GPU? The first part needs none: fake tensors have shapes and a device, but no numbers. A
tensor that was left on the CPU fails there, and so does fetching a number from the device, for which a GPU would have
to stop. The second part runs where there is a GPU"""
import warnings
import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from benchmarks import plain
from marlearn.engine.hardware import compile_model, pick_precision
from marlearn.generate import generate
from marlearn.heads import HeadConfig
from marlearn.mar import AutoregressiveModel, ModelConfig
from marlearn.tokenizers import KLTokenizer, PixelTokenizer
from marlearn.train import EMA, make_optimizer, step_generator, train_step, TrainConfig
from marlearn.vae import VAE, VAEConfig
from test_compile import alike, draw, no_fall_back, ready_to_draw

# copying a model, as an average does
pytestmark = pytest.mark.filterwarnings('ignore:Accessing the data pointer of FakeTensor')
KINDS = ('diffusion', 'flow', 'cross-entropy', 'mse', 'mixture', 'energy')

def config(backbone, kind):
    head = HeadConfig(kind=kind, blocks=2, width=32, codes=20 if kind == 'cross-entropy' else 0)
    return ModelConfig(n_tokens=16, token_dim=4, n_classes=10, width=32, encoder_blocks=2, decoder_blocks=2, heads=2,
                       class_slots=2, dropout=0.1, backbone=backbone, head=head)

# --- a pretended GPU ------------------------------------------------------------------------------------------
@pytest.fixture
def pretended():
    if torch.cuda.is_available(): pytest.skip('there is a real one')
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        try: torch.empty(1, device='cuda').uniform_()
        except RuntimeError:
            if tuple(map(int, torch.__version__.split('.')[:2])) >= (2, 14): raise
            pytest.skip('this PyTorch asks for a real one')
        yield

def fake_model(backbone='mar', kind='diffusion'):
    with torch.device('cuda'): return AutoregressiveModel(config(backbone, kind))

def fake_batch(B=8): return torch.randn(B, 16, 4, device='cuda'), torch.zeros(B, dtype=torch.long, device='cuda')

def test_the_pretended_gpu_notices(pretended):
    x = torch.randn(3, device='cuda')
    with pytest.raises(RuntimeError, match='devices'):
        x + torch.randn(3)
    with pytest.raises(DataDependentOutputException):
        x.sum().item()

@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('backbone', ['mar', 'causal'])
def test_loss_on_a_pretended_gpu(pretended, backbone, kind):
    parts = fake_model(backbone, kind).loss(*fake_batch(), n_known=3)
    assert all(v.device.type == 'cuda' and v.shape == () for v in parts.values())

@pytest.mark.parametrize('cfg_scale', [1.0, 3.0])
@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('backbone', ['mar', 'causal'])
def test_drawing_on_a_pretended_gpu(pretended, backbone, kind, cfg_scale):
    model, (_, labels) = fake_model(backbone, kind).eval(), fake_batch(2)
    ar_steps = 4 if backbone == 'mar' else None
    samplers = ('ddpm', 'ddim', 'dpm++') if kind == 'diffusion' and backbone == 'mar' else (None,)
    for sampler in samplers:
        tokens = generate(model, labels, ar_steps=ar_steps, diff_steps=3, cfg_scale=cfg_scale, sampler=sampler)
        assert tokens.device.type == 'cuda' and tokens.shape == (2, 16, 4)

def test_average_on_a_pretended_gpu(pretended):
    model = fake_model()
    average = EMA(model, 0.99)
    average.update(model, 5)
    assert all(p.device.type == 'cuda' for p in average.model.parameters())

def test_tokenizers_on_a_pretended_gpu(pretended):
    images = torch.randn(2, 3, 32, 32, device='cuda')
    with torch.device('cuda'):
        tokenizers = [PixelTokenizer(4), KLTokenizer(VAE(VAEConfig(width=8)), scale=1.0)]
    for tokenizer in tokenizers:
        decoded = tokenizer.decode(tokenizer.encode(images))
        assert decoded.device.type == 'cuda' and decoded.shape == images.shape

# --- a real one -----------------------------------------------------------------------------------------------
GPU = 'cuda'
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here')

@needs_gpu
def test_a_gpu_computes_what_the_cpu_does():
    model, labels, order = ready_to_draw().to(GPU), torch.arange(2), torch.arange(16).expand(2, -1)
    tokens = torch.randn(2, 16, 4, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        there = model.backbone.condition(tokens.to(GPU), labels.to(GPU), order.to(GPU), 6, 4).cpu()
        here = model.cpu().backbone.condition(tokens, labels, order, 6, 4)
    assert alike(there, here, 1e-2)

@needs_gpu
@no_fall_back
@pytest.mark.parametrize('options', [{}, {'cfg_scale': 3.0}], ids=['no guidance', 'guidance'])
def test_naive_usual_and_compiled_drawing_agree_on_a_gpu(options):
    model, compiled = ready_to_draw().to(GPU), ready_to_draw().to(GPU)
    assert compile_model(compiled, True, device=GPU, drawing=True).startswith('compiled')
    assert alike(draw(model, **options), draw(model, make=plain.generate, **options), 1e-2)
    for B in (3, 5, 2, 3):                                          # graphs of other sizes, and one that is replayed
        assert alike(draw(compiled, B, **options), draw(model, B, **options), 1e-2)

def waits(caught):
    "Where Python stood when it waited for the GPU, once for every time"
    return [(w.filename, w.lineno) for w in caught if 'called a synchronizing CUDA operation' in str(w.message)]

@needs_gpu
def test_a_training_step_asks_a_gpu_one_question():
    "Is the gradient finite? A step whose gradient is not must leave the weights alone, and only the host can do that"
    model, dtype = ready_to_draw().to(GPU).requires_grad_(True).train(), pick_precision(GPU)[0]
    opt, average = make_optimizer(model, TrainConfig()), EMA(model, 0.99)
    tokens, labels = torch.randn(8, 16, 4, device=GPU), torch.arange(8, device=GPU)
    def step(k):
        parts = train_step(model, tokens, labels, opt, generator=step_generator(0, k, GPU), dtype=dtype, n_known=4)
        average.update(model, k)
        return parts['loss']
    losses = [step(0)]                                              # the optimiser makes its state
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        torch.cuda.set_sync_debug_mode('warn')                      # a warning whenever the host waits for a number
        try:
            losses += [step(k) for k in range(1, 40)]
        finally:
            torch.cuda.set_sync_debug_mode('default')
    assert len(waits(caught)) == 39 and len(set(waits(caught))) == 1, 'one question a step, always the same'
    assert torch.stack(losses).isfinite().all() and sum(losses[-10:]) < sum(losses[:10])
