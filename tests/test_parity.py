"""Equal to the official release: every recorded number of every vector set in the folder that MARLEARN_PARITY names.

Sizes, steps, temperatures, scales and the names of runs are read from the files. Each family of tensors has one check
below; a tensor that no family knows, or that its check did not look at, fails. Errors are relative to the largest
recorded value of the tensor.
"""
import json, math, os, re
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
import numpy as np, pytest, torch
from safetensors import safe_open
from torch.overrides import TorchFunctionMode
from marlearn.diffusion import (
    add_noise, cosine_schedule, denoise_step, diffusion_loss, discretised_log_likelihood, gaussian_kl,
    learned_log_variance, respace, Schedule)
from marlearn.generate import generate, guidance_at
from marlearn.heads import HeadConfig, sinusoids
from marlearn.mar import AutoregressiveModel, ModelConfig
from marlearn.engine.official import (
    export_mar, export_vae, KL16_SCALE, load_mar, load_vae, mar_names, to_official, vae_names)
from marlearn.orders import cosine_counts, mask_ratio
from marlearn.engine.presets import mar_base, mar_huge, mar_large
from marlearn.tokenizers import KLTokenizer, patchify, unpatchify
from marlearn.train import make_optimizer, TrainConfig
from marlearn.vae import kl16, VAE

FOLDER = Path(os.environ.get('MARLEARN_PARITY') or Path(__file__).parent/'parity')
# single stages, losses, gradients, VAE | final samples, generations | states inside trajectories, single reverse steps
STAGE, FINAL, STATE = 2e-5, 1e-4, 1e-3
EXACT = 1e-12                                 # constants that are computed in float64
BF16 = 0.03  # stages under autocast: bf16 keeps 8 bits (0.4 %), and a few dozen roundings add up
GIVEN = re.compile(r'(in|sd|fit\.sd)\..*|.*\.(c|x|t|noise|init_noise|step_noise|labels|orders|q|means|log_scales|'
                   r'mean1|mean2|logvar1|logvar2)')

class Vectors:
    "One file: tensors by name, and which of them were read and which were compared"
    def __init__(self, path):
        file = safe_open(path, 'pt')
        self.all = {k: file.get_tensor(k) for k in file.keys()}
        self.meta = {k: _plain(v) for k, v in (file.metadata() or {}).items()}
        self.config, self.read, self.compared, self.errors = self.meta.get('config', {}), set(), set(), {}

    def __getitem__(self, name):
        self.read.add(name)
        return self.all[name]
    def __contains__(self, name): return name in self.all
    def find(self, pattern): return [m for k in self.all if (m := re.fullmatch(pattern, k))]
    def part(self, prefix): return {k[len(prefix):]: self[k] for k in self.all if k.startswith(prefix)}

    def same(self, name, ours, bound, rows=slice(None)):
        want = torch.as_tensor(self[name]).double()[rows]
        ours = torch.as_tensor(ours).detach().double()
        if want.numel() == 1: ours = ours.reshape(want.shape)
        assert ours.shape == want.shape, f'{name}: ours is {tuple(ours.shape)}, recorded is {tuple(want.shape)}'
        error = ((ours - want).abs().max()/want.abs().max().clamp(min=1e-30)).item()
        self.compared.add(name)
        self.errors[name] = error
        # false for NaN too
        assert error <= bound, f'{name}: off by {error:.1e} of the largest value, allowed {bound:.0e}'

    def exactly(self, name, ours):
        assert torch.as_tensor(ours).tolist() == self[name].tolist(), name
        self.compared.add(name)

def _plain(text):
    try:
        return json.loads(text)
    except ValueError: return text

@lru_cache(None)
def vectors(path): return Vectors(path)

class Draws(TorchFunctionMode):
    "Inside this, `draw(name of the function, shape)` says what torch.randn, rand and randint return"
    def __init__(self, draw):
        super().__init__()
        self.draw = draw
    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in (torch.randn, torch.rand, torch.randint):
            shape = func(*args, **kwargs | {'generator': torch.Generator()}).shape
            return self.draw(func.__name__, shape)
        return func(*args, **kwargs)

class Played(Draws):
    "Recorded noise, one tensor after the other"
    def __init__(self, tensors):
        self.left = list(tensors)
        super().__init__(self.next)
    def next(self, kind, shape):
        fits = kind == 'randn' and self.left and self.left[0].shape == shape
        assert fits, f'{kind} of {tuple(shape)} was asked for; {len(self.left)} recorded tensors are left'
        return self.left.pop(0)
    def __exit__(self, *error):
        super().__exit__(*error)
        assert error[0] or not self.left, f'{len(self.left)} recorded draws were never asked for'

