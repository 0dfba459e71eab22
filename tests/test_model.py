"Properties of the method that a reader may rely on"
import pytest, torch
from torch.testing import assert_close
from marlearn.generate import generate, guidance_at
from marlearn.heads import DiffusionHead, HeadConfig
from marlearn.ar import take
from marlearn.mar import AutoregressiveModel, ModelConfig
from marlearn.orders import cosine_counts, draw_n_known, mask_from_order, mask_ratio, random_order
from marlearn.engine.presets import preset, PRESETS
from marlearn.files import pretrained
from marlearn.tokenizers import KLTokenizer, load_tokenizer, patchify, PixelTokenizer, save_tokenizer, unpatchify
from marlearn.vae import VAE, VAEConfig

B, N, P, D = 2, 16, 12, 32

def make_model(**changes):
    torch.manual_seed(0)
    config = ModelConfig(**({'n_tokens': N, 'token_dim': P, 'n_classes': 3, 'width': D, 'encoder_blocks': 2,
                             'decoder_blocks': 2, 'heads': 4, 'class_slots': 3,
                             'dropout': 0.0, 'head': HeadConfig(blocks=2, width=24)} | changes))
    model = AutoregressiveModel(config).eval()
    with torch.no_grad():                                        # nothing left at zero, so that every number matters
        for p in model.parameters():
            p.add_(0.05*torch.randn_like(p))
    return model

@pytest.fixture
def inputs(g): return torch.randn(B, N, P, generator=g), torch.tensor([0, 2]), random_order(B, N, g)

def test_patchify_round_trip_and_layout(g):
    grid = torch.randn(2, 3, 8, 8, generator=g)
    tokens = patchify(grid, 2)
    assert tokens.shape == (2, 16, 12)
    assert_close(unpatchify(tokens, 2), grid, rtol=0, atol=0)
    assert_close(tokens[0, 5], grid[0, :, 2:4, 2:4].flatten(), rtol=0, atol=0)

def test_hidden_tokens_are_never_read(inputs):
    tokens, labels, order = inputs
    model, mask = make_model(), mask_from_order(order, 5)
    changed = torch.where(mask.unsqueeze(-1), torch.full_like(tokens, float('nan')), tokens)
    assert_close(model.backbone(tokens, labels, order, 5), model.backbone(changed, labels, order, 5), rtol=0, atol=0)

def test_known_tokens_are_read(inputs):
    tokens, labels, order = inputs
    model, known = make_model(), order[:, :5]
    changed = tokens.scatter_add(1, known.unsqueeze(-1).expand(-1, -1, P), torch.ones(B, 5, P))
    assert (model.backbone(tokens, labels, order, 5) - model.backbone(changed, labels, order, 5)).abs().max() > 1e-3

def test_loss_ignores_visible_tokens_as_targets(inputs):
    "The head is asked for hidden tokens only: it never receives a row of a visible one"
    tokens, labels, _ = inputs
    model, rows = make_model(label_drop=0.0), []
    inner = model.head.loss_parts
    model.head.loss_parts = lambda z, target, **kw: rows.append(target) or inner(z, target, **kw)
    generator = torch.Generator().manual_seed(3)
    model.loss(tokens, labels, generator=generator)
    again = torch.Generator().manual_seed(3)
    order, n_known = random_order(B, N, again), draw_n_known(N, again)
    assert n_known > 0 and rows[0].shape == (B*(N - n_known), P)
    assert_close(rows[0].view(B, -1, P), take(tokens, order[:, n_known:]))

def test_images_do_not_see_each_other(inputs):
    tokens, labels, order = inputs
    model, other = make_model(), tokens.clone()
    other[1] += 1
    z, z_other = model.backbone(tokens, labels, order, 6), model.backbone(other, labels, order, 6)
    assert_close(z[0], z_other[0], rtol=0, atol=0)
    assert (z[1] - z_other[1]).abs().max() > 1e-3

def test_gradient_reaches_every_parameter(inputs):
    tokens, labels, _ = inputs
    model = make_model().train()
    model.loss(tokens, labels, generator=torch.Generator().manual_seed(1))['loss'].backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent

def test_head_rows_are_independent(g):
    head = DiffusionHead(P, D, HeadConfig(blocks=2, width=24))
    with torch.no_grad():
        for p in head.parameters():
            p.add_(0.1*torch.randn(p.shape, generator=g))
    z = torch.randn(4, D, generator=g)
    xt, time = torch.randn(4, P, generator=g), head.net.embed_time(torch.tensor([3, 50, 400, 999]))
    out = head.net(xt, time, head.net.from_z(z))
    one = head.net(xt[2:3], time[2:3], head.net.from_z(z[2:3]))
    assert_close(out[2:3], one, rtol=1e-5, atol=1e-5)

