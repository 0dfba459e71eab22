"Tokenizers of every kind, and what training them may rely on"
import json, math
import numpy as np, pytest, torch
from torch.testing import assert_close
from marlearn.data import ImageData, load_shapes
from marlearn.engine.adversarial import adaptive_weight, Adversary, find_vgg, hinge_loss, PatchDiscriminator
from marlearn.engine.tokenizers import fit_tokenizer, get_tokenizer, TokenizerConfig, TOKENIZERS
from marlearn.files import pretrained, save_weights
from marlearn.tokenizers import (
    KLTokenizer, load_tokenizer, measure_scale, patchify, PixelTokenizer, save_tokenizer, tokenizer_from,
    unpatchify, VQTokenizer)
from marlearn.vae import fit_vae, kl16, kl8, psnr, ssim, VAE, vae_loss, VAEConfig
from marlearn.vq import code_usage, fit_vq, nearest, VectorQuantizer, vq_loss, VQConfig, VQVAE

NET = VAEConfig(width=8, mults=(1, 2), latent_channels=3, embed_dim=5)

def make_vae(**changes):
    torch.manual_seed(0)
    return VAE(VAEConfig(width=8, mults=(1, 2), latent_channels=3, embed_dim=5, **changes))

def make_vq(g, codes=24, **changes):
    torch.manual_seed(0)
    vq = VQVAE(VQConfig(net=NET, codes=codes, **changes))
    vq.quantiser(vq.encode(torch.rand(8, 3, 16, 16, generator=g)*2 - 1), g)   # training mode: codes move onto latents
    return vq.eval()

def make(kind, g):
    if kind == 'pixels': return PixelTokenizer(patch=4, scale=1.7)
    if kind == 'kl': return KLTokenizer(make_vae(), scale=.7, patch=2)
    return VQTokenizer(make_vq(g), 1.3, quantise=kind == 'vq')

KINDS = ('pixels', 'kl', 'vq', 'vq-continuous')

@pytest.fixture
def images(g): return torch.rand(4, 3, 16, 16, generator=g)*2 - 1

@pytest.fixture(scope='module')
def data():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 3, 16, 16)).astype(np.uint8)
    return ImageData(pixels, np.zeros(40, np.int64), ('noise',), 'noise', 'drawn here')

# -- every kind --

@pytest.mark.parametrize('kind', KINDS)
def test_round_trip_of_every_kind(kind, g, images, tmp_path):
    tokenizer = make(kind, g)
    save_tokenizer(tokenizer, tmp_path/'t')
    back = load_tokenizer(tmp_path/'t')
    assert back.settings() == tokenizer.settings() and back.kind == kind
    assert_close(back.token_shape(16), tokenizer.token_shape(16))
    tokens = back.encode(images)
    assert tokens.shape == (4, *back.token_shape(16)) and tokens.isfinite().all()
    assert back.decode(tokens).shape == images.shape
    save_tokenizer(back, tmp_path/'again')
    assert_close(load_tokenizer(tmp_path/'again').encode(images), tokens, rtol=0, atol=0)
    if kind != 'vq':
        assert_close(tokens, tokenizer.encode(images), rtol=0, atol=.01)
    assert (back.codebook is None) == (kind != 'vq')

def test_vq_tokens_are_rows_of_the_codebook(g, images, tmp_path):
    tokenizer = make('vq', g)
    save_tokenizer(tokenizer, tmp_path/'t')
    back = load_tokenizer(tmp_path/'t')
    assert_close(back.codebook, tokenizer.codebook, rtol=0, atol=0)      # models trained before saving know these codes
    for t in (tokenizer, back):
        tokens, indices = t.encode(images), t.indices(images)
        assert indices.dtype == torch.int64 and indices.unique().numel() > 4
        assert_close(tokens, t.codebook[indices], rtol=0, atol=0)
        assert_close(tokens, t.from_indices(indices), rtol=0, atol=0)
        assert_close(tokens, tokens.half().float(), rtol=0, atol=0)      # survive a half precision cache