FAMILIES = []                                  # (kind of file, pattern, check)
def family(kind, pattern): return lambda check: FAMILIES.append((kind, pattern, check)) or check

# --- the diffusion process and the schedules ------------------------------------------------------

def same_schedule(v, name, ours, steps):
    alpha_bar, S = np.cumprod(1 - ours.betas), len(ours)
    v.exactly(f'{name}.timestep_map', steps)
    for theirs, value in (('betas', ours.betas), ('alphas_cumprod', alpha_bar),
                          ('alphas_cumprod_prev', np.append(1.0, alpha_bar[:-1]))):
        v.same(f'{name}.{theirs}', value, EXACT)
    one, zero, t = torch.ones(S, 1), torch.zeros(S, 1), torch.arange(S)
    for theirs, value in (('sqrt_alphas_cumprod', add_noise(one, t, zero, ours)),
                          ('sqrt_one_minus_alphas_cumprod', add_noise(zero, t, one, ours)),
                          ('sqrt_recip_alphas_cumprod', ours.x0_from_xt),
                          ('sqrt_recipm1_alphas_cumprod', ours.x0_from_eps),
                          ('posterior_mean_coef1', ours.mean_from_x0),
                          ('posterior_mean_coef2', ours.mean_from_xt),
                          ('posterior_log_variance_clipped', ours.log_var_low)):
        v.same(f'{name}.{theirs}', value.flatten(), STAGE)
    # the first is zero: its logarithm is cut off
    v.same(f'{name}.posterior_variance', ours.log_var_low.exp()*(t > 0), STAGE)

def train_schedule(v): return cosine_schedule(len(v['train.betas']))

@family('diffusion', r'train\..*')
def training_schedule(v):
    same_schedule(v, 'train', train_schedule(v), range(len(v['train.betas'])))

@family('diffusion', r'r\d+\..*')
def respaced_schedules(v):
    for m in v.find(r'(r(\d+))\.betas'):
        ours = respace(train_schedule(v), int(m[2]))
        same_schedule(v, m[1], ours, ours.steps)

@family('diffusion', r'ddim\d+\..*')
def strided_schedules(v):
    for m in v.find(r'(ddim(\d+))\.betas'):
        T = len(v['train.betas'])
        steps = np.arange(0, T, next(stride for stride in range(1, T) if len(range(0, T, stride)) == int(m[2])))
        alpha_bar = np.cumprod(1 - train_schedule(v).betas)[steps]
        same_schedule(v, m[1], Schedule(1 - alpha_bar/np.append(1.0, alpha_bar[:-1]), steps), steps)

@family('diffusion', r'dgll\..*')
def likelihood_of_a_bin(v):
    v.same('dgll.out', discretised_log_likelihood(v['dgll.x'], v['dgll.means'], 2*v['dgll.log_scales']), STAGE)

@family('diffusion', r'kl\..*')
def divergence(v):
    v.same('kl.out', gaussian_kl(v['kl.mean1'], v['kl.logvar1'], v['kl.mean2'], v['kl.logvar2']), STAGE)

@family('diffusion', r'sched\..*')
def tokens_and_guidance_per_step(v):
    for m in v.find(r'(sched\.L(\d+)\.n(\d+))\.n_pred'):
        N, K = int(m[2]), int(m[3])
        scales = [s for s in v.find(re.escape(m[1]) + r'\.cfg_iter_([\d.]+)')]
        if K > N:                              # the official loop stops with an IndexError here
            with pytest.raises(ValueError, match=f'{K}'): cosine_counts(N, K)
            v.compared |= {m[0], f'{m[1]}.mask_len', *(s[0] for s in scales)}
            continue
        counts = cosine_counts(N, K)
        hidden = N - np.cumsum(counts)
        v.exactly(m[0], counts)
        v.exactly(f'{m[1]}.mask_len', np.maximum(hidden, 1))  # the official count never falls to zero
        for s in scales:
            v.same(s[0], torch.tensor([guidance_at(float(s[1]), int(h), N) for h in hidden]), STAGE)

@family('diffusion', r'maskrate\..*')
def training_mask_ratio(v):
    v.same('maskrate.ppf', mask_ratio(v['maskrate.q']), EXACT)
    n = 1_000_000
    # midpoints of n equal slices: the integral over u
    ratio = mask_ratio((torch.arange(n, dtype=torch.float64) + 0.5)/n)
    v.same('maskrate.mean', ratio.mean(), 1e-9)
    v.same('maskrate.std', ratio.std(unbiased=False), 1e-9)

