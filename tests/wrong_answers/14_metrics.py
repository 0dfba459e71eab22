"Plausible mistakes, which the checks of lesson 14 must refuse"
import torch

def variances_apart(m1, v1, m2, v2): return ((m1 - m2)**2).sum() + ((v1 - v2)**2).sum()
def not_squared(m1, v1, m2, v2): return (((m1 - m2)**2).sum() + ((v1.sqrt() - v2.sqrt())**2).sum()).sqrt()
def means_only(m1, v1, m2, v2): return ((m1 - m2)**2).sum()

def no_exp(p):
    m = p.mean(0, keepdim=True)
    return (torch.xlogy(p, p) - torch.xlogy(p, m)).sum(1).mean()

def nan_at_zero(p):
    m = p.mean(0, keepdim=True)
    return (p*(p.log() - m.log())).sum(1).mean().exp()

def only_certain(p): return (torch.xlogy(p, p).sum(1).mean()).exp()*p.shape[1]

def recall_instead(real, fake, k):
    r = torch.cdist(fake, fake).kthvalue(k + 1, dim=1).values
    return (torch.cdist(real, fake) <= r).any(1).float().mean()
def own_nearest(real, fake, k):
    r = torch.cdist(real, real).kthvalue(k, dim=1).values
    return (torch.cdist(fake, real) <= r).any(1).float().mean()
def fake_radius(real, fake, k):
    r = torch.cdist(fake, fake).kthvalue(k + 1, dim=1).values
    return (torch.cdist(fake, real) <= r[:, None]).any(1).float().mean()

WRONG = {
    'check_frechet_diagonal': [variances_apart, not_squared, means_only],
    'check_score': [no_exp, nan_at_zero, only_certain],
    'check_precision': [recall_instead, own_nearest, fake_radius],
    'check_cheat': ['a', 'b', 3],
}