def test_vq_decodes_what_the_network_decodes(g, images):
    tokenizer = make('vq', g)
    assert_close(tokenizer.decode(tokenizer.encode(images)), tokenizer.vq(images)[0], rtol=0, atol=1e-5)
    nudged = tokenizer.encode(images) + 1e-4                              # near a code: the same picture
    assert_close(tokenizer.decode(nudged), tokenizer.vq(images)[0], rtol=0, atol=1e-5)

def test_vq_continuous_is_what_lies_before_the_codebook(g, images):
    discrete = make('vq', g)
    soft = VQTokenizer(discrete.vq, 1.3, quantise=False)
    assert_close(soft.encode(images).transpose(1, 2).unflatten(2, (8, 8)), discrete.vq.encode(images)*1.3)
    assert (soft.encode(images) - discrete.encode(images)).abs().max() > 1e-3
    assert_close(soft.decode(soft.encode(images)), discrete.decode(discrete.encode(images)), rtol=0, atol=0)
    assert_close(soft.indices(images), discrete.indices(images))

@pytest.mark.parametrize('kind', KINDS)
def test_measured_scale_gives_unit_size(kind, g, images):
    tokenizer = make(kind, g)
    scale = measure_scale(tokenizer, images, torch.Generator().manual_seed(0))
    again = tokenizer_from(tokenizer.settings() | {'scale': scale})
    again.load_state_dict(tokenizer.state_dict())
    assert_close(again.encode(images, torch.Generator().manual_seed(0)).std(), torch.tensor(1.), rtol=1e-3, atol=0)

@pytest.mark.parametrize('config, patch, stride, channels, shape', [
    (kl16(), 1, 16, 16, (256, 16)), (kl8(), 2, 8, 4, (256, 16)), (kl8(), 1, 8, 4, (1024, 4))])
def test_large_configurations(config, patch, stride, channels, shape):
    with torch.device('meta'):
        tokenizer, photo = KLTokenizer(VAE(config), 1.0, patch), torch.empty(1, 3, 256, 256)
    assert (tokenizer.stride, tokenizer.channels, tokenizer.token_shape(256)) == (stride, channels, shape)
    mean, std = tokenizer.moments(photo)
    assert mean.shape == std.shape == (1, *shape)
    assert tokenizer.decode(mean).shape == photo.shape

def test_kl8_has_attention_only_in_the_middle():
    with torch.device('meta'):
        vae = VAE(kl8())
    assert sum(type(m).__name__ == 'AttnBlock' for m in vae.modules()) == 2
    assert sum(p.numel() for p in vae.parameters()) == 83_653_863        # LDM's kl-f8, as in Stable Diffusion

# -- pictures that are not square --

SIZES = ((64, 96), (32, 16), (16, 48))

def copies_by_network(tokenizer, pictures):
    if tokenizer.kind == 'pixels': return pictures
    if tokenizer.kind == 'kl': return tokenizer.vae.decode(tokenizer.vae.encode(pictures).mean)
    return tokenizer.vq(pictures)[0]

def cells_by_network(tokenizer, pictures):
    "(B, channels, h, w), scaled"
    if tokenizer.kind == 'pixels': return pictures*tokenizer.scale
    if tokenizer.kind == 'kl': return tokenizer.vae.encode(pictures).mean*tokenizer.scale
    latents = tokenizer.vq.encode(pictures)*tokenizer.scale
    if tokenizer.kind == 'vq-continuous': return latents
    rows, codes = latents.movedim(1, -1), tokenizer.vq.quantiser.codebook*tokenizer.scale
    nearest_code = torch.cdist(rows.flatten(0, 2), codes).argmin(1)
    return tokenizer.codebook[nearest_code].view(rows.shape).movedim(-1, 1)