# --- the model ------------------------------------------------------------------------------------

def official_weights(v, fitted=False): return v.part('sd.') | (v.part('fit.sd.') if fitted else {})

@lru_cache(None)
def model_of(v, fitted=False):
    return load_mar(official_weights(v, fitted), heads=v.config['heads'], patch_size=v.config['patch_size'],
                    label_drop=float(v.meta.get('label_drop_prob', 0.1)), dropout=0.0)

def same_eps(model, eps=1e-6):
    "A wrong eps moves most stages by less than what other machines can keep, so it is read as well as measured"
    norms = [m for m in model.modules() if isinstance(m, (torch.nn.LayerNorm, torch.nn.GroupNorm))]
    assert norms and all(m.eps == eps for m in norms)

def tokens_of(v): return patchify(v['in.latents'], v.config['patch_size'])

def our_order(v):
    "The official order is read from its end; ours starts with what is generated first"
    order, hidden = v['in.orders'].flip(1), math.ceil(v['in.mask_rate'].item()*v['in.orders'].shape[1])
    return order, order.shape[1] - hidden

@family('mar', r'(sd|fit\.sd)\..*')
def weights_go_in_and_out(v):
    for fitted in (False, True) if v.find(r'fit\.sd\..*') else (False,):
        want, got = official_weights(v, fitted), export_mar(model_of(v, fitted))
        assert want.keys() == got.keys()
        assert all(torch.equal(want[k], got[k]) and want[k].dtype == got[k].dtype for k in want)
    same_eps(model_of(v))
    c, ours = v.config, model_of(v).config
    side = c['img_size']//c['vae_stride']//c['patch_size']
    P = c['vae_embed_dim']*c['patch_size']**2
    assert (ours.n_tokens, ours.token_dim, ours.width) == (side**2, P, c['embed'])
    assert (ours.n_classes, ours.class_slots) == (c['class_num'], c['buffer_size'])
    assert (ours.encoder_blocks, ours.decoder_blocks, ours.head.blocks, ours.head.width,
            ours.mlp_ratio) == (c['depth'], c['depth'], c['diffloss_d'], c['diffloss_w'], v.meta.get('mlp_ratio', 4))

@family('mar', r'in\.(latents|labels|orders|mask_rate|mask|t|noise|drop_rand)|out\.patchify|out\.class_embedding')
def tokens_masks_and_classes(v):
    v.same('out.patchify', tokens_of(v), 0)
    assert torch.equal(unpatchify(tokens_of(v), v.config['patch_size']), v['in.latents'])
    order, n_known = our_order(v)
    assert torch.equal(v['in.mask'].bool(), order.argsort(dim=1) >= n_known)
    v.same('out.class_embedding', model_of(v).backbone.class_embedding(v['in.labels']), STAGE)
    v.read |= {'in.t', 'in.noise', 'in.drop_rand'}                                    # the training step reads them

def stages(v, labels, order, n_known):
    "Everything that a forward pass passes through, by the recorded names"
    backbone, seen, hooks = model_of(v).backbone, {}, []
    for name, blocks in (('encoder_blocks', backbone.encoder), ('decoder_blocks', backbone.decoder)):
        for i, block in enumerate(blocks):
            hooks.append(block.register_forward_hook(lambda _, __, out, at=f'{name}.{i}': seen.update({at: out})))
    hooks.append(backbone.encoder_norm.register_forward_hook(lambda _, __, out: seen.update(encoder=out)))
    try:
        seen['z'] = backbone(tokens_of(v), labels, order, n_known)
    finally:
        for hook in hooks:
            hook.remove()
    return seen

@family('mar', r'out\.eval\w*\..*')
@torch.no_grad()
def backbone_in_evaluation(v):
    for tag in sorted({m[1] for m in v.find(r'out\.(eval\w*)\..*')}):
        (order, n_known), labels = our_order(v), v['in.labels']
        n_known = {'eval_allmasked': 0, 'eval_nomask': order.shape[1]}.get(tag, n_known)
        if tag == 'eval_uncond': labels = torch.full_like(labels, model_of(v).config.n_classes)
        assert tag in ('eval', 'eval_allmasked', 'eval_nomask', 'eval_uncond'), f'what is {tag}?'
        seen = stages(v, labels, order, n_known)
        for m in v.find(rf'out\.{tag}\.(.*)'):
            v.same(m[0], seen[m[1]], STAGE)

