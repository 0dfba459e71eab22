"Any tokenizer, any backbone, any head: every cell of the grid trains and samples"
import importlib.util
from pathlib import Path
import pytest, torch
from marlearn.data import load_shapes
from marlearn.generate import generate
from marlearn.heads import HeadConfig, HEADS
from marlearn.mar import AutoregressiveModel, ModelConfig
from marlearn.engine.presets import variant, VARIANTS
from marlearn.files import pretrained
from marlearn.tokenizers import KLTokenizer, load_tokenizer, PixelTokenizer, VQTokenizer
from marlearn.train import (
    encode_data, make_optimizer, new_model, resolve_config, step_generator, train_step, TrainConfig)
from marlearn.vae import VAE, VAEConfig

def vq(): return load_tokenizer(pretrained('vq'))

TOKENIZERS = {'pixels': lambda: PixelTokenizer(8),
              'kl': lambda: KLTokenizer(VAE(VAEConfig(width=8, mults=(1, 1, 1, 1), latent_channels=4, embed_dim=4)),
                                        1.0, patch=1),
              'vq': vq, 'vq-continuous': lambda: (lambda t: VQTokenizer(t.vq, t.scale, quantise=False))(vq())}

@pytest.fixture(scope='module')
def encoded():
    "Tokens of 60 shapes, for each tokenizer"
    torch.manual_seed(0)
    mp = pytest.MonkeyPatch()
    mp.setenv('MARLEARN_OFFLINE', '1')
    data, found = load_shapes(n=60), {}
    for name, make in TOKENIZERS.items():
        tokenizer = make()
        found[name] = tokenizer, encode_data(tokenizer, data, flip=False, quiet=True)
    mp.undo()
    return found

@torch.no_grad()
def error(model, data):
    "Loss on the same tokens, masks and noise each time; of a diffusion head the noise error only"
    parts = [model.eval().loss(*data.batch(torch.arange(30), step_generator(0, s)), generator=step_generator(2, s))
             for s in range(3)]
    return sum(p['mse' if 'vlb' in p else 'loss'].item() for p in parts)/3

def train(tokenizer, data, head, name, steps=20, **changes):
    "A minute's training in a second; returns the model and its error before and after"
    torch.manual_seed(0)
    config = ModelConfig(width=32, heads=4, encoder_blocks=1, decoder_blocks=1, class_slots=1, dropout=0.0,
                         min_mask_ratio=0.3, mask_std=0.5,
                         head=HeadConfig(**({'kind': head, 'blocks': 1, 'width': 48, 'x0_limit': 5.0} | changes)))
    model = new_model(variant(resolve_config(config, tokenizer, 32, 10), name), tokenizer)
    opt, before = make_optimizer(model, TrainConfig(lr=5e-3)), error(model, data)
    for step in range(steps):
        tokens, labels = data.batch(torch.arange(30), step_generator(0, step))
        train_step(model.train(), tokens, labels, opt, generator=step_generator(1, step))
    return model.eval(), (before, error(model, data))

def draw(model, seed=0, **options):
    return generate(model, torch.tensor([1, 7]), generator=torch.Generator().manual_seed(seed),
                    **({'diff_steps': 4, 'cfg_scale': 2.0} | options))

def check(tokenizer, model, errors):
    before, after = errors
    assert after < before - 0.01*abs(before), errors
    tokens = draw(model)
    assert tokens.shape == (2, model.config.n_tokens, model.config.token_dim) and tokens.isfinite().all()
    assert torch.equal(tokens, draw(model))
    with torch.no_grad():
        assert tokenizer.decode(tokens).shape == (2, 3, 32, 32)
    return tokens

@pytest.mark.parametrize('head', ['cross-entropy', 'diffusion'])
@pytest.mark.parametrize('name', VARIANTS)
def test_table_1(name, head, encoded):
    "The paper's first table: four variants, each with cross-entropy over a codebook and with the diffusion loss"
    tokenizer, data = encoded['vq' if head == 'cross-entropy' else 'vq-continuous']
    model, errors = train(tokenizer, data, head, name)
    tokens = check(tokenizer, model, errors)
    assert model.config.backbone == ('causal' if 'causal' in name else 'mar')
    assert model.config.ar_steps == (16 if name == 'mar' else 64)
    if head == 'cross-entropy':
        assert torch.cdist(tokens.view(-1, tokens.shape[-1]),
                           tokenizer.codebook).min(1).values.max() < 1e-4, 'a drawn token is no code'

@pytest.mark.parametrize('tokenizer', ['pixels', 'kl', 'vq'])
@pytest.mark.parametrize('head', HEADS)
def test_every_head_on_every_tokenizer(head, tokenizer, encoded):
    tokenizer, data = encoded[tokenizer]
    if head == 'cross-entropy' and tokenizer.codebook is None:
        with pytest.raises(ValueError, match='codebook'):
            train(tokenizer, data, head, 'mar')
    else:
        check(tokenizer, *train(tokenizer, data, head, 'mar'))