def test_head_rejects_guidance_without_null_class(g):
    with pytest.raises(ValueError, match='z_uncond'):
        DiffusionHead(P, D, HeadConfig(blocks=1, width=8)).sample(torch.zeros(2, D), cfg_scale=2.0)

def draw(model, seed=0, labels=(0, 1, 2), **options):
    return generate(model, torch.tensor(labels), generator=torch.Generator().manual_seed(seed),
                    **({'diff_steps': 4} | options))

def test_sampling_repeats_with_the_same_generator():
    model = make_model()
    torch.manual_seed(1)
    first = draw(model)
    torch.manual_seed(2)
    second = draw(model)                   # the global state has no say
    assert_close(first, second, rtol=0, atol=0)
    assert (draw(model, seed=1) - first).abs().max() > 1e-2

def test_guidance_of_one_is_no_guidance_and_more_changes_the_result():
    model = make_model()
    plain, guided = draw(model), draw(model, cfg_scale=3.0)
    assert_close(draw(model, cfg_scale=1.0), plain)
    assert (plain - guided).abs().max() > 1e-2

def test_temperature_zero_leaves_only_the_first_noise():
    head = DiffusionHead(P, D, HeadConfig(blocks=1, width=8)).eval()
    z, spread = torch.zeros(400, D), {}
    for temperature in (0.0, 0.5, 1.0):
        spread[temperature] = head.sample(z, temperature=temperature, diff_steps=50,
                                          generator=torch.Generator().manual_seed(0)).std()
    assert spread[0.0] < spread[0.5] < spread[1.0]

def test_callback_sees_every_token_exactly_once():
    seen = torch.zeros(3, N, dtype=torch.long)
    draw(make_model(), ar_steps=5, callback=lambda k, tokens, new: seen.scatter_add_(1, new, torch.ones_like(new)))
    assert (seen == 1).all()

def test_given_order_is_followed():
    order, firsts = torch.arange(N).flip(0).expand(3, N), []
    draw(make_model(), order=order, ar_steps=N, callback=lambda k, tokens, new: firsts.append(new[0, 0].item()))
    assert firsts == list(range(N))[::-1]

@pytest.mark.parametrize('what, options', [
    ('class 7 does not exist', {'labels': (0, 7)}), ('class -1 does not exist', {'labels': (-1, 0)}),
    ('ar_steps=17', {'ar_steps': 17}), ('diff_steps=1001', {'diff_steps': 1001}),
    ('temperature=-1', {'temperature': -1}), ('order', {'order': torch.zeros(1, 3)})])
def test_generate_says_what_is_wrong(what, options):
    with pytest.raises(ValueError, match=what):
        draw(make_model(), **options)

def test_backbone_says_what_is_wrong(inputs):
    tokens, labels, order = inputs
    model = make_model()
    with pytest.raises(ValueError, match=r'tokens \(2, 16, 5\) must be \(B, 16, 12\)'):
        model.backbone(tokens[..., :5], labels, order, 3)
    with pytest.raises(ValueError, match='one class per sequence'):
        model.backbone(tokens, labels[:1], order, 3)
    with pytest.raises(ValueError, match='n_known=99'):
        mask_from_order(order, 99)

@pytest.mark.parametrize('N, K', [(16, 16), (16, 1), (64, 16), (256, 64), (256, 256), (5, 4)])
def test_schedule_reveals_everything_once(N, K):
    counts = cosine_counts(N, K)
    assert len(counts) == K and sum(counts) == N and min(counts) >= 1

def test_guidance_grows_and_ends_below_its_scale():
    counts = torch.tensor(cosine_counts(256, 64))
    scales = [guidance_at(3.0, int(h), 256) for h in 256 - counts.cumsum(0)]
    assert scales == sorted(scales) and scales[-1] == 1 + 2*255/256

def test_mask_ratio_follows_the_truncated_normal():
    u = torch.linspace(0, 1, 20001, dtype=torch.float64)[:-1]
    ratio = mask_ratio(u)
    density = torch.exp(-0.5*((torch.linspace(0.7, 1, 100001, dtype=torch.float64) - 1)/0.25)**2)
    mean = (torch.linspace(0.7, 1, 100001, dtype=torch.float64)*density).sum()/density.sum()
    assert ratio.min() >= 0.7 and ratio.max() <= 1 and abs(ratio.mean() - mean) < 1e-4

@pytest.mark.parametrize('make',
                         [lambda: PixelTokenizer(patch=4),
                          lambda: KLTokenizer(VAE(VAEConfig(width=8, mults=(1, 2), embed_dim=3, latent_channels=3)),
                                              0.7, patch=2)])
