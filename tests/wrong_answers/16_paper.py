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

def errors_apart(a, b, times=2, correction=1, power=.5, middle=torch.mean):
    a, b = torch.tensor(a), torch.tensor(b)
    if min(len(a), len(b)) < 2: return False
    error = (a.var(correction=correction)/len(a) + b.var(correction=correction)/len(b))**power
    return bool(middle(b) - middle(a) > times*error)
def one_error(a, b): return errors_apart(a, b, times=1)
def three_errors(a, b): return errors_apart(a, b, times=3)
def divided_by_n(a, b): return errors_apart(a, b, correction=0)
def no_root(a, b): return errors_apart(a, b, power=1)
def medians(a, b): return errors_apart(a, b, middle=torch.median)
def sum_of_errors(a, b):
    a, b = torch.tensor(a), torch.tensor(b)
    if min(len(a), len(b)) < 2: return False
    return bool(b.mean() - a.mean() > 2*(a.std()/len(a)**.5 + b.std()/len(b)**.5))

def nearest_of_the_fresh(drawn, learned, fresh):
    return (nearest(drawn, learned) < nearest(fresh, learned).min()).float().mean()
def limit_the_other_way(drawn, learned, fresh):
    return (nearest(drawn, learned) < nearest(learned, fresh).quantile(.01)).float().mean()

WRONG = {'check_fair_pairs': [differs_in_it, differs_once, others_equal, neighbours],
         'check_clearly_below': [means_only, apart, spread_not_error, one_seed_is_sure, one_error, three_errors,
                                 divided_by_n, no_root, medians, sum_of_errors],
         'check_copy_share': [nearest_of_the_fresh, limit_the_other_way, equal_only, near_any_true, wrong_end]}