# --- a training step ------------------------------------------------------------------------------

def training_labels(v):
    config = model_of(v).config
    return torch.where(v['in.drop_rand'] < config.label_drop, config.n_classes, v['in.labels'])

def noise_levels(v): return len(v['in.t'])//v['in.mask'].numel()

@family('mar', r'out\.train\.(encoder|z|(en|de)coder_blocks\.\d+|(loss|mse|vb)_rows|(loss|mse|vb)_masked_mean)')
@torch.no_grad()
def training_rows(v):
    (order, n_known), net, schedule = our_order(v), model_of(v).head.net, model_of(v).head.schedule
    seen, L = stages(v, training_labels(v), order, n_known), noise_levels(v)
    for m in v.find(r'out\.train\.(encoder|z|(?:en|de)coder_blocks\.\d+)'):
        v.same(m[0], seen[m[1]], STAGE)
    x0, z = tokens_of(v).flatten(0, 1).repeat(L, 1), seen['z'].flatten(0, 1).repeat(L, 1)
    t, eps = v['in.t'], v['in.noise']
    xt = add_noise(x0, t, eps, schedule)
    parts = diffusion_loss(net(xt, net.embed_time(t), net.from_z(z)), x0, xt, t, eps, schedule)
    rows = {'mse': parts['mse'], 'vb': parts['vlb'], 'loss': parts['mse'] + parts['vlb']}
    hidden = v['in.mask'].bool().flatten().repeat(L)
    for m in v.find(r'out\.train\.(loss|mse|vb)_rows'):
        v.same(m[0], rows[m[1]], STAGE)
    for m in v.find(r'out\.train\.(loss|mse|vb)_masked_mean'):
        v.same(m[0], rows[m[1]][hidden].mean(), STAGE)

def training_step(v, **options):
    "Our own `AutoregressiveModel.loss`, with every random number handed to it"
    model, (order, n_known), L, every = model_of(v), our_order(v), noise_levels(v), options.get('every_token', False)
    (B, N), P, kept = order.shape, model.config.token_dim, model.config
    low = min(kept.min_mask_ratio, (N - n_known - 1)/N)  # the recorded ratio may lie below what training draws
    u = torch.linspace(0, 1, 100_001, dtype=torch.float64)  # any u whose ratio hides as many tokens
    u = u[(torch.ceil(N*mask_ratio(u, std=kept.mask_std, low=low)) == N - n_known).nonzero().median()]
    chosen = torch.arange(L*B*N).view(L, B, N).gather(2, order[:, 0 if every else n_known:].expand(L, B, -1)).flatten()
    def draw(kind, shape):
        answers = {('rand', (B, N)): lambda: order.argsort(1)/N, ('rand', ()): lambda: u,
                   ('rand', (B,)): lambda: v['in.drop_rand'],
                   ('randint', (len(chosen),)): lambda: v['in.t'][chosen],
                   ('randn', (len(chosen), P)): lambda: v['in.noise'][chosen]}
        return answers[kind, tuple(shape)]()
    head = model.head.config
    model.config, model.head.config = replace(kept, min_mask_ratio=low), replace(head, noise_levels=L)
    model.zero_grad()
    try:
        with Draws(draw):
            return model.loss(tokens_of(v), v['in.labels'], **options)
    finally: model.config, model.head.config = kept, head

@family('mar', r'out\.train\.loss|grad\..*|gradnorm\..*')
def training_loss_and_gradients(v):
    model, parts = model_of(v), training_step(v)
    with torch.no_grad():
        v.same('out.train.loss', training_step(v, every_token=True)['loss'], STAGE)  # as the official code computes it
    v.same('out.train.loss', parts['loss'], STAGE)
    parts['loss'].backward()
    grads = to_official({n: p.grad for n, p in model.named_parameters()}, mar_names(model.config))
    for m in v.find(r'grad\.(.*)'):
        v.same(m[0], grads[m[1]], STAGE)
    for m in v.find(r'gradnorm\.(.*)'):
        v.same(m[0], grads[m[1]].double().norm(), STAGE)
    names = {m[1] for m in v.find(r'(?:grad|gradnorm)\.(.*)')}
    assert not names or names == grads.keys()

# --- the head -------------------------------------------------------------------------------------