@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('size', SIZES)
def test_pictures_of_any_size_that_fits(kind, size, g):
    tokenizer, pictures = make(kind, g), torch.rand(2, 3, *size, generator=g)*2 - 1
    tokens, grid = tokenizer.encode(pictures), tokenizer.grid_shape(size)
    assert tokens.shape == (2, *tokenizer.token_shape(size)) and grid[0]*grid[1] == tokens.shape[1]
    cells = tokenizer.stride*tokenizer.patch
    assert grid == (size[0]//cells, size[1]//cells)
    copies = tokenizer.decode(tokens, grid)
    assert copies.shape == pictures.shape
    assert_close(tokenizer.reconstruct(pictures), copies, rtol=0, atol=0)
    assert_close(copies, copies_by_network(tokenizer, pictures), rtol=0, atol=1e-5)

@pytest.mark.parametrize('kind', KINDS)
def test_a_wide_picture_is_cut_like_its_network_cuts_it(kind, g):
    "The token at (row, column) of the grid holds the cells at that place"
    tokenizer, pictures = make(kind, g), torch.rand(2, 3, 16, 48, generator=g)*2 - 1
    rows, columns = tokenizer.grid_shape((16, 48))
    cells = cells_by_network(tokenizer, pictures)
    tokens, p = tokenizer.encode(pictures).view(2, rows, columns, -1), tokenizer.patch
    for row in range(rows):
        for column in range(columns):
            square = cells[:, :, row*p:(row + 1)*p, column*p:(column + 1)*p]
            assert_close(tokens[:, row, column], square.flatten(1))

@pytest.mark.parametrize('kind', KINDS)
def test_a_grid_that_does_not_fit_says_what_to_pass(kind, g):
    tokenizer = make(kind, g)
    tokens = tokenizer.encode(torch.rand(1, 3, 16, 32, generator=g))
    N = tokens.shape[1]
    with pytest.raises(ValueError, match=rf'{N} tokens are no square grid: pass grid=\(rows, columns\)'):
        tokenizer.decode(tokens)
    with pytest.raises(ValueError, match=rf'{N} tokens do not fill grid=\(3, 3\)'):
        tokenizer.decode(tokens, (3, 3))
    with pytest.raises(ValueError, match='16x31 pixels cannot be cut'):
        tokenizer.token_shape((16, 31))

def test_unpatchify_is_the_way_back_for_every_grid(g):
    for rows, columns, patch in ((2, 3, 4), (3, 2, 1), (1, 5, 2), (4, 4, 3)):
        grid = torch.randn(2, 5, rows*patch, columns*patch, generator=g)
        tokens = patchify(grid, patch)
        assert tokens.shape == (2, rows*columns, 5*patch**2)
        assert_close(unpatchify(tokens, patch, (rows, columns)), grid, rtol=0, atol=0)
    assert_close(unpatchify(tokens, 3), grid, rtol=0, atol=0)            # the last one is a square

def test_eps_is_read_from_the_modules(g, images):
    "A norm with another eps changes what the network says"
    vae = make_vae()
    before = vae.encode(images).mean
    norms = [m for m in vae.modules() if isinstance(m, torch.nn.GroupNorm)]
    assert {m.eps for m in norms} == {1e-6} and len(norms) > 10
    for norm in norms:
        norm.eps = .1
    assert (vae.encode(images).mean - before).abs().max() > 1e-3

# -- the codebook --

def test_nearest_is_nearest(g):
    latents, codebook = torch.randn(50, 6, generator=g), torch.randn(9, 6, generator=g)
    assert_close(nearest(latents, codebook, rows=7), torch.cdist(latents, codebook).argmin(1))
    assert_close(nearest(codebook, codebook), torch.arange(9))

def test_straight_through_gradient_is_identity(g):
    quantiser = VectorQuantizer(10, 6)
    latents = torch.randn(2, 6, 3, 4, generator=g, requires_grad=True)
    upstream = torch.randn(2, 6, 3, 4, generator=g)
    quantised = quantiser(latents, g)
    (quantised.latents*upstream).sum().backward()
    assert_close(latents.grad, upstream, rtol=0, atol=0)
    again = quantiser.eval()(latents.detach())
    assert_close(again.latents, quantiser.codebook[again.indices].movedim(-1, 1), rtol=0, atol=0)

@pytest.mark.parametrize('ema', (True, False))
def test_codes_find_cluster_means(ema, g):
    means = torch.tensor([[5., 0.], [-5., 0.], [0., 5.], [0., -5.]])
    quantiser = VectorQuantizer(4, 2, ema=ema, decay=.9, revive_below=0.)
    with torch.no_grad():
        quantiser.codebook.copy_(.2*means)             # one on each side
    if ema:
        quantiser.sums.copy_(quantiser.codebook)
    opt = None if ema else torch.optim.SGD(quantiser.parameters(), lr=2.)
    for _ in range(300):
        which = torch.arange(64) % 4
        latents = (means[which] + .3*torch.randn(64, 2, generator=g)).T.view(1, 2, 8, 8)
        quantised = quantiser(latents, g)
        assert (quantised.codebook == 0) == ema
        if opt:
            opt.zero_grad()
            quantised.codebook.backward()
            opt.step()
    assert_close(quantiser.codebook.detach(), means, rtol=0, atol=.15)
    assert_close(quantiser.use, torch.ones(4), rtol=0, atol=.05)

def test_ema_follows_the_mean_exactly(g):
    "After one step: (decay*sum + (1-decay)*new sum) / (decay*use + (1-decay)*new use)"
    quantiser = VectorQuantizer(2, 1, decay=.75, revive_below=0.)
    quantiser.codebook.copy_(torch.tensor([[0.], [10.]]))
    quantiser.sums.copy_(quantiser.codebook)
    quantiser(torch.tensor([1., 2., 3., 12.]).view(1, 1, 2, 2))
    assert_close(quantiser.use, torch.tensor([.75 + .25*3/2, .75 + .25*1/2]))
    codes = [.25*6/2/(.75 + .25*3/2), (.75*10 + .25*12/2)/(.75 + .25*1/2)]
    assert_close(quantiser.codebook.flatten(), torch.tensor(codes))

@pytest.mark.parametrize('ema', (True, False))
def test_revival_revives(ema, g):
    latents = torch.randn(8, 3, 4, 4, generator=g)
    def used_after(revive_below):
        quantiser = VectorQuantizer(32, 3, ema=ema, decay=.5, revive_below=revive_below)
        with torch.no_grad():
            quantiser.codebook.fill_(100.)
            quantiser.codebook[0] = 0.                                   # all latents choose code 0
            if ema:
                quantiser.sums.copy_(quantiser.codebook)
        quantiser.started.fill_(True)
        revived = sum(quantiser(latents, torch.Generator().manual_seed(s)).revived.item() for s in range(12))
        return code_usage(quantiser.eval()(latents).indices, 32)['used'], revived, quantiser
    used, revived, _ = used_after(0.)
    assert used <= 1/32 and revived == 0
    used, revived, quantiser = used_after(.1)
    assert used > .9 and revived >= 31
    assert quantiser.codebook.abs().max() < 10

def test_first_batch_places_all_codes_and_evaluation_changes_nothing(g):
    latents, quantiser = torch.randn(4, 3, 8, 8, generator=g), VectorQuantizer(16, 3)
    state = {k: v.clone() for k, v in quantiser.state_dict().items()}
    quantiser.eval()(latents)
    for k, v in quantiser.state_dict().items():
        assert_close(v, state[k], rtol=0, atol=0)
    assert quantiser.train()(latents, g).revived == 16
    assert quantiser.codebook.std() > .3                                 # no longer within 1/V of zero

def test_usage():
    assert code_usage(torch.tensor([0, 1, 2, 3]), 8) == {'used': .5, 'perplexity': pytest.approx(4)}
    assert code_usage(torch.zeros(9, dtype=torch.int64), 8) == {'used': .125, 'perplexity': pytest.approx(1)}
    skewed = code_usage(torch.tensor([0]*9 + [1]), 8)['perplexity']
    assert skewed == pytest.approx(math.exp(-.9*math.log(.9) - .1*math.log(.1)))
    with pytest.raises(ValueError, match='no indices'):
        code_usage(torch.zeros(0, dtype=torch.int64), 8)

def test_vq_loss_adds_up_and_reaches_everything(g, images):
    vq = make_vq(g, ema=False).train()
    recon, quantised = vq(images, g)
    parts = vq_loss(images, recon, quantised, 24, commitment=.25)
    assert_close(parts['loss'].detach(), parts['l1'] + .25*parts['commitment'] + parts['codebook'])
    assert_close(parts['commitment'], parts['codebook']) and parts['commitment'] > 0
    parts['loss'].backward()
    assert not [n for n, p in vq.named_parameters() if p.grad is None or not p.grad.any()]

@pytest.mark.parametrize('ema', (True, False))
def test_fit_vq_is_repeatable_and_reports_usage(ema, data):
    def run():
        torch.manual_seed(1)
        vq = VQVAE(VQConfig(net=NET, codes=24, ema=ema))
        return fit_vq(vq, data, steps=3, batch_size=4, seed=5), vq
    (history, vq), (again, other) = run(), run()
    assert history == again and {'l1', 'used', 'perplexity', 'revived', 'commitment'} <= history[0].keys()
    for a, b in zip(vq.state_dict().values(), other.state_dict().values()):
        assert_close(a, b, rtol=0, atol=0)

# -- quality --

def test_ssim(images, g):
    assert_close(ssim(images, images), torch.ones(4))
    noise = torch.randn(images.shape, generator=g)
    values = [ssim(images, images + s*noise).mean().item() for s in (0., .1, .3, .6, 1.)]
    assert values == sorted(values, reverse=True) and values[-1] < .6
    assert_close(ssim(images, images + noise), ssim(images + noise, images))
    assert ssim(.5 + .3*images, .5 - .3*images).max() < 0                # opposite structure
    flat = torch.zeros(1, 3, 16, 16)
    by_hand = torch.tensor([(2*.75*.35 + 1e-4)/(.75**2 + .35**2 + 1e-4)])                # black is 0
    assert_close(ssim(flat + .5, flat - .3), by_hand, rtol=1e-3, atol=1e-5)
    with pytest.raises(ValueError, match='at least 11'):
        ssim(images[..., :10, :], images[..., :10, :])

def test_vgg_distance_and_its_absence(tmp_path, monkeypatch, images):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.setattr(torch.hub, '_hub_dir', None, raising=False)
    with pytest.warns(UserWarning, match='no perceptual loss'):
        assert find_vgg() is None
    assert not list(tmp_path.rglob('*.pth'))
    state = _vgg_state()
    (tmp_path/'hub'/'checkpoints').mkdir(parents=True)
    torch.save(state, tmp_path/'hub'/'checkpoints'/'vgg16-397923af.pth')
    judge = find_vgg()
    assert not [p for p in judge.parameters() if p.requires_grad]
    copy = (images*.5).requires_grad_()
    distance = judge(images, copy)
    distance.backward()
    assert judge(images, images) == 0 and 0 < distance < 2 and copy.grad.any()
    with torch.no_grad():                               # the same, with torchvision's layers and the formula in full
        net = vgg_features(state)
        shift, size = torch.tensor([.485, .456, .406]).view(3, 1, 1), torch.tensor([.229, .224, .225]).view(3, 1, 1)
        a, b, total = ((images + 1)/2 - shift)/size, ((copy + 1)/2 - shift)/size, 0.
        for i, layer in enumerate(net[:30]):                          # without the last pooling
            a, b = layer(a), layer(b)
            if i in (3, 8, 15, 22, 29):
                unit = [x/x.norm(dim=1, keepdim=True) for x in (a, b)]
                total += (unit[0] - unit[1]).square().sum(1).mean()/5
    assert_close(distance.detach(), total)
    grey = images[:, :1]
    coloured = grey.expand(-1, 3, -1, -1)
    assert_close(judge(grey, grey*.5), judge(coloured, coloured*.5))

def vgg_features(state):
    from torchvision.models import vgg16
    with torch.device('meta'):
        net = vgg16(weights=None).features
    net.load_state_dict({k.removeprefix('features.'): v for k, v in state.items()}, assign=True)
    for layer in net:
        if isinstance(layer, torch.nn.ReLU):
            layer.inplace = False
    return net

def _vgg_state():
    "Random weights of the right shapes, without building the 500 MB network"
    from torchvision.models import vgg16
    with torch.device('meta'):
        shapes = {k: v.shape for k, v in vgg16(weights=None).features.state_dict().items()}
    g = torch.Generator().manual_seed(0)
    weights = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=g)*(2/max(1, math.prod(shape[1:])))**.5
        weights[f'features.{name}'] = noise if len(shape) > 1 else torch.zeros(shape)
    return weights

