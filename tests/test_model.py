"Properties of the method that a reader may rely on"
import numpy as np, pytest, torch
from torch.testing import assert_close
from marlearn.generate import generate, guidance_at
from marlearn.heads import DiffusionHead, HeadConfig
from marlearn.mar import ImageModel, ModelConfig, take
from marlearn.orders import cosine_counts, draw_n_known, mask_from_order, mask_ratio, random_order
from marlearn.presets import PRESETS, preset
from marlearn.transformer import Linear, dropout, random_bits
from marlearn.tokenizers import KLTokenizer, PixelTokenizer, load_tokenizer, patchify, pretrained, save_tokenizer, unpatchify
from marlearn.vae import VAE, VAEConfig

B, N, P, D = 2, 16, 12, 32

def make_model(**changes):
    torch.manual_seed(0)
    config = ModelConfig(**({'n_tokens': N, 'token_dim': P, 'n_classes': 3, 'width': D, 'encoder_blocks': 2, 'decoder_blocks': 2, 'heads': 4, 'class_slots': 3,
                             'dropout': 0.0, 'head': HeadConfig(blocks=2, width=24)} | changes))
    model = ImageModel(config).eval()
    with torch.no_grad():                                        # nothing left at zero, so that every number matters
        for p in model.parameters(): p.add_(0.05*torch.randn_like(p))
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
        for p in head.parameters(): p.add_(0.1*torch.randn(p.shape, generator=g))
    z = torch.randn(4, D, generator=g)
    xt, time = torch.randn(4, P, generator=g), head.net.embed_time(torch.tensor([3, 50, 400, 999]))
    out = head.net(xt, time, head.net.from_z(z))
    one = head.net(xt[2:3], time[2:3], head.net.from_z(z[2:3]))
    assert_close(out[2:3], one, rtol=1e-5, atol=1e-5)

def test_head_rejects_guidance_without_null_class(g):
    with pytest.raises(ValueError, match='z_uncond'): DiffusionHead(P, D, HeadConfig(blocks=1, width=8)).sample(torch.zeros(2, D), cfg_scale=2.0)

def draw(model, seed=0, labels=(0, 1, 2), **options):
    return generate(model, torch.tensor(labels), generator=torch.Generator().manual_seed(seed), **({'diff_steps': 4} | options))

def test_sampling_repeats_with_the_same_generator():
    model = make_model()
    torch.manual_seed(1); first = draw(model)
    torch.manual_seed(2); second = draw(model)                   # the global state has no say
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
        spread[temperature] = head.sample(z, temperature=temperature, diff_steps=50, generator=torch.Generator().manual_seed(0)).std()
    assert spread[0.0] < spread[0.5] < spread[1.0]

def test_callback_sees_every_token_exactly_once():
    seen = torch.zeros(3, N, dtype=torch.long)
    draw(make_model(), ar_steps=5, callback=lambda k, tokens, new: seen.scatter_add_(1, new, torch.ones_like(new)))
    assert (seen == 1).all()

def test_given_order_is_followed():
    order, firsts = torch.arange(N).flip(0).expand(3, N), []
    draw(make_model(), order=order, ar_steps=N, callback=lambda k, tokens, new: firsts.append(new[0, 0].item()))
    assert firsts == list(range(N))[::-1]

@pytest.mark.parametrize('what, options', [('class 7 does not exist', {'labels': (0, 7)}), ('class -1 does not exist', {'labels': (-1, 0)}), ('ar_steps=17', {'ar_steps': 17}),
                                           ('diff_steps=1001', {'diff_steps': 1001}), ('temperature=-1', {'temperature': -1}), ('order', {'order': torch.zeros(1, 3)})])
def test_generate_says_what_is_wrong(what, options):
    with pytest.raises(ValueError, match=what): draw(make_model(), **options)

def test_backbone_says_what_is_wrong(inputs):
    tokens, labels, order = inputs
    model = make_model()
    with pytest.raises(ValueError, match=r'tokens \(2, 16, 5\) must be \(B, 16, 12\)'): model.backbone(tokens[..., :5], labels, order, 3)
    with pytest.raises(ValueError, match='one class per image'): model.backbone(tokens, labels[:1], order, 3)
    with pytest.raises(ValueError, match='n_known=99'): mask_from_order(order, 99)

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

@pytest.mark.parametrize('make', [lambda: PixelTokenizer(patch=4), lambda: KLTokenizer(VAE(VAEConfig(width=8, mults=(1, 2), embed_dim=3, latent_channels=3)), 0.7, patch=2)])
def test_tokenizers_share_one_interface(make, tmp_path, g):
    torch.manual_seed(0)
    tokenizer = make()
    images = torch.rand(2, 3, 16, 16, generator=g)*2 - 1
    tokens = tokenizer.encode(images)
    assert tokens.shape == (2, *tokenizer.token_shape(16)) and tokenizer.decode(tokens).shape == images.shape
    save_tokenizer(tokenizer, tmp_path/'t')
    assert_close(load_tokenizer(tmp_path/'t').encode(images), tokens, rtol=0, atol=2e-2)      # stored in half precision
    with pytest.raises(ValueError, match='not a multiple'): tokenizer.token_shape(15)

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

@pytest.mark.parametrize('name, parameters', [('mar-b-imagenet256', 207_924_768), ('mar-l-imagenet256', 478_326_304), ('mar-h-imagenet256', 942_403_104)])
def test_presets_have_the_published_size(name, parameters):
    with torch.device('meta'): model = ImageModel(preset(name).model)
    assert sum(p.numel() for p in model.parameters()) == parameters

