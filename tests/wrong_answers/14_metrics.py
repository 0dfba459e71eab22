"Plausible mistakes, which the checks of lesson 14 must refuse"
import numpy as np, torch

def variances_apart(m1, v1, m2, v2): return ((m1 - m2)**2).sum() + ((v1 - v2)**2).sum()
def not_squared(m1, v1, m2, v2): return (((m1 - m2)**2).sum() + ((v1.sqrt() - v2.sqrt())**2).sum()).sqrt()
def means_only(m1, v1, m2, v2): return ((m1 - m2)**2).sum()

def fit_in_n(sizes, distances): return np.polyfit(sizes, distances, 1)[1]
def the_slope(sizes, distances): return np.polyfit(1/np.array(sizes), distances, 1)[0]
def the_last(sizes, distances): return distances[-1]
def first_and_last(sizes, distances):
    a, b, n, m = distances[0], distances[-1], sizes[0], sizes[-1]
    return (m*b - n*a)/(m - n)

def recall_instead(real, fake, k):
    r = torch.cdist(fake, fake).kthvalue(k + 1, dim=1).values
    return (torch.cdist(real, fake) <= r).any(1).float().mean()
def own_nearest(real, fake, k):
    r = torch.cdist(real, real).kthvalue(k, dim=1).values
    return (torch.cdist(fake, real) <= r).any(1).float().mean()
def fake_radius(real, fake, k):
    r = torch.cdist(fake, fake).kthvalue(k + 1, dim=1).values
    return (torch.cdist(fake, real) <= r[:, None]).any(1).float().mean()

def itself_is_nearest(drawn, train):
    own = torch.cdist(train, train).min(1).values
    near = torch.cdist(drawn, train).min(1)
    return (near.values < own[near.indices]/2).float().mean()
def one_limit_for_all(drawn, train):
    own = torch.cdist(train, train).fill_diagonal_(torch.inf).min(1).values
    return (torch.cdist(drawn, train).min(1).values < own.mean()/2).float().mean()
def share_of_training(drawn, train):
    own = torch.cdist(train, train).fill_diagonal_(torch.inf).min(1).values
    return (torch.cdist(train, drawn).min(1).values < own/2).float().mean()
def neighbours_of_the_drawn(drawn, train):
    own = torch.cdist(drawn, drawn).fill_diagonal_(torch.inf).min(1).values
    return (torch.cdist(drawn, train).min(1).values < own/2).float().mean()

def as_far_as_the_neighbour(drawn, train):
    own = torch.cdist(train, train).fill_diagonal_(torch.inf).min(1).values
    near = torch.cdist(drawn, train).min(1)
    return (near.values < own[near.indices]).float().mean()
def half_of_the_second_nearest(drawn, train):
    near = torch.cdist(drawn, train).topk(2, largest=False).values
    return (near[:, 0] < near[:, 1]/2).float().mean()

WRONG = {
    'check_frechet_diagonal': [variances_apart, not_squared, means_only],
    'check_at_infinity': [fit_in_n, the_slope, the_last, first_and_last],
    'check_precision': [recall_instead, own_nearest, fake_radius],
    'check_copied': [as_far_as_the_neighbour, half_of_the_second_nearest,
                     itself_is_nearest, one_limit_for_all, share_of_training, neighbours_of_the_drawn],
}
