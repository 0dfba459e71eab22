"Plausible mistakes, which the checks of lesson 06 must refuse"
import math, torch

def _attend(q, k, v, causal, dim=-1, root=True, shift=1):
    scores = q @ k.transpose(-2, -1)/(math.sqrt(q.shape[-1]) if root else 1)
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:], dtype=torch.bool).triu(shift), -math.inf)
    return scores.softmax(dim) @ v
def wrong_axis(q, k, v, causal): return _attend(q, k, v, causal, dim=-2)
def no_root(q, k, v, causal): return _attend(q, k, v, causal, root=False)
def one_ahead(q, k, v, causal): return _attend(q, k, v, causal, shift=2)
def zeroed_weights(q, k, v, causal):
    w = (q @ k.transpose(-2, -1)/math.sqrt(q.shape[-1])).softmax(-1)
    return (w.tril() if causal else w) @ v

def last_row_only(f, L, D):
    x = torch.randn(1, L, D)
    y = x.clone()
    y[:, -1] += 1
    return not torch.equal(f(x)[:, :1], f(y)[:, :1])
def any_dependence(f, L, D):
    x = torch.randn(1, L, D)
    y = x.clone()
    y[:, 0] += 1
    return not torch.equal(f(x)[:, 1:], f(y)[:, 1:])
def never(f, L, D): return False

def view_only(x, heads): return x.view(x.shape[0], heads, x.shape[1], -1)
def strided(x, heads): return x.view(*x.shape[:2], -1, heads).permute(0, 3, 1, 2)

WRONG = {'check_attend': [wrong_axis, no_root, one_ahead, zeroed_weights],
         'check_looks_ahead': [last_row_only, any_dependence, never],
         'check_split_heads': [view_only, strided],
         'check_cache_saves': [256, 128, 32896]}