def test_unknown_preset_names_the_known_ones():
    with pytest.raises(ValueError, match='toy'): preset('huge')
    assert set(PRESETS) >= {'tiny', 'toy'}

@pytest.mark.parametrize('n_known, n_new', [(0, 1), (0, 16), (5, 4), (15, 1)])
def test_z_of_the_next_tokens_is_that_of_the_whole_pass(inputs, n_known, n_new):
    "The last block answers for asked places only; nothing else may change, gradients included"
    tokens, labels, order = inputs
    model, wanted, gradients = make_model(), None, []
    for z in (lambda m: take(m(tokens, labels, order, n_known), order[:, n_known:n_known + n_new]), lambda m: m.condition(tokens, labels, order, n_known, n_new)):
        model.zero_grad(); found = z(model.backbone); found.square().sum().backward()
        if wanted is not None: assert_close(found, wanted, atol=1e-5, rtol=1e-5)
        wanted = found.detach()
        gradients.append(torch.cat([p.grad.flatten() for p in model.backbone.parameters() if p.grad is not None]))
    assert_close(*gradients, atol=1e-4, rtol=1e-4)

def test_a_masked_model_needs_a_decoder():
    with pytest.raises(ValueError, match='decoder_blocks=0 must be at least 1'): ModelConfig(decoder_blocks=0)

def largest_correlation(a, b):
    "Of the drops of two calls, at any of a million distances, in standard errors"
    z = [torch.nn.functional.pad(((x.view(torch.int16) < round(0.1*65536) - 32768).float() - 0.1)/0.3, (0, 2*len(x))) for x in (a, b)]
    c = torch.fft.irfft(torch.fft.rfft(z[0])*torch.fft.rfft(z[1]).conj())[int(a is b):len(a)]
    return c.abs().max().item()/len(z[0])**.5*2**.5

def test_no_random_number_knows_of_another():
    torch.manual_seed(0)
    calls = [random_bits(2**20) for _ in range(3)]
    assert all(len(x) == 2**20 and x.dtype == torch.int32 for x in calls) and len(random_bits(0)) == 0 and len(random_bits(1)) == 1
    for x in calls: assert largest_correlation(x, x) < 6                                    # after one round of mixing: 8 to 13
    for x, y in zip(calls, calls[1:]): assert largest_correlation(x, y) < 6.5               # one step's masks and the next one's
    counts = torch.stack([torch.bincount(x.view(torch.int16).int() + 32768, minlength=65536) for x in calls]).sum(0).double()
    mean = counts.mean()
    assert abs(((counts - mean)**2/mean).sum() - 65535) < 5*(2*65535)**.5                   # all 65536 values equally often: chi square
    torch.manual_seed(0)
    assert torch.equal(random_bits(5000), calls[0][:5000])                                  # the global state decides, and nothing else

def test_a_layer_learns_in_half_precision_like_pytorchs_and_keeps_less():
    torch.manual_seed(0)
    ours, x = Linear(48, 80), torch.randn(2, 33, 48)
    usual = torch.nn.Linear(48, 80)
    torch.nn.init.normal_(ours.bias); usual.load_state_dict(ours.state_dict())
    found, kept = {}, {}
    for name, layer in (('ours', ours), ('usual', usual)):
        kept[name] = []
        x.requires_grad_().grad = None
        own = {p.data_ptr() for p in layer.parameters()}
        pack = lambda t: (kept[name].append(t.numel()) if t.data_ptr() not in own else None, t)[1]
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t), torch.autocast('cpu', torch.bfloat16): y = layer(x)
        assert y.dtype == torch.bfloat16
        y.float().square().sum().backward()
        found[name] = [y.detach().float(), x.grad, layer.weight.grad, layer.bias.grad]
    for a, b in zip(found['ours'], found['usual']):
        assert a.dtype == torch.float32
        assert_close(a, b, rtol=2e-2, atol=2e-2*b.abs().max().item())
    if torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported(): assert sum(kept['ours']) == x.numel() < sum(kept['usual'])      # no copy of the weights
    assert torch.equal(ours(x), usual(x))                                                  # in float32 they are the same
    no_bias = Linear(48, 80, bias=False)
    with torch.autocast('cpu', torch.bfloat16): no_bias(x.detach()).float().sum().backward()
    assert no_bias.weight.grad.abs().sum() > 0

@pytest.mark.parametrize('p', [0.1, 0.5, 0.999])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
def test_dropout_drops_the_share_it_was_asked_for(p, dtype):
    torch.manual_seed(0)
    x = torch.ones(1001, 1003, dtype=dtype, requires_grad=True)
    y = dropout(x, p); y.float().sum().backward()
    share, n = (y == 0).float().mean().item(), y.numel()
    assert y.max() == torch.tensor(1/(1 - p), dtype=dtype)                                 # what is left makes up for it
    assert dropout(x, 1 - 1e-6).count_nonzero() < 50                                       # a millionth: too little for sixteen bits
    assert abs(share - p) < 5*(p*(1 - p)/n)**.5 + 1e-5                                     # five standard deviations, and the step of 1/65536
    assert torch.equal(x.grad == 0, y == 0) and torch.equal(x.grad.unique(), y.detach().unique())
    columns = (y == 0).float().mean(0)                                                     # no place is special
    assert (columns - p).abs().max() < 6*(p*(1 - p)/1001)**.5
    assert dropout(x, p, training=False) is x and dropout(x, 0.0) is x