# -- the adversary --

def test_adaptive_weight_is_the_ratio_of_gradients(g, images):
    vae = make_vae()
    net = PatchDiscriminator(width=4, layers=1)
    recon, posterior = vae(images, g)
    parts, last = vae_loss(images, recon, posterior, .1), vae.decoder[-1].weight
    verdict = -net(recon).mean()
    by_hand = []
    for term in (parts['loss'], verdict):
        vae.zero_grad()
        term.backward(retain_graph=True)
        by_hand.append(last.grad.square().sum().sqrt())
    vae.zero_grad()
    weight = adaptive_weight(parts['loss'], verdict, last)
    assert_close(weight, by_hand[0]/(by_hand[1] + 1e-4))
    assert not weight.requires_grad and all(p.grad is None for p in vae.parameters())
    assert_close(adaptive_weight(parts['loss'], 0*verdict, last), (by_hand[0]/1e-4).clamp(max=1e4))
    net.eval()                                          # BatchNorm: another call must not change the verdict
    verdict = -net(recon).mean()
    with_verdict = Adversary(net, weight=.5).add_to_loss(parts, recon, last)
    assert_close(with_verdict['loss'], parts['loss'] + .5*adaptive_weight(parts['loss'], verdict, last)*verdict)

def test_hinge_loss():
    assert hinge_loss(torch.tensor([1., 5.]), torch.tensor([-1., -3.])) == 0
    assert hinge_loss(torch.zeros(2), torch.zeros(3)) == 1
    assert hinge_loss(torch.tensor([-1.]), torch.tensor([1.])) == 2

