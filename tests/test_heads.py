"Every head keeps the one protocol and draws from what it was shown; every sampler goes where it should"
import math
import pytest
import torch
from torch import nn
from torch.testing import assert_close
from marlearn.ar import Head
from marlearn.diffusion import (
    add_noise, cosine_schedule, ddim_step, ddim_tokens, denoise_step, diffusion_loss, dpm_solver_tokens, respace,
    sample_tokens)
from marlearn.heads import (
    DenoisingMLP, DiffusionHead, EnergyHead, FlowHead, GaussianMixtureHead, HeadConfig, HEADS, KINDS, make_head,
    SAMPLERS, with_guidance)

M, P, D, V = 6, 3, 5, 10
CHANCE = [k for k in KINDS if k != 'mse']                             # heads that draw
STEPPED = ('diffusion', 'flow')                                       # heads that take steps
COSINE = cosine_schedule()

def seeded(seed=0): return torch.Generator().manual_seed(seed)

def make(kind, seed=0, **changes):
    "A small head in which no weight is zero"
    g = seeded(seed)
    options = {'kind': kind, 'blocks': 2, 'width': 16, 'codes': V, 'x0_limit': 5.0} | changes
    head = make_head(HeadConfig(**options), P, D)
    with torch.no_grad():
        for p in head.parameters():
            p.normal_(0, 0.3, generator=g)
    if kind == 'cross-entropy':
        head.set_codebook(torch.randn(V, P, generator=g))
    return head

def rows(head, seed=1, n=M):
    g = seeded(seed)
    z = torch.randn(n, D, generator=g)
    z_uncond = torch.randn(n, D, generator=g)
    if head.continuous: return z, z_uncond, torch.randn(n, P, generator=g)
    return z, z_uncond, head.codebook[torch.randint(V, (n,), generator=g)]

def few(head): return {'diff_steps': 8} if 'diff_steps' in head.sample_options else {}

# --- the protocol, for every kind ------------------------------------------------------------------------
def test_registry():
    assert tuple(HEADS) == KINDS
    for kind, cls in HEADS.items():
        head = make(kind)
        assert type(head) is cls and isinstance(head, Head) and head.token_dim == P
        assert head.continuous == (kind != 'cross-entropy')
        assert ('diff_steps' in head.sample_options) == (kind in STEPPED)

@pytest.mark.parametrize('kind', KINDS)
def test_loss_is_the_sum_of_its_parts(kind):
    head = make(kind)
    z, _, target = rows(head)
    parts = head.loss_parts(z, target, generator=seeded())
    assert all(v.shape == (M,) and v.dtype == torch.float32 for v in parts.values())
    loss = head.loss(z, target, generator=seeded())
    assert loss.isfinite().all()
    assert_close(loss, sum(parts.values()))
    assert_close(loss, head.loss(z, target, generator=seeded()), rtol=0, atol=0)

@pytest.mark.parametrize('kind', KINDS)
def test_gradient_reaches_z_and_every_parameter(kind):
    head = make(kind)
    z, _, target = rows(head)
    z.requires_grad_()
    head.loss(z, target, generator=seeded()).sum().backward()
    assert (z.grad.abs().sum(1) > 0).all() and z.grad.isfinite().all()
    assert not [n for n, p in head.named_parameters() if p.grad is None or not p.grad.any()]

@pytest.mark.parametrize('kind', KINDS)
def test_first_step_of_training_moves_a_fresh_head(kind):
    torch.manual_seed(0)
    head = make_head(HeadConfig(kind=kind, blocks=1, width=16, codes=V), P, D)
    if kind == 'cross-entropy':
        head.set_codebook(torch.randn(V, P, generator=seeded()))
    z, _, target = rows(head)
    head.loss(z, target, generator=seeded()).sum().backward()
    assert any(p.grad is not None and p.grad.any() for p in head.parameters())
    assert all(p.grad is None or p.grad.isfinite().all() for p in head.parameters())

@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('cfg_scale', [1.0, 2.5])
def test_sample_is_finite_and_repeats(kind, cfg_scale):
    head = make(kind)
    z, z_uncond, _ = rows(head)
    def draw(seed): return head.sample(z, z_uncond=z_uncond, cfg_scale=cfg_scale, generator=seeded(seed), **few(head))
    x = draw(3)
    assert x.shape == (M, P) and x.dtype == torch.float32 and x.isfinite().all() and not x.requires_grad
    assert_close(x, draw(3), rtol=0, atol=0)
    assert (kind in CHANCE) == (not torch.equal(x, draw(4)))

