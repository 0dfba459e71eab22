"Plausible mistakes, which the checks of lesson 13 must refuse"
import torch

def roles_swapped(average, weights, decay): return (1 - decay)*average + decay*weights
def plain_mean(average, weights, decay): return (average + weights)/2
def adds_up(average, weights, decay): return decay*average + weights

def shuffled(n, seed): return torch.randperm(n, generator=torch.Generator().manual_seed(seed))
def new_each_step(n, B, step, seed): return shuffled(n, seed*1000 + step)[:B]
def one_order_for_ever(n, B, step, seed):
    k = step % (n//B)
    return shuffled(n, seed)[k*B:(k + 1)*B]
def global_chance(n, B, step, seed): return torch.randperm(n)[:B]

WRONG = {
    'check_follow': [roles_swapped, plain_mean, adds_up],
    'check_steps_until_one_percent': [10_000, 100, 99_990],
    'check_rows_of_step': [new_each_step, one_order_for_ever, global_chance],
    'check_saved': ['a', 'c', 'all'],
}