@family('mar', r'net\..*')
@torch.no_grad()
def head_alone(v):
    model, x, t, c = model_of(v), v['net.x'], v['net.t'], v['net.c']
    net, schedule = model.head.net, model.head.schedule
    spacing = 2.0**(math.floor(math.log2(t.max())) - 23)    # of float32 at the largest angle: CPUs round differently
    v.same('net.time_freq', sinusoids(t), max(STAGE, spacing))
    v.same('net.time_emb', net.embed_time(t), STAGE)
    v.same('net.cond_emb', net.from_z(c), STAGE)
    v.same('net.out', net(x, net.embed_time(t), net.from_z(c)), STAGE)
    xt = add_noise(x, t, v['net.noise'], schedule)
    v.same('net.q_sample', xt, STAGE)
    parts = diffusion_loss(net(xt, net.embed_time(t), net.from_z(c)), x, xt, t, v['net.noise'], schedule)
    v.same('net.mse_rows', parts['mse'], STAGE)
    v.same('net.vb_rows', parts['vlb'], STAGE)
    v.same('net.loss_rows', parts['mse'] + parts['vlb'], STAGE)

@family('mar', r'net_cfg[\d.]*\..*')
@torch.no_grad()
def head_with_guidance(v):
    for m in v.find(r'(net_cfg([\d.]*))\.out'):
        net, P, half = model_of(v).head.net, model_of(v).config.token_dim, len(v['net.x'])//2
        out = net(v['net.x'][:half].repeat(2, 1), net.embed_time(v[f'{m[1]}.t']), net.from_z(v['net.c']))
        eps, eps_uncond = out[:, :P].chunk(2)
        if m[2]:
            scale = float(m[2])
        else:  # not in the name: the one number that fits best, to two digits
            step = (eps - eps_uncond).double()
            scale = round(((v[m[0]][:half, :P] - eps_uncond).double()*step).sum().div((step**2).sum()).item(), 2)
        v.same(m[0], torch.cat([(eps_uncond + scale*(eps - eps_uncond)).repeat(2, 1), out[:, P:]], dim=1), STAGE)

@family('mar', r'(fit\.)?pstep\..*')
@torch.no_grad()
def single_reverse_steps(v):
    for fit in (f for f in ('', 'fit.') if f'{f}pstep.x' in v):
        head = model_of(v, bool(fit)).head
        net, P, x, c, noise = head.net, head.token_dim, v[f'{fit}pstep.x'], v[f'{fit}pstep.c'], v[f'{fit}pstep.noise']
        M, S = len(x), len(v[f'{fit}pstep.mean'])
        schedule = respace(head.schedule, S)
        def steps(f): return torch.stack([f(torch.full((M,), i)) for i in range(S)])
        def time(t): return net.embed_time(schedule.times[t])
        def out(t): return net(x, time(t), net.from_z(c[:M]))
        def guided(t, scale):
            both, both_uncond = net(x.repeat(2, 1), time(t).repeat(2, 1), net.from_z(c)).chunk(2)
            return torch.cat([both_uncond[:, :P] + scale*(both[:, :P] - both_uncond[:, :P]), both[:, P:]], 1)
        v.same(f'{fit}pstep.mean', steps(lambda t: denoise_step(out(t), x, t, noise[:M], schedule, 0.0)[0]), STATE)
        v.same(f'{fit}pstep.pred_xstart', steps(lambda t: denoise_step(out(t), x, t, noise[:M], schedule)[1]), STATE)
        v.same(f'{fit}pstep.log_variance', steps(lambda t: learned_log_variance(out(t)[:, P:], t, schedule)), STATE)
        for m in v.find(re.escape(f'{fit}pstep.') + r'sample_T([\d.]+)'):
            v.same(m[0], steps(lambda t: denoise_step(out(t), x, t, noise[:M], schedule, float(m[1]))[0]), STATE)
        # the second half is carried along and dropped
        for m in v.find(re.escape(f'{fit}pstep.') + r'cfg([\d.]+)_sample_T([\d.]+)'):
            v.same(m[0], steps(lambda t: denoise_step(guided(t, float(m[1])), x, t, noise[:M], schedule,
                                                      float(m[2]))[0]), STATE, rows=(slice(None), slice(M)))