@pytest.mark.parametrize('kind', KINDS)
def test_sampling_leaves_the_global_random_numbers_alone(kind):
    head = make(kind)
    z, _, target = rows(head)
    before = torch.get_rng_state()
    head.sample(z, generator=seeded(), **few(head))
    head.loss(z, target, generator=seeded())
    assert torch.equal(before, torch.get_rng_state())

@pytest.mark.parametrize('kind', KINDS)
def test_guidance(kind):
    head = make(kind)
    z, z_uncond, _ = rows(head, n=40)
    def draw(**kw): return head.sample(z, generator=seeded(), **few(head), **kw)
    assert_close(draw(z_uncond=z_uncond, cfg_scale=1.0), draw(), rtol=0, atol=0)
    assert (draw(z_uncond=z_uncond, cfg_scale=3.0) - draw()).abs().max() > 1e-3
    with pytest.raises(ValueError, match='needs z_uncond'):
        head.sample(z, cfg_scale=3.0)
    with pytest.raises(ValueError, match='shaped like z'):
        head.sample(z, z_uncond=z_uncond[:3], cfg_scale=3.0)

@pytest.mark.parametrize('kind', ['diffusion', 'flow', 'energy', 'mse'])
def test_guidance_of_zero_is_the_null_class(kind):
    head = make(kind)
    z, z_uncond, _ = rows(head)
    if kind == 'diffusion':                                           # only eps is guided, the variance is z's
        call, null = with_guidance(head.net, P, z, z_uncond, 0.0), with_guidance(head.net, P, z_uncond, None, 1.0)
        xt, time = torch.randn(M, P, generator=seeded()), head.net.embed_time(torch.tensor([500]))
        assert_close(call(xt, time)[:, :P], null(xt, time)[:, :P])
    else:
        drawn = head.sample(z, z_uncond=z_uncond, cfg_scale=0.0, generator=seeded(), **few(head))
        assert_close(drawn, head.sample(z_uncond, generator=seeded(), **few(head)))

@pytest.mark.parametrize('kind', KINDS)
def test_rows_are_independent(kind):
    "Changing one row moves this row only"
    head = make(kind)
    z, z_uncond, target = rows(head)
    z_other, target_other = z.clone(), target.clone()
    z_other[2] += 1
    target_other[2] = target[3]
    before, after = head.loss(z, target, generator=seeded()), head.loss(z_other, target_other, generator=seeded())
    moved = (before - after).abs() > 1e-4
    assert moved.tolist() == [i == 2 for i in range(M)]
    kw = dict(z_uncond=z_uncond, cfg_scale=1.5, temperature=0.0 if kind == 'cross-entropy' else 1.0) | few(head)
    def draw(z): return head.sample(z, generator=seeded(), **kw)
    moved = (draw(z) - draw(z_other)).abs().amax(1) > 1e-4
    assert not moved[[0, 1, 3, 4, 5]].any()
    assert moved[2] or kind in ('cross-entropy', 'mixture')            # these two may choose the same again

@pytest.mark.parametrize('kind', KINDS)
def test_wrong_tokens_are_refused_before_any_work(kind):
    head = make(kind)
    z, _, target = rows(head)
    g = seeded()
    state = g.get_state()
    with pytest.raises(ValueError, match=rf'tokens of {P} numbers, target \({M}, {P + 1}\)'):
        head.loss(z, torch.zeros(M, P + 1), generator=g)
    with pytest.raises(ValueError, match='same number of rows'):
        head.loss(z[:2], target, generator=g)
    broken = target.clone()
    broken[1, 0] = float('nan')
    with pytest.raises(ValueError, match='1 of 18 numbers in the tokens are NaN'):
        head.loss(z, broken, generator=g)
    with pytest.raises(ValueError, match='temperature=-1'):
        head.sample(z, temperature=-1, generator=g)
    assert torch.equal(state, g.get_state())

@pytest.mark.parametrize('kind', KINDS)
def test_callback_ends_with_the_token(kind):
    head = make(kind)
    z, *_ = rows(head)
    seen = []
    x = head.sample(z, generator=seeded(), callback=lambda t, xt, x0: seen.append((t, xt, x0)), **few(head))
    assert [t for t, *_ in seen] == (list(range(7, -1, -1)) if kind in STEPPED else [0])
    assert_close(seen[-1][1], x, rtol=0, atol=0)

@pytest.mark.parametrize('kind', ['flow', 'energy', 'mixture', 'cross-entropy'])
def test_temperature_zero_is_without_chance(kind):
    "For the mixture only the share of each Gaussian is left to chance"
    head = make(kind, **({'components': 1} if kind == 'mixture' else {}))
    z, *_ = rows(head)
    def draw(seed, temperature): return head.sample(z, temperature=temperature, generator=seeded(seed), **few(head))
    assert_close(draw(1, 0.0), draw(2, 0.0), rtol=0, atol=0)
    assert (draw(1, 1.0) - draw(1, 0.0)).abs().max() > 1e-2

