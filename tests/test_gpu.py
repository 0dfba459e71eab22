"""Is all of it ready for a GPU? The first part needs none: fake tensors have shapes and a device, but no numbers. A tensor that was left on the processor fails there,
and so does fetching a number from the device, for which a GPU would have to stop. The second part runs where there is a GPU"""
import pytest, torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from benchmarks import plain
from marlearn.generate import generate
from marlearn.heads import HeadConfig
from marlearn.mar import ImageModel, ModelConfig
from marlearn.tokenizers import KLTokenizer, PixelTokenizer
from marlearn.engine.hardware import pick_precision
from marlearn.train import EMA, make_optimizer, step_generator, train_step, TrainConfig
from marlearn.vae import VAE, VAEConfig
from test_compile import alike, draw, no_fall_back, ready

pytestmark = pytest.mark.filterwarnings('ignore:Accessing the data pointer of FakeTensor')      # by which copies for drawing know their weights again
KINDS = ('diffusion', 'flow', 'cross-entropy', 'mse', 'mixture', 'energy')

def config(backbone='mar', kind='diffusion', **options):
    return ModelConfig(**{'n_tokens': 16, 'token_dim': 4, 'n_classes': 10, 'width': 32, 'encoder_blocks': 2, 'decoder_blocks': 2, 'heads': 2, 'class_slots': 2, 'dropout': 0.1, 'backbone': backbone,
                          'head': HeadConfig(kind=kind, blocks=2, width=32, codes=20 if kind == 'cross-entropy' else 0)} | options)

# --- a pretended GPU ------------------------------------------------------------------------------------------
@pytest.fixture
def pretended():
    if torch.cuda.is_available(): pytest.skip('there is a real one')
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(): yield

def fake_model(*args, **kw):
    with torch.device('cuda'):
        model = ImageModel(config(*args, **kw))
        if model.config.head.kind == 'cross-entropy': model.head._tolerance = 0.1      # the codebook is looked at once, before and with the first batch
    return model

def fake_batch(B=8): return torch.randn(B, 16, 4, device='cuda'), torch.zeros(B, dtype=torch.long, device='cuda')

def test_the_pretended_gpu_notices(pretended):
    x = torch.randn(3, device='cuda')
    with pytest.raises(RuntimeError, match='devices'): x + torch.randn(3)
    with pytest.raises(DataDependentOutputException): x.sum().item()

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
    for sampler in ('ddpm', 'ddim', 'dpm++') if kind == 'diffusion' and backbone == 'mar' else (None,):
        tokens = generate(model, labels, ar_steps=4 if backbone == 'mar' else None, diff_steps=3, cfg_scale=cfg_scale, sampler=sampler)
        assert tokens.device.type == 'cuda' and tokens.shape == (2, 16, 4)

@no_fall_back
@pytest.mark.parametrize('cfg_scale', [1.0, 3.0])
def test_the_whole_step_on_a_pretended_gpu(pretended, cfg_scale):
    model, (_, labels) = fake_model().eval(), fake_batch(2)
    with torch.compiler.set_stance('force_eager'):                  # what would be compiled, as it stands
        tokens = generate(model, labels, ar_steps=4, diff_steps=7, cfg_scale=cfg_scale, compile=True)        # five in one piece, and two left over
    assert tokens.device.type == 'cuda' and tokens.shape == (2, 16, 4)

def test_average_on_a_pretended_gpu(pretended):
    model = fake_model()
    average = EMA(model, 0.99)
    average.update(model, 5)
    assert all(p.device.type == 'cuda' for p in average.model.parameters())

def test_tokenizers_on_a_pretended_gpu(pretended):
    images = torch.randn(2, 3, 32, 32, device='cuda')
    with torch.device('cuda'): tokenizers = [PixelTokenizer(4), KLTokenizer(VAE(VAEConfig(width=8)), scale=1.0)]
    for tokenizer in tokenizers:
        decoded = tokenizer.decode(tokenizer.encode(images))
        assert decoded.device.type == 'cuda' and decoded.shape == images.shape

# --- a real one -----------------------------------------------------------------------------------------------
GPU = 'cuda'
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here')

@needs_gpu
def test_a_gpu_computes_what_the_processor_does():
    model, tokens, labels = ready(x0_limit=3.0).to(GPU), torch.randn(2, 16, 4, generator=torch.Generator().manual_seed(2)), torch.arange(2)
    order = torch.arange(16).expand(2, -1)
    with torch.no_grad():
        there = model.backbone.condition(tokens.to(GPU), labels.to(GPU), order.to(GPU), 6, 4).cpu()
        here = model.cpu().backbone.condition(tokens, labels, order, 6, 4)
    assert alike(there, here, 1e-2)

@needs_gpu
@no_fall_back
@pytest.mark.parametrize('options', [{}, {'cfg_scale': 3.0}], ids=['no guidance', 'guidance'])
def test_plain_fast_and_compiled_agree_on_a_gpu(options):
    model = ready(x0_limit=3.0).to(GPU)
    fast, compiled, slow = draw(model, **options), draw(model, compile=True, **options), draw(model, make=plain.generate, **options)
    assert alike(fast, slow, 1e-2) and alike(compiled, fast, 1e-2)
    again = draw(model, compile=True, B=5, **options)               # other lengths, replayed or recorded anew
    assert alike(again, draw(model, B=5, **options), 1e-2)

@needs_gpu
def test_a_training_step_never_waits_for_a_gpu():
    model, dtype = ready(x0_limit=3.0).to(GPU).requires_grad_(True).train(), pick_precision(GPU)[0]
    opt, average = make_optimizer(model, TrainConfig()), EMA(model, 0.99)
    tokens, labels = torch.randn(8, 16, 4, device=GPU), torch.arange(8, device=GPU)
    def step(k):
        parts = train_step(model, tokens, labels, opt, generator=step_generator(0, k, GPU), dtype=dtype, n_known=4)
        average.update(model, k)
        return parts['loss']
    losses = [step(0)]
    torch.cuda.set_sync_debug_mode('error')                         # fetching a number raises
    try: losses += [step(k) for k in range(1, 40)]
    finally: torch.cuda.set_sync_debug_mode('default')
    assert torch.stack(losses).isfinite().all() and sum(losses[-10:]) < sum(losses[:10])