def run_with(adversary, data, steps=4, kind='kl'):
    torch.manual_seed(0)
    weights, parts = [], []
    net, fit = (VAE(NET), fit_vae) if kind == 'kl' else (VQVAE(VQConfig(net=NET, codes=24)), fit_vq)
    def callback(step, p):
        weights.append([v.detach().clone() for v in net.parameters()])
        parts.append(p)
    fit(net, data, steps=steps, batch_size=4, lr=1e-3, adversary=adversary, callback=callback)
    return weights, parts

def make_adversary(**changes):
    torch.manual_seed(9)
    return Adversary(PatchDiscriminator(width=4, layers=1), **({'lr': 1e-2} | changes))

@pytest.mark.parametrize('kind', ('kl', 'vq'))
def test_before_its_start_the_adversary_changes_nothing(kind, data):
    alone, _ = run_with(None, data, kind=kind)
    adversary = make_adversary(start=2)
    before = [p.detach().clone() for p in adversary.net.parameters()]
    judged, parts = run_with(adversary, data, kind=kind)
    for step in (0, 1):
        for a, b in zip(alone[step], judged[step]):
            assert_close(a, b, rtol=0, atol=0)
        assert not {'adversarial', 'discriminator'} & parts[step].keys()
    assert any((a != b).any() for a, b in zip(alone[2], judged[2]))
    assert {'adversarial', 'adaptive', 'discriminator'} <= parts[2].keys()
    assert any((a != b).any() for a, b in zip(before, adversary.net.parameters()))
    never = make_adversary(start=99)
    run_with(never, data, steps=2, kind=kind)
    for a, b in zip(before, never.net.parameters()):
        assert_close(a, b.detach(), rtol=0, atol=0)