@pytest.mark.parametrize('kind', KINDS)
def test_bfloat16_autocast(kind):
    head = make(kind)
    z, z_uncond, target = rows(head)
    with torch.autocast('cpu', torch.bfloat16):
        loss = head.loss(z, target, generator=seeded())
        x = head.sample(z, z_uncond=z_uncond, cfg_scale=1.5, generator=seeded(), **few(head))
    assert loss.dtype == x.dtype == torch.float32 and x.isfinite().all()
    assert_close(loss, head.loss(z, target, generator=seeded()), rtol=0.1, atol=0.1)

@pytest.mark.parametrize('kind', KINDS)
def test_state_dict_round_trip(kind):
    head, other = make(kind), make(kind, seed=1)
    other.load_state_dict(head.state_dict())
    z, *_ = rows(head)
    ours, theirs = (h.sample(z, generator=seeded(), **few(head)) for h in (head, other))
    assert_close(ours, theirs, rtol=0, atol=0)

@pytest.mark.parametrize('changes, says', [
    ({'kind': 'difusion'}, 'one of diffusion, flow'), ({'width': 0}, 'width=0'),
    ({'samples': 1}, 'samples=1 must be at least 2'), ({'components': 0}, 'components=0'), ({'codes': -1}, 'codes=-1')])
def test_config_is_checked(changes, says):
    with pytest.raises(ValueError, match=says):
        HeadConfig(**changes)

def test_cross_entropy_needs_a_codebook():
    with pytest.raises(ValueError, match='needs a tokenizer with a codebook'):
        make_head(HeadConfig(kind='cross-entropy'), P, D)

@pytest.mark.parametrize('kind', STEPPED)
@pytest.mark.parametrize('diff_steps', [0, -3, 1001, 2.5, float('nan')])
def test_steps_out_of_range(kind, diff_steps):
    head = make(kind)
    z, *_ = rows(head)
    with pytest.raises(ValueError, match=r'must lie in 1\.\.1000'):
        head.sample(z, diff_steps=diff_steps)

@pytest.mark.parametrize('kind', STEPPED)
@pytest.mark.parametrize('diff_steps', [1, 2, 1000])
def test_steps_at_the_ends_of_the_range(kind, diff_steps):
    head = make(kind)
    z, *_ = rows(head)
    calls = []
    head.net.register_forward_hook(lambda *_: calls.append(1))
    assert head.sample(z[:2], diff_steps=diff_steps, generator=seeded()).isfinite().all() and len(calls) == diff_steps

def test_unknown_sampler():
    head = make('diffusion')
    z, *_ = rows(head)
    with pytest.raises(ValueError, match=r"'euler' must be one of ddpm, ddim, dpm\+\+"):
        head.sample(z, sampler='euler')

# --- does each head learn? -------------------------------------------------------------------------------
def truth(which, g, modes=2):
    "which (M,) 0 or 1. Two modes, 70 and 30 percent, opposite of each other; the condition turns them"
    side = torch.where(torch.rand(len(which), 1, generator=g) < 0.7, 1.0, -1.0) if modes == 2 else 1.0
    place = torch.tensor([[1.0, 0.4], [-0.4, 1.0]])[which]
    return side*place + 0.1*torch.randn(len(which), 2, generator=g)

def energy_distance(a, b):
    return (2*torch.cdist(a, b).mean() - torch.cdist(a, a).mean() - torch.cdist(b, b).mean()).item()

@pytest.mark.parametrize('kind, steps, lr, bound', [
    ('diffusion', 400, 1e-2, 0.03), ('flow', 400, 1e-2, 0.03), ('cross-entropy', 150, 0.3, 0.03),
    ('mixture', 200, 1e-2, 0.03), ('energy', 400, 1e-2, 0.05), ('mse', 200, 1e-2, 0.15)])