@pytest.mark.parametrize('head', [h for h in HEADS if h != 'cross-entropy'])
def test_every_head_on_a_causal_backbone(head, encoded):
    tokenizer, data = encoded['kl']
    check(tokenizer, *train(tokenizer, data, head, 'random-causal'))

def test_variants_differ_only_in_how_tokens_see_each_other(encoded):
    "What the mask of each variant lets through, read off the trained model: token i moves z of token j, or it does not"
    tokenizer, data = encoded['kl']
    for name in VARIANTS:
        model, _ = train(tokenizer, data, 'mse', name)
        N = model.config.n_tokens
        g = torch.Generator().manual_seed(3)
        tokens, order = torch.randn(1, N, 4, generator=g), torch.randperm(N, generator=g)[None]
        if model.config.order == 'raster':
            order = torch.arange(N)[None]
        n_known = 0 if model.config.backbone == 'causal' else 6
        with torch.no_grad():
            z = model.backbone(tokens, torch.tensor([3]), order, n_known)
            moves = torch.zeros(N, N, dtype=torch.bool)
            for i in range(N):
                other = tokens.clone()
                other[0, order[0, i]] += 1
                moved = (model.backbone(other, torch.tensor([3]), order, n_known) - z)[0].abs().amax(1)
                moves[i] = (moved > 1e-6)[order[0]]
        known = (torch.arange(N) < 6)[:, None].expand(N, N)
        want = torch.ones(N, N, dtype=torch.bool).triu(1) if model.config.backbone == 'causal' else known
        assert torch.equal(moves, want), name

def test_known_tokens_through_the_head_change_the_work_not_the_mean():
    "`every_token`, as the official code: with a head that draws nothing, exactly the same loss"
    torch.manual_seed(0)
    model = AutoregressiveModel(ModelConfig(n_tokens=16, token_dim=4, n_classes=3, width=16, heads=2, encoder_blocks=1,
                                   decoder_blocks=1, class_slots=1, dropout=0.0, min_mask_ratio=0.3,
                                   head=HeadConfig(kind='mse', width=16)))
    tokens, labels, rows = torch.randn(5, 16, 4), torch.tensor([0, 1, 2, 0, 1]), []
    inner = model.head.loss_parts
    model.head.loss_parts = lambda z, target, **kw: rows.append(len(z)) or inner(z, target, **kw)
    a, b = (model.loss(tokens, labels, generator=torch.Generator().manual_seed(2), every_token=e)['loss']
            for e in (False, True))
    assert rows[0] < rows[1] == 5*16
    torch.testing.assert_close(a, b)

@pytest.fixture(scope='module')
def few():
    "scripts/table1_few.py as a module"
    path = Path(__file__).resolve().parent.parent/'scripts'/'table1_few.py'
    spec = importlib.util.spec_from_file_location('table1_few', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

def test_yardsticks_of_table1_few(few):
    "The distance is small for the truth alone and falls with their number; copies are nearer than true fields are"
    true = few.draw_fields(2000, seed=1)
    floor = few.distance(true)
    assert 0 < floor < few.distance(true[:500]) < .02
    assert few.distance(true*1.2) > 5*floor
    assert few.distance(true + .3) > 5*floor
    assert few.distance(true.roll(3, -1)) > 5*floor       # wider, moved, seamed
    learned, fresh = true[:300], true[300:]
    assert few.to_nearest(learned, learned).max() < .01 < few.to_nearest(fresh, learned).min()
    rows = true[:100].reshape(-1, 4)
    codes = few.codebook_of(rows)
    assert codes.shape == (few.CODES, 4) and (few.snapped(rows[None], codes)[0] - rows).square().mean() < .1*rows.var()

@pytest.mark.parametrize('name, kind', [('mar', 'cross-entropy'), ('raster-causal', 'diffusion')])
def test_cells_of_table1_few(few, name, kind):
    "Every judgement has its row, and training changes the distance"
    threads = torch.get_num_threads()
    try:
        rows = few.cell(name, kind, fields=40, steps=6, every=3, n=20, seed=0)
    finally:
        torch.set_num_threads(threads)
    variants = [('random-bidirectional', 36), ('mar', 9)] if name == 'mar' else [(name, 36)]
    assert [(r['variant'], r['step'], r['ar_steps']) for r in rows] == [(v, s, K) for s in (3, 6) for v, K in variants]
    assert rows[0]['distance'] != rows[-1]['distance']
    assert len(rows[-1]['drawn']) == 8
    assert all(0 <= r['copies'] <= 1 for r in rows)
