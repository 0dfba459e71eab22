"""The paper's algorithm written straight down: float32, the head asked for every token and known ones left out of the
loss, all conditions computed anew at every diffusion step

It shares the model's weights with the library and draws the same noise in the same order, so it is the oracle for
everything that is faster."""
import torch
from torch import nn
from marlearn.ar import take
from marlearn.diffusion import add_noise, denoise_step, diffusion_loss, respace
from marlearn.generate import guidance_scales
from marlearn.mar import AutoregressiveModel
from marlearn.orders import draw_n_known, make_counts, make_order

def loss(model:AutoregressiveModel, tokens, labels, generator):
    "The training loss of a diffusion head"
    c, head, device = model.config, model.head, tokens.device
    (B, N, P), L = tokens.shape, c.head.noise_levels
    order = make_order(c.order, B, N, generator, device)
    n_known = draw_n_known(N, generator, c.min_mask_ratio, c.mask_std)
    dropped = torch.rand(B, generator=generator, device=device) < c.label_drop
    z = model.backbone(tokens, torch.where(dropped, c.n_classes, labels), order, n_known)
    mask = torch.ones(B, N, device=device).scatter(1, order[:, :n_known], 0.0) # 1 = hidden

    # noise where it counts, as the library draws it, and elsewhere any
    hidden, M = order[:, n_known:], B*(N - n_known)
    t = torch.randint(len(head.schedule), (L*M,), generator=generator, device=device).view(L, B, N - n_known)
    eps = torch.randn(L*M, P, generator=generator, device=device).view(L, B, N - n_known, P)
    elsewhere = torch.Generator(device).manual_seed(0)
    all_t = torch.randint(len(head.schedule), (L, B, N), generator=elsewhere, device=device)
    all_eps = torch.randn(L, B, N, P, generator=elsewhere, device=device)
    t = all_t.scatter(2, hidden.expand(L, -1, -1), t).view(-1)
    eps = all_eps.scatter(2, hidden[None, :, :, None].expand(L, -1, -1, P), eps).view(-1, P)

    target, z = (x.flatten(0, 1).repeat(L, 1) for x in (tokens, z)) # z is projected once for each noise level
    xt = add_noise(target, t, eps, head.schedule)
    out = head.net(xt, head.net.embed_time(t), head.net.from_z(z))
    parts = diffusion_loss(out, target, xt, t, eps, head.schedule)
    every = (parts['mse'] + parts['vlb']).view(L, B, N)
    return (every*mask).sum()/(L*mask.sum())

@torch.no_grad()
def update_average(average:nn.Module, model:nn.Module, decay:float):
    "The moving average, one tensor after another"
    for a, p in zip(average.parameters(), model.parameters()): a.mul_(decay).add_(p, alpha=1 - decay)

def train_step(model, average, tokens, labels, opt, generator, clip=3.0, decay=0.9999):
    "Loss, gradient, clipped update, average"
    value = loss(model, tokens, labels, generator)
    opt.zero_grad()
    value.backward()
    nn.utils.clip_grad_norm_(model.parameters(), clip)
    opt.step()
    update_average(average, model, decay)
    return value.item()

@torch.no_grad()
def generate(model:AutoregressiveModel, labels, *, ar_steps, diff_steps=100, cfg_scale=1.0, guidance='linear',
             temperature=1.0, generator=None):
    "Draw pictures' tokens"
    c, net, schedule = model.config, model.head.net, respace(model.head.schedule, diff_steps)
    B, N, P, device = len(labels), c.n_tokens, c.token_dim, labels.device
    tokens, order, n_known = torch.zeros(B, N, P, device=device), make_order(c.order, B, N, generator, device), 0
    counts, guided = make_counts('cosine', N, ar_steps), cfg_scale != 1.0
    nobody = torch.full_like(labels, c.n_classes)
    for n_new, scale in zip(counts, guidance_scales(cfg_scale, N, counts, guidance)):
        new = order[:, n_known:n_known + n_new]
        if guided: z = model.backbone(tokens.repeat(2, 1, 1), torch.cat([labels, nobody]), order.repeat(2, 1), n_known)
        else: z = model.backbone(tokens, labels, order, n_known)
        z = take(z, new.repeat(1 + guided, 1)).flatten(0, 1)
        xt = torch.randn(B*n_new, P, generator=generator, device=device)
        for i in reversed(range(diff_steps)):
            t = torch.full((len(xt),), i, device=device)
            noise = torch.randn(B*n_new, P, generator=generator, device=device)
            rows, times = (torch.cat([xt, xt]), t.repeat(2)) if guided else (xt, t)
            out = net(rows, net.embed_time(schedule.times.to(device)[times]), net.from_z(z))
            if guided:
                of_class, of_nobody = out.chunk(2)
                eps = of_nobody[:, :P] + scale*(of_class[:, :P] - of_nobody[:, :P])
                out = torch.cat([eps, of_class[:, P:]], dim=1)
            xt, _ = denoise_step(out, xt, t, noise, schedule, temperature, model.head.config.x0_limit)
        tokens = tokens.scatter(1, new.unsqueeze(-1).expand(-1, -1, P), xt.view(B, n_new, P))
        n_known += n_new
    return tokens