def test_a_head_learns_a_distribution(kind, steps, lr, bound):
    torch.manual_seed(0)
    g = seeded()
    config = HeadConfig(kind=kind, blocks=1, width=48, noise_levels=2, codes=64, components=4, x0_limit=3.0)
    head = make_head(config, 2, 2)
    grid = torch.cartesian_prod(torch.linspace(-1.4, 1.4, 8), torch.linspace(-1.4, 1.4, 8))
    if kind == 'cross-entropy':
        head.set_codebook(grid)
    def tokens(which):
        x = truth(which, g, 1 if kind == 'mse' else 2)
        return grid[torch.cdist(x, grid).argmin(1)] if kind == 'cross-entropy' else x
    opt = torch.optim.Adam(head.parameters(), lr=lr)
    fade = torch.optim.lr_scheduler.OneCycleLR(opt, lr, total_steps=steps, pct_start=0.1)
    for _ in range(steps):
        which = torch.randint(2, (128,), generator=g)
        loss = head.loss(torch.eye(2)[which], tokens(which), generator=g).mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        fade.step()
    for k in (0, 1):
        which = torch.full((1000,), k)
        drawn = head.sample(torch.eye(2)[which], generator=g, **({'diff_steps': 50} if head.sample_options else {}))
        assert energy_distance(drawn, tokens(which)) < bound
        assert energy_distance(drawn, tokens(1 - which)) > 0.3         # and not the other one

def test_squared_error_averages_two_modes():
    "Why a head that only guesses is not enough: its answer lies where no token is"
    torch.manual_seed(0)
    g = seeded()
    head = make_head(HeadConfig(kind='mse', width=32), 2, 2)
    opt = torch.optim.Adam(head.parameters(), lr=1e-2)
    for _ in range(200):
        which = torch.randint(2, (128,), generator=g)
        loss = head.loss(torch.eye(2)[which], truth(which, g)).mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
    assert_close(head.sample(torch.eye(2)[:1])[0], 0.4*torch.tensor([1.0, 0.4]), atol=0.15, rtol=0)

# --- diffusion: the samplers -----------------------------------------------------------------------------
def gaussian_network(schedule, variance):
    "Data from N(0, variance): the exact eps is known in closed form"
    def network(xt, t):
        ab = schedule.at('alpha_bar', t)
        return (1 - ab).sqrt()*xt/(ab*variance + 1 - ab)
    return network

def end_error(sampler, S, variance=0.25):
    "Mean distance from where the exact way back (probability flow) leads the same starting noise"
    schedule = respace(COSINE, S)
    drawn = sampler(gaussian_network(schedule, variance), (500, 1), schedule, generator=seeded())
    ab, start = COSINE.alpha_bar[-1], torch.randn(500, 1, generator=seeded())
    return (drawn - start*(variance/(ab*variance + 1 - ab)).sqrt()).abs().mean().item()

@pytest.mark.parametrize('variance', [1.0, 4.0])
def test_order_of_convergence(variance):
    "Twice the steps: half the error for DDIM, about a quarter for DPM-Solver++ 2M"
    for S in (20, 40):
        assert 1.8 < end_error(ddim_tokens, S, variance)/end_error(ddim_tokens, 2*S, variance) < 2.2
        assert 3 < end_error(dpm_solver_tokens, S, variance)/end_error(dpm_solver_tokens, 2*S, variance) < 6
    assert end_error(dpm_solver_tokens, 40, variance) < end_error(ddim_tokens, 40, variance)/4

@pytest.mark.parametrize('S', [4, 6, 10, 20, 100])
def test_second_order_is_never_worse(S):
    "Also with few steps, where extrapolating into the last long step would overshoot"
    for variance in (0.02, 0.25, 1.0, 4.0):
        assert end_error(dpm_solver_tokens, S, variance) < 1.01*end_error(ddim_tokens, S, variance)

def test_solver_equals_a_slow_one():
    "DPM-Solver++ 2M without its extrapolation is DDIM"
    schedule = respace(COSINE, 2)                                      # first and last step only: both of first order
    network = gaussian_network(schedule, 0.5)
    ours = dpm_solver_tokens(network, (50, 2), schedule, generator=seeded())
    assert_close(ours, ddim_tokens(network, (50, 2), schedule, generator=seeded()))

def curved_network(schedule, v=-1.0):
    return lambda xt, t: torch.cat([schedule.at('noise', t)*xt + 0.2*(3*xt).sin(), torch.full_like(xt, v)], dim=1)

@pytest.mark.parametrize('S, temperature, x0_limit', [(30, 1.0, None), (30, 0.8, None), (7, 1.0, 2.0), (1, 1.0, None)])
def test_ddim_with_eta_one_is_ddpm_with_the_lower_variance(S, temperature, x0_limit):
    schedule = respace(COSINE, S)
    kw = dict(temperature=temperature, x0_limit=x0_limit)
    xt, noise, t = torch.randn(3, 40, 2, generator=seeded())[:2].unbind(0) + (torch.arange(40) % S,)
    network = curved_network(schedule)
    ddim = ddim_step(network(xt, t), xt, t, noise, schedule, 1.0, **kw)
    ddpm = denoise_step(network(xt, t), xt, t, noise, schedule, **kw)
    for a, b in zip(ddim, ddpm):
        assert_close(a, b, rtol=1e-3, atol=1e-3)
    if temperature == 1.0:                                             # otherwise DDIM's start is scaled, DDPM's is not
        ddim = ddim_tokens(network, (40, 2), schedule, eta=1.0, generator=seeded(), x0_limit=x0_limit)
        ddpm = sample_tokens(network, (40, 2), schedule, generator=seeded(), x0_limit=x0_limit)
        assert_close(ddim, ddpm, rtol=1e-2, atol=1e-2)