def test_weight_zero_learns_but_does_not_count(data):
    alone, _ = run_with(None, data, steps=2)
    judged, parts = run_with(make_adversary(weight=0.), data, steps=2)
    for a, b in zip(alone[-1], judged[-1]):
        assert_close(a, b, rtol=0, atol=0)
    assert parts[0]['discriminator'] > 0

def test_discriminator_learns_to_tell_noise_from_grey(g):
    adversary = make_adversary()
    def pictures(): return torch.rand(8, 3, 16, 16, generator=g)
    losses = [adversary.learn(pictures()*2 - 1, .1*pictures()).item() for _ in range(40)]
    assert losses[-1] < .3 < losses[0]

def test_history_means_only_what_was_there(data):
    history = fit_vae(make_vae(), data, steps=4, batch_size=4, adversary=make_adversary(start=3))
    assert len(history) == 1 and math.isfinite(history[0]['adversarial'])

# -- from settings to a tokenizer --

@pytest.mark.parametrize('kind', ('kl', 'vq', 'vq-continuous'))
def test_fit_tokenizer(kind, data, g):
    config = TokenizerConfig(kind=kind, net=NET, steps=3, batch_size=4, codes=24, adversarial_weight=.5,
                             adversarial_start=1, adversarial_width=4, adversarial_layers=1)
    state, seen = torch.get_rng_state(), []
    tokenizer = fit_tokenizer(config, data, callback=lambda step, parts: seen.append(parts.keys()))
    assert_close(torch.get_rng_state(), state, rtol=0, atol=0)           # nobody's random numbers were touched
    assert tokenizer.kind == kind and 'adversarial' in seen[-1] and 'adversarial' not in seen[0]
    images, _ = data.batch(range(40))
    assert_close(tokenizer.encode(images, g).std(), torch.tensor(1.), rtol=.05, atol=0)
    again = fit_tokenizer(config, data)
    assert again.settings() == tokenizer.settings()
    for a, b in zip(again.state_dict().values(), tokenizer.state_dict().values()):
        assert_close(a, b, rtol=0, atol=0)

