"What cannot work is refused in words, before any work: the library's side (the command line's is in test_cli.py)"
import json
from dataclasses import asdict, replace
import pytest
import torch
from marlearn.data import load_shapes
from marlearn.generate import generate
from marlearn.heads import HeadConfig, HEADS, make_head
from marlearn.mar import AutoregressiveModel, model_config_from, ModelConfig
from marlearn.engine.presets import tiny, variant
from marlearn.files import pretrained
from marlearn.tokenizers import KLTokenizer, load_tokenizer, PixelTokenizer
from marlearn.engine.checkpoints import load_checkpoint, save_checkpoint
from marlearn.engine.run import fit, RunConfig
from marlearn.train import encode_data, new_model, resolve_config, TokenData, TrainConfig
from marlearn.vae import VAE, VAEConfig

B, N, P, D = 2, 16, 6, 32

def small(**changes):
    usual = {'n_tokens': N, 'token_dim': P, 'n_classes': 3, 'width': D, 'heads': 4, 'encoder_blocks': 1,
             'decoder_blocks': 1, 'class_slots': 1, 'dropout': 0.0,
             'head': HeadConfig(blocks=1, width=24, x0_limit=5.0)}
    return ModelConfig(**usual | changes)

def small_vae(): return VAE(VAEConfig(width=8, mults=(1, 2), latent_channels=2, embed_dim=2))

def small_head(kind):
    head = make_head(HeadConfig(kind=kind, blocks=1, width=16, codes=4 if kind == 'cross-entropy' else 0), P, D)
    if kind == 'cross-entropy':
        head.set_codebook(torch.randn(4, P))
    return head

@pytest.fixture
def model():
    torch.manual_seed(0)
    return AutoregressiveModel(small()).eval()

@pytest.fixture
def no_work(monkeypatch):
    "Fails the test if a network is run at all"
    def run(*args, **kw): pytest.fail('work was done before the error')
    monkeypatch.setattr(torch.nn.Linear, 'forward', run)

@pytest.mark.parametrize('kind', HEADS)
def test_wrong_token_size(kind):
    head = small_head(kind)
    with pytest.raises(ValueError, match=rf'{P}.*\(3, {P + 1}\)|\(3, {P + 1}\).*{P}'):
        head.loss(torch.zeros(3, D), torch.zeros(3, P + 1), generator=torch.Generator())

@pytest.mark.parametrize('kind', HEADS)
def test_nan_targets(kind):
    head = small_head(kind)
    with pytest.raises(ValueError, match='NaN'):
        head.loss(torch.zeros(3, D), torch.full((3, P), torch.nan), generator=torch.Generator())

def test_codebook_head_on_continuous_tokens():
    config = small(head=HeadConfig(kind='cross-entropy'))
    with pytest.raises(ValueError, match='codebook'):
        resolve_config(config, PixelTokenizer(8), 32, 3)
    with pytest.raises(ValueError, match='codebook'):
        AutoregressiveModel(config)                                                                     # codes unknown
    vq = load_tokenizer(pretrained('vq'))
    model = new_model(resolve_config(config, vq, 32, 3), vq)
    tokens = torch.randn(B, 64, vq.codebook.shape[1])
    with pytest.raises(ValueError, match='codebook'):
        model.loss(tokens, torch.tensor([0, 1]), generator=torch.Generator())

def test_nan_latents_are_refused_when_pictures_are_encoded(monkeypatch, tmp_path):
    monkeypatch.setenv('MARLEARN_CACHE', str(tmp_path))
    broken = KLTokenizer(small_vae(), 1.0)
    broken.vae.to_moments.weight.data.fill_(torch.nan)
    with pytest.raises(ValueError, match='not finite'):
        encode_data(broken, load_shapes(n=10), quiet=True)
    tokens = torch.tensor([0., 1., torch.inf]).view(3, 1, 1)
    with pytest.raises(ValueError, match='1 of 3 sequences'):
        TokenData(tokens, None, torch.zeros(3, dtype=torch.long))

LABELS = torch.tensor([0, 2])
@pytest.mark.parametrize('what, options', [
    ('diff_steps=0', {'diff_steps': 0}),
    ('diff_steps=1001', {'diff_steps': 1001}),
    ('ar_steps=0', {'ar_steps': 0}),
    ('ar_steps=17', {'ar_steps': 17}),
    ('permutation', {'order': torch.zeros(N, dtype=torch.long)}),
    ('permutation', {'order': torch.arange(1, N + 1)}),
    ('order', {'order': torch.arange(N - 1)}),
    ('order', {'order': 'spiral'}),
    ('schedule', {'schedule': 'quadratic'}),
    ('schedule', {'schedule': [4, 4, 4, 5]}),
    ('sampler', {'sampler': 'euler'}),
    ('guidance', {'guidance': 'cubic', 'cfg_scale': 2.0}),
    ('temperature', {'temperature': -1.0}),
    ('temperature', {'temperature': float('nan')}),
    ('cfg_scale', {'cfg_scale': float('inf')})])
def test_generate_refuses(what, options, model, no_work):
    with pytest.raises(ValueError, match=what):
        generate(model, LABELS, generator=torch.Generator(), **options)

def test_class_that_does_not_exist(model, no_work):
    with pytest.raises(ValueError, match='class 4 does not exist'):
        generate(model, torch.tensor([0, 4]), generator=torch.Generator())

def test_guidance_with_a_model_that_never_dropped_a_label(no_work):
    model = AutoregressiveModel(small(label_drop=0.0))
    with pytest.raises(ValueError, match='label_drop'):
        generate(model, LABELS, cfg_scale=2.0, generator=torch.Generator())