@pytest.mark.parametrize('sampler', [ddim_tokens, dpm_solver_tokens])
def test_only_the_start_is_chance(sampler):
    schedule = respace(COSINE, 12)
    g, again = seeded(), seeded()
    x = sampler(curved_network(schedule), (5, 2), schedule, generator=g)
    torch.randn(5, 2, generator=again)
    assert torch.equal(g.get_state(), again.get_state()) and x.isfinite().all()
    still = sampler(curved_network(schedule), (5, 2), schedule, generator=seeded(), temperature=0.0)
    assert_close(still, torch.zeros(5, 2))                             # this network is odd: nothing in, nothing out
    def only_eps(xt, t): return curved_network(schedule)(xt, t)[:, :2]
    assert_close(sampler(only_eps, (5, 2), schedule, generator=seeded()), x, rtol=0, atol=0)

@pytest.mark.parametrize('name', SAMPLERS)
def test_every_sampler_reaches_the_truth(name):
    "Perfect network, data N(0, 0.25): the standard deviation that is drawn"
    schedule = respace(COSINE, 100)
    low, high = schedule.log_var_low, schedule.log_var_high
    def network(xt, t):
        before = schedule.at('signal_before', t)**2
        V, beta = before*0.25 + 1 - before, schedule.at('beta', t)
        exact = -(1/V.clamp(min=1e-12) + (1 - beta)/beta).log()        # log-variance of the step back
        v = 2*(exact - low[t].unsqueeze(1))/(high[t] - low[t]).unsqueeze(1) - 1
        return torch.cat([gaussian_network(schedule, 0.25)(xt, t), v.expand_as(xt)], dim=1)
    drawn = SAMPLERS[name](network, (20_000, 1), schedule, generator=seeded())
    assert abs(drawn.std().item() - 0.5) < 0.015 and abs(drawn.mean().item()) < 0.02

def test_x0_limit_holds_in_every_sampler():
    schedule = respace(COSINE, 10)
    for sampler in SAMPLERS.values():
        seen = []
        def look(t, xt, x0): seen.append(x0.abs().max().item())
        sampler(curved_network(schedule), (50, 2), schedule, x0_limit=0.5, generator=seeded(), callback=look)
        assert max(seen) <= 0.5 and len(seen) == 10

def test_head_uses_the_sampler_it_is_told():
    head = make('diffusion')
    z, *_ = rows(head)
    drawn = {s: head.sample(z, sampler=s, diff_steps=8, generator=seeded()) for s in SAMPLERS}
    assert (drawn['ddpm'] - drawn['ddim']).abs().max() > 1e-3 and (drawn['ddim'] - drawn['dpm++']).abs().max() > 1e-3
    assert_close(drawn['ddpm'], head.sample(z, diff_steps=8, generator=seeded()), rtol=0, atol=0)
    schedule = respace(head.schedule, 8)
    def network(xt, t): return head.net(xt, head.net.embed_time(schedule.times[t]), head.net.from_z(z))
    with torch.no_grad():
        slow = dpm_solver_tokens(network, (M, P), schedule, x0_limit=5.0, generator=seeded())
    assert_close(drawn['dpm++'], slow, rtol=1e-3, atol=1e-3)

def test_steps_can_be_named():
    assert respace(COSINE, range(0, 1000, 20)).steps.tolist() == list(range(0, 1000, 20))
    assert_close(respace(COSINE, [0, 250, 999]).alpha_bar, COSINE.alpha_bar[[0, 250, 999]])
    for wrong in ([3, 2], [0, 1000], [-1, 5], [5, 5], []):
        with pytest.raises(ValueError, match='must ascend within 0..999'):
            respace(COSINE, wrong)

def test_noise_levels_and_tokens_are_checked():
    x0, eps = torch.zeros(2, 1), torch.zeros(2, 1)
    for t in ([0, 1000], [-1, 5]):
        with pytest.raises(ValueError, match=r'must lie in 0\.\.999'):
            add_noise(x0, torch.tensor(t), eps, COSINE)
    with pytest.raises(ValueError, match='NaN'):
        add_noise(x0*float('nan'), torch.tensor([0, 1]), eps, COSINE)

