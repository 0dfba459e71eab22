"Plausible mistakes, which the checks of lesson 08 must refuse"
import math
import torch

def nearer_one(xt, ab, p): return torch.where(xt > 0, 1., -1.)
def undo_shrinking(xt, ab, p): return xt/math.sqrt(ab)
def like_a_gaussian(xt, ab, p): return math.sqrt(ab)*xt
def forgets_the_bias(xt, ab, p): return torch.tanh(math.sqrt(ab)*xt/(1 - ab))
def forgets_the_roots(xt, ab, p): return torch.tanh(ab*xt/(1 - ab) + 0.5*math.log(p/(1 - p)))

def _loop(network, alpha_bar, steps, noises, told=lambda steps, i: steps[i], previous=lambda steps, i: steps[i-1],
          eps_is_x0=False, end=0.0, order=reversed, wide=False):
    xt = noises[0]
    for k, i in enumerate(order(range(len(steps)))):
        ab = alpha_bar[steps[i]]
        before = alpha_bar[previous(steps, i)] if i else torch.ones(())
        out = network(xt, told(steps, i))
        x0 = out if eps_is_x0 else (xt - (1 - ab).sqrt()*out)/ab.sqrt()
        beta = 1 - ab/before
        mean = (before.sqrt()*beta*x0 + (1 - beta).sqrt()*(1 - before)*xt)/(1 - ab)
        variance = beta if wide else beta*(1 - before)/(1 - ab)
        xt = mean + (variance.sqrt() if i else end)*noises[k+1]
    return xt
def tells_the_index(*a): return _loop(*a, told=lambda steps, i: i)
def neighbour_in_training(*a): return _loop(*a, previous=lambda steps, i: steps[i] - 1)
def output_taken_for_x0(*a): return _loop(*a, eps_is_x0=True)
def noise_at_the_end(*a): return _loop(*a, end=0.3)
def from_the_clean_end(*a): return _loop(*a, order=list)
def upper_variance(*a): return _loop(*a, wide=True)

def _pair(x0, t, eps, alpha_bar):
    ab = alpha_bar[t].unsqueeze(1)
    return ab, ab.sqrt()*x0 + (1 - ab).sqrt()*eps
def target_is_the_noise(network, x0, t, eps, alpha_bar):
    return (network(_pair(x0, t, eps, alpha_bar)[1], t) - eps).square().mean(1)
def roots_swapped(network, x0, t, eps, alpha_bar):
    ab, xt = _pair(x0, t, eps, alpha_bar)
    return (network(xt, t) - (1 - ab).sqrt()*eps + ab.sqrt()*x0).square().mean(1)
def steps_along_the_numbers(network, x0, t, eps, alpha_bar):
    ab = alpha_bar[t]
    xt, velocity = ab.sqrt()*x0 + (1 - ab).sqrt()*eps, ab.sqrt()*eps - (1 - ab).sqrt()*x0
    return (network(xt, t) - velocity).square().mean(1)
def no_roots(network, x0, t, eps, alpha_bar):
    ab = alpha_bar[t].unsqueeze(1)
    return (network(ab*x0 + (1 - ab)*eps, t) - ab*eps + (1 - ab)*x0).square().mean(1)
def mean_of_all(network, x0, t, eps, alpha_bar):
    ab, xt = _pair(x0, t, eps, alpha_bar)
    return (network(xt, t) - ab.sqrt()*eps + (1 - ab).sqrt()*x0).square().mean()

WRONG = {
    'check_coin': [nearer_one, undo_shrinking, like_a_gaussian, forgets_the_bias, forgets_the_roots],
    'check_loop': [tells_the_index, neighbour_in_training, output_taken_for_x0, noise_at_the_end, from_the_clean_end,
                   upper_variance],
    'check_velocity_loss': [target_is_the_noise, roots_swapped, steps_along_the_numbers, no_roots, mean_of_all],
}