@family('mar', r'(fit\.)?traj(_cfg[\d.]+)?\..*')
def whole_trajectories(v):
    for m in v.find(r'((fit\.)?traj(?:_cfg([\d.]+))?)\.samples_T([\d.]+)'):
        name, scale, T = m[1], float(m[3] or 1), m[4]
        init, noise, c = v[f'{name}.init_noise'], v[f'{name}.step_noise'], v[f'{name}.c']
        M, states, x0s, head = len(init), [], [], model_of(v, bool(m[2])).head
        with Played([init, *noise[:, :M]]):
            drawn = head.sample(c[:M], z_uncond=c[M:] if m[3] else None, cfg_scale=scale, temperature=float(T),
                                diff_steps=len(noise),
                                                        callback=lambda t, xt, x0: (states.append(xt), x0s.append(x0)))
        half = (slice(None), slice(M))  # with guidance the second half is carried along and dropped
        v.same(m[0], torch.stack(states), STATE, half)
        v.same(f'{name}.xstart_T{T}', torch.stack(x0s), STATE, half)
        v.same(m[0], drawn, FINAL, (-1, slice(M)))

@family('mar', r'gen\..*')
def whole_generations(v):
    for m in v.find(r'(gen\.(fit_)?(?:cfg([\d.]+)(lin|const)?|(uncond))_T([\d.]+)_n(\d+))\.out'):
        run, scale, K = m[1], float(m[3] or 1), int(m[7])
        model, order, labels = model_of(v, bool(m[2])), v['gen.orders'].flip(1), v['gen.labels']
        config, (B, N) = model.config, order.shape
        if m[5]: labels = torch.full_like(labels, config.n_classes)
        counts, noise, ends = cosine_counts(N, K), [], []
        for k, n in enumerate(counts):  # recorded rows run along the raster, ours along the order
            new = order[:, (end := sum(counts[:k])):end + n]
            ends.append((new.argsort(1).argsort(1) + n*torch.arange(B).unsqueeze(1)).flatten())
            noise += [v[f'{run}.{k}.init_noise'][ends[k]], *v[f'{run}.{k}.step_noise'][:, ends[k]]]
        steps, calls, sample = [], [], model.head.sample
        def keep(k, tokens, new):
            steps.append((tokens.clone(), new))
        def spy(z, **kw):
            calls.append((z, kw.get('z_uncond'), kw.get('cfg_scale', 1.0)))
            return sample(z, **kw)
        model.head.sample = spy
        try:
            with Played(noise):
                out = generate(model, labels, ar_steps=K, diff_steps=len(v[f'{run}.0.step_noise']), cfg_scale=scale,
                               guidance='constant' if m[4] == 'const' else 'linear',
                               temperature=float(m[6]), order=order, callback=keep)
        finally: del model.head.sample
        v.same(m[0], unpatchify(out, v.config['patch_size']), FINAL)
        v.exactly(f'{run}.mask_len', [float(max(N - sum(counts[:k+1]), 1)) for k in range(K)])
        v.same(f'{run}.cfg_iter', torch.tensor([s for _, _, s in calls]), STAGE)
        for k, ((tokens, new), (z, z_uncond, _)) in enumerate(zip(steps, calls)):
            M, rows = len(z), ends[k].argsort()
            v.same(f'{run}.{k}.z', torch.cat([z[rows], z_uncond[rows]]) if z_uncond is not None else z[rows], FINAL)
            drawn = tokens.gather(1, new.unsqueeze(-1).expand(-1, -1, tokens.shape[-1])).flatten(0, 1)
            v.same(f'{run}.{k}.latents', drawn[rows], FINAL, slice(M))

# --- the autoencoder ------------------------------------------------------------------------------

@lru_cache(None)
def vae_of(v): return load_vae(v.part('sd.'))

@family('vae', r'sd\..*')
def autoencoder_goes_in_and_out(v):
    want, got = v.part('sd.'), export_vae(load_vae(v.part('sd.'), dtype=None))
    assert want.keys() == got.keys()
    assert all(torch.equal(want[k], got[k]) and want[k].dtype == got[k].dtype for k in want)
    same_eps(vae_of(v))
    ours = vae_of(v).config
    assert (ours.width, ours.mults, ours.embed_dim) == (v.config['ch'], tuple(v.config['ch_mult']),
                                                        v.config['embed_dim'])