# --- diffusion: shapes of the state dict -----------------------------------------------------------------
def test_names_of_weights_stay():
    names = set(DiffusionHead(P, D, HeadConfig(blocks=1, width=8)).state_dict())
    layers = ('from_token', 'from_z', 'to_out', 'from_time.0', 'from_time.2', 'blocks.0.norm',
              'blocks.0.up', 'blocks.0.down', 'blocks.0.ada', 'ada')
    assert names == {f'net.{layer}.{w}' for layer in layers for w in ('weight', 'bias')}

# --- diffusion: one network in training and in drawing -----------------------------------------------------
@pytest.mark.parametrize('part', ['norm', 'blocks.1.norm'])
@pytest.mark.parametrize('kind', ['diffusion', 'flow', 'energy'])
def test_a_wrong_eps_is_seen_everywhere(kind, part):
    head = make(kind)
    z, z_uncond, target = rows(head)
    kw = dict(z_uncond=z_uncond, cfg_scale=2.0) | few(head)
    loss, drawn = head.loss(z, target, generator=seeded()), head.sample(z, generator=seeded(), **kw)
    head.net.get_submodule(part).eps = 0.3
    assert (head.loss(z, target, generator=seeded()) - loss).abs().max() > 1e-3
    assert (head.sample(z, generator=seeded(), **kw) - drawn).abs().max() > 1e-3

@pytest.mark.parametrize('train_steps', [10, 1000])
def test_no_noise_level_is_embedded_twice(train_steps):
    "24 rows: with 10 steps each step is embedded once, with 1000 each row; the loss is that of row by row"
    head = make('diffusion', train_steps=train_steps)
    z, _, target = rows(head)
    embedded = []
    hook = head.net.from_time.register_forward_hook(lambda module, inputs, out: embedded.append(len(out)))
    loss = head.loss(z, target, generator=seeded())
    hook.remove()
    assert sum(embedded) == min(4*M, train_steps)
    g = seeded()
    t, eps = torch.randint(train_steps, (4*M,), generator=g), torch.randn(4*M, P, generator=g)
    x0 = target.repeat(4, 1)
    xt = add_noise(x0, t, eps, head.schedule)
    out = head.net(xt, head.net.embed_time(t), head.net.from_z(z.repeat(4, 1)))
    slow = sum(diffusion_loss(out, x0, xt, t, eps, head.schedule).values()).view(4, M).mean(0)
    assert_close(loss, slow)

@pytest.mark.parametrize('kind', ['diffusion', 'flow', 'energy'])
def test_z_is_projected_once_and_only_guidance_doubles_the_rows(kind):
    head = make(kind)
    z, z_uncond, _ = rows(head)
    projected, passed = [], []
    head.net.from_z.register_forward_hook(lambda module, inputs, out: projected.append(len(out)))
    head.net.register_forward_hook(lambda module, inputs, out: passed.append(len(out)))
    for scale, times in ((1.0, 1), (2.0, 2)):
        projected.clear()
        passed.clear()
        head.sample(z, z_uncond=z_uncond, cfg_scale=scale, generator=seeded(), **few(head))
        assert projected == [times*M] and set(passed) == {times*M} and len(passed) == (8 if kind in STEPPED else 1)

@pytest.mark.parametrize('sampler', SAMPLERS)
def test_watching_changes_nothing(sampler):
    "With a callback: the same tokens, and whoever draws next finds the same random numbers"
    head = make('diffusion')
    z, z_uncond, _ = rows(head)
    one, two = seeded(), seeded()
    kw = dict(z_uncond=z_uncond, cfg_scale=2.0, sampler=sampler, diff_steps=8)
    watched = head.sample(z, generator=two, callback=lambda t, xt, x0: None, **kw)
    assert torch.equal(head.sample(z, generator=one, **kw), watched)
    assert torch.equal(one.get_state(), two.get_state())

def test_nan_stays_in_its_row():
    head = make('diffusion')
    z, z_uncond, _ = rows(head)
    kw = dict(cfg_scale=2.0, diff_steps=8)
    clean = head.sample(z, z_uncond=z_uncond, generator=seeded(), **kw)
    z[1], z_uncond[4] = math.nan, math.nan
    spoiled = head.sample(z, z_uncond=z_uncond, generator=seeded(), **kw)
    assert spoiled.isnan().any(1).tolist() == [i in (1, 4) for i in range(M)]
    assert_close(spoiled[[0, 2, 3, 5]], clean[[0, 2, 3, 5]])

