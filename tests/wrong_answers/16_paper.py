"Plausible mistakes, which the checks of lesson 16 must refuse"
import torch

def pairs(n): return [(i, j) for i in range(n) for j in range(i + 1, n)]
def differs_in_it(runs, factor): return [(i, j) for i, j in pairs(len(runs)) if runs[i][factor] != runs[j][factor]]
def differs_once(runs, factor):
    return [(i, j) for i, j in pairs(len(runs)) if sum(runs[i][k] != runs[j][k] for k in runs[i]) == 1]
def others_equal(runs, factor):
    return [(i, j) for i, j in pairs(len(runs)) if all(runs[i][k] == runs[j][k] for k in runs[i] if k != factor)]
def neighbours(runs, factor):
    return [(i, i + 1) for i in range(len(runs) - 1)
            if [k for k in runs[i] if runs[i][k] != runs[i + 1][k]] == [factor]]

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

WRONG = {'check_fair_pairs': [differs_in_it, differs_once, others_equal, neighbours],
         'check_clearly_below': [means_only, apart, spread_not_error, one_seed_is_sure],
         'check_copy_share': [equal_only, near_any_true, wrong_end]}