@family('vae', r'in\.(image|eps|z)|out\.(encoder_h|moments|mean|logvar|kl|sample|latent|decoded|recon_from_mean)')
@torch.no_grad()
def autoencoder(v):
    vae, images = vae_of(v), v['in.image']
    posterior = vae.encode(images)
    with Played([v['in.eps']]):
        sample = posterior.sample()
    h = vae.encoder(images)
    for name, ours in (('encoder_h', h), ('moments', vae.to_moments(h)), ('mean', posterior.mean),
                       ('logvar', posterior.logvar), ('kl', posterior.kl()), ('sample', sample),
                       ('decoded', vae.decode(v['in.z'])), ('recon_from_mean', vae.decode(posterior.mean))):
        v.same(f'out.{name}', ours, STAGE)
    tokenizer = KLTokenizer(vae, v.config.get('latent_scale', KL16_SCALE))
    with Played([patchify(v['in.eps'], 1)]):
        v.same('out.latent', unpatchify(tokenizer.encode(images, torch.Generator()), 1), STAGE)

# --- run them all ---------------------------------------------------------------------------------

def kind_of(path):
    "What a file was recorded from, told by the names of its tensors"
    with safe_open(path, 'pt') as f:
        names = set(f.keys())
    if any(n.startswith('sd.diffloss.') for n in names): return 'mar'
    return 'vae' if any(n.startswith('sd.decoder.') for n in names) else 'diffusion'

FILES = {kind: [p for p in sorted(FOLDER.rglob('*.safetensors')) if kind_of(p) == kind]
         for kind in ('diffusion', 'mar', 'vae')}
KEYS = sorted(FOLDER.rglob('keys_*.json'))
CASES = [pytest.param(path, pattern, check, id=f'{path.stem}-{check.__name__}')
         for kind, pattern, check in FAMILIES for path in FILES[kind] if vectors(path).find(pattern)]

@pytest.mark.parametrize('path, pattern, check', CASES)
def test_equal(path, pattern, check):
    v = vectors(path)
    check(v)
    def seen(name): return name in (v.read if GIVEN.fullmatch(name) else v.compared)
    blind = [m[0] for m in v.find(pattern) if not seen(m[0])]
    assert not blind, f'{check.__name__} did not look at {blind}'

@pytest.mark.parametrize('path', [pytest.param(p, id=p.stem) for files in FILES.values() for p in files])
def test_no_tensor_is_passed_over(path):
    patterns = [pattern for kind, pattern, _ in FAMILIES if path in FILES[kind]]
    unknown = [k for k in vectors(path).all if not any(re.fullmatch(p, k) for p in patterns)]
    assert not unknown, f'{path.name}: no check knows {unknown}'

def test_there_is_something_to_compare_with():
    assert any(FILES.values()), f'{FOLDER} holds no vectors'
    assert not (rest := [p.name for p in FOLDER.rglob('*.json') if p not in KEYS]), f'no check reads {rest}'

# --- bf16 -----------------------------------------------------------------------------------------

@pytest.mark.parametrize('path', [pytest.param(p, id=p.stem)
                                  for p in FILES['mar'] if {'net.t', 'in.t', 'out.eval.z'} <= vectors(p).all.keys()])
@torch.no_grad()
def test_bf16_stays_near(path):
    "Matrix products in bf16: z, the head and the training loss stay within a stated part of the recorded range"
    v, net = Vectors(path), model_of(vectors(path)).head.net
    with torch.autocast('cpu', torch.bfloat16):
        z = stages(vectors(path), v['in.labels'], *our_order(v))['z']
        out = net(v['net.x'], net.embed_time(v['net.t']), net.from_z(v['net.c']))
        loss = training_step(vectors(path))['loss']
    assert out.dtype == torch.bfloat16
    v.same('out.eval.z', z.float(), BF16)
    v.same('net.out', out.float(), BF16)
    v.same('out.train.loss', loss.float(), BF16)
    assert min(v.errors['out.eval.z'], v.errors['net.out']) > STAGE  # so it was not fp32 that was measured

# --- eps ------------------------------------------------------------------------------------------

def randomised(config):
    "A model of which no weight is zero"
    model, g = AutoregressiveModel(config), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.3*torch.randn(p.shape, generator=g))
    return model.eval()

SMALL = ModelConfig(n_tokens=9, token_dim=8, n_classes=5, width=24, encoder_blocks=2, decoder_blocks=1, heads=3,
                    class_slots=4, head=HeadConfig(blocks=2, width=20))
MODELS = {path.stem: lambda path=path: load_mar(official_weights(vectors(path)), heads=vectors(path).config['heads'],
                                                patch_size=vectors(path).config['patch_size'])
          for path in FILES['mar']}
MODELS['causal'] = partial(randomised, replace(SMALL, backbone='causal'))
for kind in ('flow', 'energy'):
    MODELS[kind] = partial(randomised, replace(SMALL, head=replace(SMALL.head, kind=kind)))