@pytest.mark.parametrize('kind', ['diffusion', 'flow', 'energy'])
def test_the_network_can_be_compiled_in_place(kind):
    "All that runs in a step is the forward of `head.net`: a compiler that takes it leaves the tokens as they are"
    head = make(kind).requires_grad_(False)
    z, z_uncond, _ = rows(head)
    kw = dict(z_uncond=z_uncond, cfg_scale=2.0) | few(head)
    before = head.sample(z, generator=seeded(), **kw)
    seen = []
    def backend(graph, inputs):
        seen.append(len(graph.graph.nodes))
        return graph
    torch._dynamo.reset()
    head.net.compile(backend=backend, dynamic=True)
    assert_close(head.sample(z, generator=seeded(), **kw), before)
    assert len(seen) == 1                                              # one graph for all steps

# --- the schedule ----------------------------------------------------------------------------------------
def test_one_step_for_all_rows_is_a_step_for_each():
    schedule = respace(COSINE, 9)
    g = seeded()
    xt, noise, out = torch.randn(M, P, generator=g), torch.randn(M, P, generator=g), torch.randn(M, 2*P, generator=g)
    for step in (denoise_step, ddim_step):
        for i in (0, 1, 8):
            together, apart = (step(out, xt, t, noise, schedule) for t in (i, torch.full((M,), i)))
            assert torch.equal(together[0], apart[0]) and torch.equal(together[1], apart[1])

def test_a_schedule_on_the_meta_device():
    "A model can be made without memory: its schedule holds numbers all the same"
    with torch.device('meta'):
        schedule = cosine_schedule()
    assert torch.equal(schedule.alpha_bar, COSINE.alpha_bar) and schedule.times.device.type == 'cpu'

# --- flow ------------------------------------------------------------------------------------------------
def flow_with(velocity):
    "A flow head whose network is replaced by velocity(xt, t in [0, 1])"
    class Net(nn.Module):
        def from_z(self, z): return z
        def embed_time(self, t): return t.unsqueeze(1)/1000
        def forward(self, xt, time, condition): return velocity(xt, time.expand(len(xt), 1), condition)
    head = FlowHead(P, P, HeadConfig(kind='flow', blocks=1, width=8))
    head.net = Net()
    return head

def test_perfect_velocity_has_no_loss():
    "Where z is the token itself, the direction is known exactly"
    head = flow_with(lambda xt, t, z: (xt - z)/t)
    x0 = torch.randn(200, P, generator=seeded())
    assert head.loss(x0, x0, generator=seeded()).max() < 1e-4
    wrong = flow_with(lambda xt, t, z: (xt - z)/t + 0.5)
    assert_close(wrong.loss(x0, x0, generator=seeded()), torch.full((200,), 0.25), rtol=0.02, atol=0.01)
    for S in (1, 2, 7):
        assert_close(head.sample(x0, diff_steps=S, generator=seeded()), x0, rtol=0, atol=1e-5)

def test_flow_solver_is_of_second_order():
    "Data N(0, 1/4): the velocity and where it leads are known"
    def velocity(xt, t, z): return xt*(t - 0.25*(1 - t))/(0.25*(1 - t)**2 + t**2)
    start = torch.randn(300, P, generator=seeded())
    end = 0.5*torch.randn(300, P, generator=seeded())
    def error(S): return (flow_with(velocity).sample(start, diff_steps=S, generator=seeded()) - end).abs().mean().item()
    assert 3 < error(10)/error(20) < 5.5 and 3 < error(20)/error(40) < 5.5 and error(40) < 2e-3

# --- mixture ---------------------------------------------------------------------------------------------
def mixture_with(*components):
    "A mixture head of P=1 that answers z=(k,) with the k-th list of (share, mean, std)"
    head = GaussianMixtureHead(1, 1, HeadConfig(kind='mixture', width=4, components=len(components[0])))
    def mixture(z):
        share, mean, std = torch.tensor(components).unbind(-1)         # (kinds, K)
        k = z[:, 0].long()
        return share[k].log(), mean[k].unsqueeze(-1), std[k].unsqueeze(-1)
    head.mixture = mixture
    return head

def test_likelihood_by_hand():
    head = mixture_with([(0.25, -1.0, 0.5), (0.75, 2.0, 1.0)])
    def gauss(x, mean, std): return math.exp(-0.5*((x - mean)/std)**2)/(std*math.sqrt(2*math.pi))
    def density(x): return 0.25*gauss(x, -1, 0.5) + 0.75*gauss(x, 2, 1)
    x = [-1.0, 0.3, 2.0, 9.0]
    right = torch.tensor([-math.log(density(v)) for v in x])
    assert_close(head.loss(torch.zeros(4, 1), torch.tensor(x).unsqueeze(1)), right)

