"Plausible mistakes, which the checks of lesson 09 must refuse"
import math
import torch
from torch import nn
from marlearn.ar import Head

def _loss(network, z, target, t, eps, alpha_bar, zs=lambda z, levels: z.repeat(levels, 1), roots=True, dims=(0, 2)):
    ab = alpha_bar[t].unsqueeze(2)
    xt = ab.sqrt()*target + (1 - ab).sqrt()*eps if roots else ab*target + (1 - ab)*eps
    out = network(xt.flatten(0, 1), t.flatten(), zs(z, len(t)))
    return (out.view_as(eps) - eps).square().mean(dim=dims)
def z_in_another_order(*a): return _loss(*a, zs=lambda z, levels: z.repeat_interleave(levels, dim=0))
def without_roots(*a): return _loss(*a, roots=False)
def one_number_per_level(*a): return _loss(*a, dims=(1, 2))
def mean_of_everything(*a): return _loss(*a, dims=(0, 1, 2))
def one_call_per_level(network, z, target, t, eps, alpha_bar):
    return sum(_loss(network, z, target, t[i:i+1], eps[i:i+1], alpha_bar) for i in range(len(t)))/len(t)
def errors_in_another_order(network, z, target, t, eps, alpha_bar):
    levels, M = t.shape
    ab = alpha_bar[t].unsqueeze(2)
    xt = (ab.sqrt()*target + (1 - ab).sqrt()*eps).flatten(0, 1)
    out = network(xt, t.flatten(), z.repeat(levels, 1))
    return (out - eps.flatten(0, 1)).square().mean(1).view(M, levels).mean(1)

def _guided(network, z, z_uncond, scale, low, high, v_too=False, formula=lambda a, b, s: b + s*(a - b),
            inside=lambda t, low, high: low <= t < high, always=False, first='class'):
    def model(xt, t):
        P, guide = xt.shape[1], inside(t[0], low, high)
        if not (guide or always): return network(xt, t, z)
        out, null = network(torch.cat([xt, xt]), torch.cat([t, t]), torch.cat([z, z_uncond])).chunk(2)
        if not guide: return out
        if first != 'class':
            out, null = null, out
        eps = formula(out[:, :P], null[:, :P], scale)
        v = formula(out[:, P:], null[:, P:], scale) if v_too else out[:, P:]
        return torch.cat([eps, v], dim=1)
    return model
def guides_v_too(*a): return _guided(*a, v_too=True)
def one_more(*a): return _guided(*a, formula=lambda a, b, s: a + s*(a - b))
def halves_swapped(*a): return _guided(*a, first='null')
def last_step_too(*a): return _guided(*a, inside=lambda t, low, high: low <= t <= high)
def everywhere(*a): return _guided(*a, inside=lambda t, low, high: True)
def null_class_for_nothing(*a): return _guided(*a, always=True)

class Plain(Head):
    "The right answer, to be spoilt"
    def __init__(self, token_dim, z_dim):
        super().__init__()
        self.token_dim, self.net = token_dim, nn.Linear(z_dim, 2*token_dim)
    def loss_parts(self, z, target, *, generator=None):
        place, log_scale = self.net(z).chunk(2, dim=1)
        return {'nll': ((target - place).abs()/log_scale.exp() + log_scale + math.log(2)).sum(1)}
    def sample(self, z, *, temperature=1.0, generator=None, **options):
        place, log_scale = self.net(z).chunk(2, dim=1)
        u = torch.rand(place.shape, generator=generator) - 0.5
        return place - temperature*log_scale.exp()*u.sign()*(1 - 2*u.abs()).log()

class MeanOverNumbers(Plain):
    def loss_parts(self, z, target, *, generator=None):
        return {'nll': super().loss_parts(z, target)['nll']/self.token_dim}
class ForgetsTheScalesLogarithm(Plain):
    def loss_parts(self, z, target, *, generator=None):
        place, log_scale = self.net(z).chunk(2, dim=1)
        return {'nll': ((target - place).abs()/log_scale.exp()).sum(1)}
class TakesTheLogarithmForTheScale(Plain):
    def loss_parts(self, z, target, *, generator=None):
        place, scale = self.net(z).chunk(2, dim=1)
        return {'nll': ((target - place).abs()/scale.abs() + scale.abs().log() + math.log(2)).sum(1)}
class DrawsGaussianNoise(Plain):
    def sample(self, z, *, temperature=1.0, generator=None, **options):
        place, log_scale = self.net(z).chunk(2, dim=1)
        return place + temperature*log_scale.exp()*torch.randn(place.shape, generator=generator)
class IgnoresTemperature(Plain):
    def sample(self, z, *, temperature=1.0, generator=None, **options): return super().sample(z, generator=generator)
class OneDrawForAllNumbers(Plain):
    def sample(self, z, *, temperature=1.0, generator=None, **options):
        m, log_b = self.net(z).chunk(2, dim=1)
        u = torch.rand(len(z), 1, generator=generator) - 0.5
        return m - temperature*log_b.exp()*u.sign()*torch.log1p(-2*u.abs())
class IgnoresTheGenerator(Plain):
    def sample(self, z, *, temperature=1.0, generator=None, **kw): return super().sample(z, temperature=temperature)
class NamedOtherwise(Plain):
    def loss_parts(self, z, target, *, generator=None):
        return {'loss': super().loss_parts(z, target)['nll']}
class OneSided(Plain):
    def sample(self, z, *, temperature=1.0, generator=None, **options):
        place = self.net(z).chunk(2, dim=1)[0]
        return place + (super().sample(z, temperature=temperature, generator=generator) - place).abs()

WRONG = {
    'check_head_rows': [64*100, 256*64*100, 256],
    'check_loss_from_scratch': [z_in_another_order, without_roots, one_number_per_level, mean_of_everything,
                                one_call_per_level, errors_in_another_order],
    'check_guided': [guides_v_too, one_more, halves_swapped, last_step_too, everywhere, null_class_for_nothing],
    'check_new_head': [MeanOverNumbers, ForgetsTheScalesLogarithm, TakesTheLogarithmForTheScale, DrawsGaussianNoise,
                       IgnoresTemperature, OneSided, OneDrawForAllNumbers, IgnoresTheGenerator, NamedOtherwise],
}