def test_known_tokens_that_are_nan(model, no_work):
    known, hidden = torch.full((B, N, P), torch.nan), torch.ones(B, N, dtype=torch.bool)
    hidden[:, 3] = False
    with pytest.raises(ValueError, match='NaN|finite'):
        generate(model, LABELS, known=known, hidden=hidden, generator=torch.Generator())

def test_causal_backbones_draw_one_token_a_step(no_work):
    model = AutoregressiveModel(small(backbone='causal'))
    with pytest.raises(ValueError, match='one token a step'):
        generate(model, LABELS, ar_steps=4, generator=torch.Generator())
    with pytest.raises(ValueError, match='one token a step'):
        small(backbone='causal', ar_steps=4)

@pytest.mark.parametrize('other, message', [
    ({'width': 64}, r'is \(.*, not \('),
    ({'encoder_blocks': 2}, 'missing'),
    ({'backbone': 'causal'}, 'missing'),
    ({'head': HeadConfig(kind='flow', blocks=1, width=24)}, 'head')])
def test_checkpoint_of_another_architecture(other, message, model, tmp_path):
    "Weights of one network under the settings of another"
    save_checkpoint(tmp_path/'c', model=model, tokenizer=PixelTokenizer(8), config=RunConfig(model=model.config),
                    classes=('a', 'b', 'c'), step=1)
    settings = json.loads((tmp_path/'c'/'config.json').read_text())
    settings['model'] = asdict(small(**other))
    (tmp_path/'c'/'config.json').write_text(json.dumps(settings))
    with pytest.raises(ValueError, match='damaged'):
        load_checkpoint(tmp_path/'c')                                                          # the checksum notices
    state = json.loads((tmp_path/'c'/'state.json').read_text())
    del state['sha256']['config.json']
    (tmp_path/'c'/'state.json').write_text(json.dumps(state))
    with pytest.raises(ValueError, match=message):
        load_checkpoint(tmp_path/'c')                                                          # so do names and shapes

def test_resuming_with_another_architecture(model, tmp_path, monkeypatch):
    monkeypatch.setenv('MARLEARN_CACHE', str(tmp_path/'cache'))
    tokenizer = PixelTokenizer(8)
    data = encode_data(tokenizer, load_shapes(n=20), flip=False, quiet=True)
    def run(**changes):
        torch.manual_seed(0)
        model = resolve_config(small(**changes), tokenizer, 32, 10)
        config = RunConfig(model=model, train=TrainConfig(steps=2, batch_size=4, save_every=1))
        last = tmp_path/'run'/'checkpoints'/'step-00000002'
        return fit(AutoregressiveModel(model), data, config, tmp_path/'run', tokenizer=tokenizer,
                   classes=tuple('abcdefghij'), resume_from=last if last.exists() else None)
    run()
    cases = (({'width': 16}, 'does not fit'), ({'heads': 2}, 'another run'),
             ({'backbone': 'causal'}, 'does not fit'), ({'order': 'raster'}, 'another run'))
    for changes, message in cases:
        with pytest.raises(ValueError, match=message):
            run(**changes)

@pytest.mark.parametrize('tokenizer, size', [(PixelTokenizer(8), 30), (KLTokenizer(small_vae(), 1.0, patch=2), 34)])
def test_image_size_that_the_stride_does_not_divide(tokenizer, size):
    with pytest.raises(ValueError, match=f'pictures of {size}x{size} pixels cannot be cut: a side is no'):
        resolve_config(small(), tokenizer, size, 3)

@pytest.mark.parametrize('field, value', [
    ('backbone', 'gpt'), ('order', 'spiral'), ('label_drop', 1.5), ('min_mask_ratio', -0.1), ('ar_steps', 17),
    ('ar_steps', 0), ('heads', 5), ('heads', 0), ('n_tokens', 0), ('width', 0), ('encoder_blocks', -1),
    ('decoder_blocks', 0), ('dropout', 1.0), ('dropout', -0.1), ('mask_std', 0), ('mask_std', float('nan'))])
def test_model_settings_that_cannot_be(field, value):
    with pytest.raises(ValueError, match=f'{field}='):
        small(**{field: value})

@pytest.mark.parametrize('field, value', [('weight_decay', -0.1), ('sample_every', -1)])
def test_training_settings_that_cannot_be(field, value):
    with pytest.raises(ValueError, match=f'{field}='):
        TrainConfig(**{field: value})

@pytest.mark.parametrize('limit', [0, -1.0, float('nan')])
def test_limit_of_x0_that_cannot_be(limit):
    with pytest.raises(ValueError, match='x0_limit='):
        HeadConfig(x0_limit=limit)

@pytest.mark.parametrize('n_known', [-1, N, N + 1])
def test_nothing_hidden_or_more_known_than_there_is(n_known, model, no_work):
    with pytest.raises(ValueError, match=f'n_known={n_known} must lie in 0..{N - 1}'):
        model.loss(torch.zeros(B, N, P), LABELS, n_known=n_known)

def test_orders_that_walk_over_a_square():
    assert small(n_tokens=15).n_tokens == 15                                                   # in any order: no matter
    with pytest.raises(ValueError, match='N=15 is not a square'):
        small(n_tokens=15, order='checkerboard')

def test_settings_of_another_version():
    with pytest.raises(ValueError, match='wdith'):
        model_config_from(asdict(small()) | {'wdith': 3})
    with pytest.raises(ValueError, match='no variant'):
        variant(small(), 'spiral')
    with pytest.raises(ValueError, match="kind='fancy'"):
        HeadConfig(kind='fancy')
    assert replace(tiny().model, order='raster').order == 'raster'