def test_density_sums_to_one():
    head = make_head(HeadConfig(kind='mixture', width=8, components=5), 1, D)
    x, z = torch.linspace(-30, 30, 60_001).view(1, -1, 1), torch.randn(3, D, generator=seeded())
    with torch.no_grad():
        density = head.log_prob(head.mixture(z), x.expand(3, -1, -1)).exp()
    assert_close(density.sum(1)*0.001, torch.ones(3), atol=1e-3, rtol=0)

def test_likelihood_equals_torch_distributions():
    from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal
    head = make('mixture')
    z, _, target = rows(head)
    share, mean, std = head.mixture(z)
    theirs = MixtureSameFamily(Categorical(logits=share), Independent(Normal(mean, std), 1))
    assert_close(-head.loss(z, target), theirs.log_prob(target))

def test_mixture_draws_its_own_moments():
    head = mixture_with([(0.25, -1.0, 0.5), (0.75, 2.0, 1.0)])
    for temperature in (1.0, 0.5):
        x = head.sample(torch.zeros(40_000, 1), temperature=temperature, generator=seeded())
        within = temperature**2*(0.25*0.25 + 0.75)
        assert abs(x.mean().item() - 1.25) < 0.03 and abs(x.var().item() - (within + 0.25*0.75*9)) < 0.06

@pytest.mark.parametrize('scale', [0.0, 0.5, 2.0, 3.0])
def test_guided_mixture_is_the_product_of_powers(scale):
    "Two Gaussians: p^scale q^(1-scale) is a Gaussian that can be written down"
    head = mixture_with([(1.0, 1.0, 0.6)], [(1.0, 0.0, 1.0)])
    precision = scale/0.36 + (1 - scale)
    mean = scale/0.36/precision
    x = head.sample(torch.zeros(20_000, 1), z_uncond=torch.ones(20_000, 1), cfg_scale=scale, generator=seeded())
    assert abs(x.mean().item() - mean) < 0.03 and abs(x.std().item() - precision**-0.5) < 0.03

# --- energy score ----------------------------------------------------------------------------------------
def energy_with(*draws):
    "An energy head whose network draws these numbers, one after another"
    head = EnergyHead(1, 1, HeadConfig(kind='energy', blocks=1, width=4, samples=len(draws)))
    class Net(nn.Module):
        def from_z(self, z): return z
        def forward(self, noise, time, condition):
            return torch.tensor(draws).repeat_interleave(len(noise)//len(draws)).unsqueeze(1)
    head.net = Net()
    return head

def test_energy_score_by_hand():
    z, target = torch.zeros(3, 1), torch.tensor([[0.0], [1.0], [5.0]])
    parts = energy_with(0.0, 3.0).loss_parts(z, target)
    assert_close(parts['distance'], torch.tensor([1.5, 1.5, 3.5]))                 # (|0-y| + |3-y|)/2
    assert_close(parts['spread'], torch.full((3,), -1.5))                          # half of |0-3|
    three = energy_with(0.0, 3.0, 4.0).loss_parts(z, target)
    assert_close(three['spread'], torch.full((3,), -0.5*(3 + 4 + 1)/3))
    same = energy_with(2.0, 2.0).loss(z, target)
    assert_close(same, (target[:, 0] - 2).abs())

def test_energy_score_is_proper():
    "Expected score of drawing from N(0, s) for data from N(0, 1), closed form: smallest at s=1"
    head = EnergyHead(1, 1, HeadConfig(kind='energy', blocks=1, width=4))
    y = torch.randn(200_000, 1, generator=seeded(5))
    class Net(nn.Module):
        def __init__(self, s):
            super().__init__()
            self.s = s
        def from_z(self, z): return z
        def forward(self, noise, time, condition): return self.s*noise[:, :1]
    score = {}
    for s in (0.5, 1.0, 1.5):
        head.net = Net(s)
        score[s] = head.loss(torch.zeros(200_000, 1), y, generator=seeded()).mean().item()
        assert abs(score[s] - (math.sqrt(2*(1 + s*s)/math.pi) - s/math.sqrt(math.pi))) < 0.005
    assert score[1.0] < score[0.5] and score[1.0] < score[1.5]

def test_denoiser_has_no_idle_weights():
    net = DenoisingMLP(4, D, HeadConfig(blocks=1, width=8), outputs=2, timed=False)
    assert net.from_time is None and net.to_out.out_features == 2
    assert not any('from_time' in name for name in net.state_dict())