@pytest.mark.parametrize('bf16', [False, True], ids=['fp32', 'bf16'])
@pytest.mark.parametrize('name', MODELS)
@torch.no_grad()
def test_every_path_reads_the_eps_of_every_norm(name, bf16):
    "A wrong eps in any one norm of backbone or head moves the loss and the drawn tokens: nobody typed it twice"
    model = MODELS[name]()
    N, P, labels = model.config.n_tokens, model.config.token_dim, torch.arange(3)
    tokens = torch.randn(3, N, P, generator=torch.Generator().manual_seed(1))
    def loss_and_drawing():
        loss, draw = (torch.Generator().manual_seed(seed) for seed in (2, 3))
        with torch.autocast('cpu', torch.bfloat16, enabled=bf16):
            return (model.loss(tokens, labels, generator=loss)['loss'],
                    generate(model, labels, ar_steps=N if name == 'causal' else 3, diff_steps=3, cfg_scale=2.0,
                             generator=draw))
    usual, again = loss_and_drawing(), loss_and_drawing()
    assert all(torch.equal(a, b) for a, b in zip(usual, again))                       # otherwise nothing is shown
    norms = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.LayerNorm)}
    assert {n.partition('.')[0] for n in norms} == {'backbone', 'head'}
    for where, norm in norms.items():
        norm.eps, eps = 0.3, norm.eps
        loss, drawn = loss_and_drawing()
        norm.eps = eps
        assert not torch.equal(loss, usual[0]), f'the loss knows nothing of the eps of {where}'
        assert not torch.equal(drawn, usual[1]), f'drawing knows nothing of the eps of {where}'

# --- the real models' names -----------------------------------------------------------------------

def meta_state(path):
    listed = json.loads(path.read_text())
    return listed, {k['name']: torch.empty(k['shape'], device='meta') for k in listed['keys']}

PRESETS = {'mar_base': mar_base, 'mar_large': mar_large, 'mar_huge': mar_huge}

@pytest.mark.parametrize('path', [pytest.param(p, id=p.stem) for p in KEYS if 'mar' in p.stem])
def test_presets_have_the_official_parameters(path):
    listed, state = meta_state(path)
    loaded, c = load_mar(state), listed['config']
    assert export_mar(loaded).keys() == state.keys() and all(p.is_meta for p in loaded.parameters())
    same_eps(loaded, c['norm_eps'])
    assert loaded.config.heads == c['heads']
    assert sum(p.numel() for p in loaded.parameters()) == listed['n_params']
    assert len(state) == listed['n_keys']
    assert sum(p.numel() for p in loaded.head.parameters()) == listed['n_params_diffloss']
    decays = {id(p) for group in make_optimizer(loaded, TrainConfig()).param_groups if group['weight_decay']
              for p in group['params']}
    theirs = {k['name']: k['weight_decay'] for k in listed['keys'] if 'weight_decay' in k}
    ours = {n: id(p) in decays for name, p in loaded.named_parameters() for n in mar_names(loaded.config)[name]}
    assert {n: ours[n] for n in theirs} == theirs
    if listed['model'] not in PRESETS: return
    with torch.device('meta'):
        preset = AutoregressiveModel(PRESETS[listed['model']]().model)
    want = {n: tuple(t.shape) for n, t in state.items()}
    assert {n: tuple(t.shape) for n, t in export_mar(preset).items()} == want
    same = ('n_tokens', 'token_dim', 'n_classes', 'width', 'encoder_blocks', 'decoder_blocks', 'heads', 'mlp_ratio',
            'class_slots', 'dropout', 'label_drop', 'min_mask_ratio', 'mask_std', 'head')
    assert {k: getattr(preset.config, k) for k in same} == {k: getattr(loaded.config, k) for k in same}

@pytest.mark.parametrize('path', [pytest.param(p, id=p.stem) for p in KEYS if 'vae' in p.stem])
def test_kl16_has_the_official_parameters(path):
    listed, state = meta_state(path)
    loaded = load_vae(state)
    assert {n: t.shape for n, t in export_vae(loaded).items()} == {n: t.shape for n, t in state.items()}
    same_eps(loaded, listed['config']['norm_eps'])
    assert sum(p.numel() for p in loaded.parameters()) == listed['n_params'] and len(state) == listed['n_keys']
    if 'kl16' in path.stem:
        assert loaded.config == kl16() and KL16_SCALE == listed['config']['latent_scale']
        with torch.device('meta'):
            assert set(vae_names(kl16())) == set(VAE(kl16()).state_dict())
