"Plausible mistakes, which the checks of lesson 16 must refuse"
import torch

def means_only(a, b): return sum(a)/len(a) < sum(b)/len(b)
def apart(a, b):
    a, b = torch.tensor(a), torch.tensor(b)
    return bool((b.mean() - a.mean()).abs() > 2*(a.var()/len(a) + b.var()/len(b)).sqrt())
def spread_not_error(a, b):
    a, b = torch.tensor(a), torch.tensor(b)
    return bool(b.mean() - a.mean() > 2*(a.var() + b.var()).sqrt())
def one_seed_is_sure(a, b):
    a, b = torch.tensor(a), torch.tensor(b)
    return bool(b.mean() - a.mean() > 2*(a.var(correction=0)/len(a) + b.var(correction=0)/len(b)).sqrt())

def nearest(x, y): return torch.cdist(x, y).min(1).values
def equal_only(drawn, learned, fresh): return (nearest(drawn, learned) == 0).float().mean()
def near_any_true(drawn, learned, fresh):
    true = torch.cat([learned, fresh])
    return (nearest(drawn, true) < nearest(fresh, learned).quantile(.01)).float().mean()
def wrong_end(drawn, learned, fresh):
    return (nearest(drawn, learned) < nearest(fresh, learned).quantile(.99)).float().mean()

WRONG = {'check_clearly_below': [means_only, apart, spread_not_error, one_seed_is_sure],
         'check_copy_share': [equal_only, near_any_true, wrong_end]}
