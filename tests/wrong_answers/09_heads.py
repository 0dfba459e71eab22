"Plausible mistakes, which the checks of lesson 09 must refuse"
from torch.nn import functional as F

def one_more(eps, uncond, scale): return eps + scale*(eps - uncond)
def backwards(eps, uncond, scale): return eps + scale*(uncond - eps)
def mixture(eps, uncond, scale): return scale*eps + uncond

def order_of_dials(x, c, norm, up, down, ada):
    scale, shift, gate = ada(c).chunk(3, dim=1)
    return x + gate*down(F.silu(up(norm(x)*(1 + scale) + shift)))
def no_shortcut(x, c, norm, up, down, ada):
    shift, scale, gate = ada(c).chunk(3, dim=1)
    return gate*down(F.silu(up(norm(x)*(1 + scale) + shift)))
def scale_without_one(x, c, norm, up, down, ada):
    shift, scale, gate = ada(c).chunk(3, dim=1)
    return x + gate*down(F.silu(up(norm(x)*scale + shift)))

def two_ways(z, target, levels): return z.repeat(levels, 1), target.repeat_interleave(levels, dim=0)
def once(z, target, levels): return z, target
def only_z(z, target, levels): return z.repeat(levels, 1), target

WRONG = {
    'check_head_rows': [64*100, 256*64*100, 256],
    'check_guided': [one_more, backwards, mixture],
    'check_block': [order_of_dials, no_shortcut, scale_without_one],
    'check_repeat_rows': [two_ways, once, only_z],
}