def test_perceptual_weight_without_weights_says_so_once(data, tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.setattr(torch.hub, '_hub_dir', None, raising=False)
    with pytest.warns(UserWarning, match='no perceptual loss') as notices:
        fit_tokenizer(TokenizerConfig(net=NET, steps=2, batch_size=4, perceptual_weight=1.), data)
    assert len([n for n in notices if 'perceptual' in str(n.message)]) == 1

def test_presets():
    assert {'small-kl', 'small-vq', 'kl16', 'kl8'} <= TOKENIZERS.keys()
    for config in TOKENIZERS.values():
        img_size = 256 if config.net.width == 128 else 32
        assert img_size % (config.net.stride*config.patch) == 0
    assert TOKENIZERS['kl8'].net == kl8() and TOKENIZERS['kl8'].patch == 2 and TOKENIZERS['kl16'].net == kl16()

@pytest.mark.parametrize('name, kind, shape', [
    ('shipped', 'kl', (16, 40)), ('vq', 'vq', (64, 8)), ('vq-continuous', 'vq-continuous', (64, 8)),
    ('pixels', 'pixels', (16, 192)), ('pixels-4', 'pixels', (64, 48))])
def test_tokenizers_by_name(name, kind, shape):
    tokenizer = get_tokenizer(name)
    assert tokenizer.kind == kind and tokenizer.token_shape(32) == shape

def test_a_folder_is_a_name_and_a_wrong_name_says_what_there_is(tmp_path):
    save_tokenizer(PixelTokenizer(2), tmp_path/'mine')
    assert get_tokenizer(str(tmp_path/'mine')).settings() == PixelTokenizer(2).settings()
    for name, words in (('words', "use 'shipped', 'vq'"), ('pixels-0', 'there is no tokenizer pixels-0'),
                        ('kl16', 'train-tokenizer --preset kl16` or from official weights'),
                        ('vq16-continuous', 'train-tokenizer --preset vq16`')):
        with pytest.raises(FileNotFoundError, match=words):
            get_tokenizer(name)

# -- what ships --

@pytest.mark.parametrize('name, kind, shape', [('tokenizer', 'kl', (16, 40)), ('vq', 'vq', (64, 8))])
def test_shipped(name, kind, shape, g):
    folder = pretrained(name)
    tokenizer, report = load_tokenizer(folder), json.loads((folder/'report.json').read_text())
    assert tokenizer.kind == kind and tokenizer.token_shape(32) == shape
    images, _ = load_shapes('test', n=100).batch(range(100))
    tokens = tokenizer.encode(images)
    measured = psnr(images, tokenizer.decode(tokens)).mean().item()
    assert abs(measured - report['psnr of shapes' if kind == 'kl' else 'psnr, 1000 pictures of shapes test']) < 1.5
    assert .5 < tokens.std() < 2
    if kind == 'vq':
        assert (folder/'tokenizer.safetensors').stat().st_size < 1.1e6
        assert_close(tokens, tokenizer.codebook[tokenizer.indices(images)], rtol=0, atol=0)
        assert code_usage(tokenizer.indices(images), len(tokenizer.codebook))['used'] > .3

# -- bad input --

@pytest.mark.parametrize('kind', KINDS)
def test_pictures_that_do_not_fit_are_refused(kind, g, images):
    tokenizer = make(kind, g)
    for wrong, words in ((images[..., :15], '16x15 pixels cannot be cut: a side is not a multiple of'),
                         (images[:, :1], 'have 1 channels')):
        with pytest.raises(ValueError, match=words):
            tokenizer.encode(wrong)
        with pytest.raises(ValueError, match=words):
            tokenizer.moments(wrong)
    with pytest.raises(ValueError, match='15x15 pixels cannot be cut: a side is not a multiple of'):
        tokenizer.token_shape(15)
    with pytest.raises(ValueError, match='this tokenizer\'s hold'):
        tokenizer.decode(tokenizer.encode(images)[..., :-1])
    images[1, 0, 3, 3] = float('nan')
    with pytest.raises(ValueError, match='not finite'):
        tokenizer.encode(images)

def test_bad_settings_are_refused(g, data):
    with pytest.raises(ValueError, match="unknown kind of tokenizer: 'words'"):
        tokenizer_from({'kind': 'words'})
    with pytest.raises(ValueError, match='cannot be trained'):
        TokenizerConfig(kind='pixels')
    with pytest.raises(ValueError, match='patch=2'):
        TokenizerConfig(kind='vq', patch=2)
    bad = {'steps': 0, 'lr': 0., 'kl_weight': -1., 'codes': 1, 'decay': 1., 'revive_below': 1., 'commitment': -.1}
    for name, value in bad.items():
        with pytest.raises(ValueError, match=name):
            TokenizerConfig(**{name: value})
    with pytest.raises(ValueError, match='not a multiple of 32'):
        fit_tokenizer(TokenizerConfig(net=VAEConfig(width=8, mults=(1,)*6)), data)
    with pytest.raises(ValueError, match='img_channels=1'):
        fit_tokenizer(TokenizerConfig(net=VAEConfig(img_channels=1)), data)
    with pytest.raises(ValueError, match='adversarial_layers=3'):
        fit_tokenizer(TokenizerConfig(net=NET, adversarial_weight=.5), data)
    for scale in (0., -1., float('nan')):
        with pytest.raises(ValueError, match='must be a positive number'):
            KLTokenizer(make_vae(), scale)
    with pytest.raises(ValueError, match='this codebook has 0..23'):
        make('vq', g).from_indices(torch.tensor([[24]]))
    with pytest.raises(ValueError, match='do not fit codes of 3'):
        VectorQuantizer(4, 3)(torch.zeros(1, 2, 2, 2))
    with pytest.raises(ValueError, match='all alike'):
        measure_scale(PixelTokenizer(4), torch.zeros(2, 3, 8, 8))
    with pytest.raises(ValueError, match='start=-1'):
        make_adversary(start=-1)
    with pytest.raises(ValueError, match='too small'):
        PatchDiscriminator()(torch.zeros(1, 3, 16, 16))

def test_weights_can_be_read_by_whom_the_umask_allows(tmp_path):
    import os
    before = os.umask(0o022)
    try:
        save_weights({'a': torch.zeros(2)}, tmp_path/'w.safetensors')
    finally:
        os.umask(before)
    assert (tmp_path/'w.safetensors').stat().st_mode & 0o777 == 0o644

@pytest.mark.parametrize('size', [0, -32, (0, 32)])
def test_sizes_that_are_none_are_refused(size):
    with pytest.raises(ValueError, match='cannot be cut'): PixelTokenizer(4).token_shape(size)

@pytest.mark.parametrize('grid', [(4, 4), (-3, -5), (15, 2)])
def test_grids_that_do_not_fit_are_refused(grid):
    with pytest.raises(ValueError, match='do not fill'): PixelTokenizer(4).decode(torch.zeros(1, 15, 48), grid)