def test_tokenizers_share_one_interface(make, tmp_path, g):
    torch.manual_seed(0)
    tokenizer = make()
    images = torch.rand(2, 3, 16, 16, generator=g)*2 - 1
    tokens = tokenizer.encode(images)
    assert tokens.shape == (2, *tokenizer.token_shape(16)) and tokenizer.decode(tokens).shape == images.shape
    save_tokenizer(tokenizer, tmp_path/'t')
    assert_close(load_tokenizer(tmp_path/'t').encode(images), tokens, rtol=0, atol=2e-2)      # stored in half precision
    with pytest.raises(ValueError, match='not a multiple'):
        tokenizer.token_shape(15)

def test_pixel_tokenizer_loses_nothing(g):
    images = torch.rand(2, 3, 16, 16, generator=g)*2 - 1
    assert_close(PixelTokenizer(4).decode(PixelTokenizer(4).encode(images)), images)

def test_shipped_tokenizer_has_unit_scale_and_keeps_shapes():
    from marlearn.data import load_shapes
    from marlearn.vae import psnr
    tokenizer, (images, _) = load_tokenizer(pretrained('tokenizer')), load_shapes('test', n=100).batch(range(100))
    with torch.no_grad():
        tokens = tokenizer.encode(images, torch.Generator().manual_seed(0))
        assert 0.6 < tokens.std() < 1.6
        assert psnr(images, tokenizer.decode(tokens)).mean() > 22

@pytest.mark.parametrize('name, parameters',
                         [('mar-b-imagenet256', 207_924_768), ('mar-l-imagenet256', 478_326_304),
                          ('mar-h-imagenet256', 942_403_104)])
def test_presets_have_the_published_size(name, parameters):
    with torch.device('meta'):
        model = AutoregressiveModel(preset(name).model)
    assert sum(p.numel() for p in model.parameters()) == parameters

def test_unknown_preset_names_the_known_ones():
    with pytest.raises(ValueError, match='toy'):
        preset('huge')
    assert set(PRESETS) >= {'tiny', 'toy'}

@pytest.mark.parametrize('n_known, n_new', [(0, 1), (0, 16), (5, 4), (15, 1)])
def test_z_of_the_next_tokens_is_that_of_the_whole_pass(inputs, n_known, n_new):
    "The last block answers for the queries only; nothing else may change, gradients included"
    tokens, labels, order = inputs
    model, wanted, gradients = make_model(), None, []
    def whole(m): return take(m(tokens, labels, order, n_known), order[:, n_known:n_known + n_new])
    def part(m): return m.condition(tokens, labels, order, n_known, n_new)
    for z in (whole, part):
        model.zero_grad()
        found = z(model.backbone)
        found.square().sum().backward()
        if wanted is not None:
            assert_close(found, wanted, atol=1e-5, rtol=1e-5)
        wanted = found.detach()
        gradients.append(torch.cat([p.grad.flatten() for p in model.backbone.parameters() if p.grad is not None]))
    assert_close(*gradients, atol=1e-4, rtol=1e-4)

def test_a_masked_model_needs_a_decoder():
    with pytest.raises(ValueError, match='decoder_blocks=0 must be at least 1'):
        ModelConfig(decoder_blocks=0)
    assert ModelConfig(backbone='causal', decoder_blocks=0).decoder_blocks == 0

@pytest.mark.parametrize('what, changes', [
    ("backbone='gpt' must be 'mar' or 'causal'", {'backbone': 'gpt'}),
    ("order='spiral' must be one of", {'order': 'spiral'}),
    ('n_tokens=0 must be at least 1', {'n_tokens': 0}), ('class_slots=0 must be at least 1', {'class_slots': 0}),
    ('heads=0 must be at least 1', {'heads': 0}), ('width=30 is not a multiple of heads=4', {'width': 30, 'heads': 4}),
    ('label_drop=1.5 must lie in 0..1', {'label_drop': 1.5}), ('min_mask_ratio=-0.1', {'min_mask_ratio': -0.1}),
    ('mask_multiple=257 must lie in 1..256', {'mask_multiple': 257}),
    ('ar_steps=0 must lie in 1..256', {'ar_steps': 0}),
    ('one token a step', {'backbone': 'causal', 'ar_steps': 64})])
def test_configurations_that_cannot_be(what, changes):
    with pytest.raises(ValueError, match=what):
        ModelConfig(**changes)

@pytest.mark.parametrize('backbone', ['mar', 'causal'])
def test_only_orders_of_a_grid_need_a_square(backbone):
    model = make_model(n_tokens=15, backbone=backbone)                          # pictures of 3 x 5 tokens
    assert model.loss(torch.randn(B, 15, P), torch.tensor([0, 2]))['loss'].isfinite()
    for order in ('random', 'raster'):
        assert generate(model, torch.tensor([0, 1]), order=order, diff_steps=2).shape == (2, 15, P)
    for order in ('checkerboard', 'halton'):
        with pytest.raises(ValueError, match='N=15 is not a square'):
            generate(model, torch.tensor([0]), order=order)
        with pytest.raises(ValueError, match='N=15 is not a square'):
            ModelConfig(n_tokens=15, backbone=backbone, order=order)
