"Plausible mistakes, which the checks of lesson 10 must refuse"
import math, torch
from marlearn.orders import cosine_counts

def asked_by_order(order, counts, k): # the order itself instead of its turns
    start = sum(counts[:k])
    return (order >= start) & (order < start + counts[k])
def asked_one_too_many(order, counts, k):
    turn, start = order.argsort(dim=1), sum(counts[:k])
    return (turn >= start) & (turn <= start + counts[k])
def asked_so_far(order, counts, k): return order.argsort(dim=1) < sum(counts[:k + 1])
def asked_floats(order, counts, k):
    turn, start = order.argsort(dim=1), sum(counts[:k])
    return ((turn >= start) & (turn < start + counts[k])).float()

def square_begins_with_zero(N, K): # the planted bug
    known, counts = 0, []
    for k in range(K):
        want = math.floor(N*(k/K)**2)
        counts.append(want - known)
        known = want
    return counts
def square_with_empty_steps(N, K):
    known = [N*k*k//K**2 for k in range(K + 1)]
    return [after - before for before, after in zip(known, known[1:])]
def square_takes_too_many(N, K): # at least one now, nothing left for later
    known, counts = 0, []
    for k in range(1, K + 1):
        want = max(N*k*k//K**2, known + 1) + (k == 1)
        counts.append(want - known)
        known = want
    return counts
def linear(N, K): return [N*(k + 1)//K - N*k//K for k in range(K)]

def ratio_of_the_known(N, K): return 1 - cosine_counts(N, K)[-1]/N
def ratio_of_one_token(N, K): return 1/N
def ratio_of_the_first_step(N, K): return cosine_counts(N, K)[0]/N
def papers_ratio(N, K): return 0.7

def swap_with_any(N, g): # the planted bug
    order = list(range(N))
    for i in range(N):
        j = int(torch.randint(N, (), generator=g))
        order[i], order[j] = order[j], order[i]
    return order
def never_stays(N, g): # off by one: a token never swaps with itself
    order = list(range(N))
    for i in range(N - 1):
        j = int(torch.randint(i + 1, N, (), generator=g))
        order[i], order[j] = order[j], order[i]
    return order
def with_repeats(N, g): return torch.randint(N, (N,), generator=g).tolist()

def ignores_the_generator(N, g): return torch.randperm(N).tolist()

WRONG = {'check_asked': [asked_by_order, asked_one_too_many, asked_so_far, asked_floats],
         'check_square_counts': [square_begins_with_zero, square_with_empty_steps, square_takes_too_many, linear],
         'check_lowest_ratio': [ratio_of_the_known, ratio_of_one_token, ratio_of_the_first_step, papers_ratio],
         'check_shuffled': [swap_with_any, never_stays, with_repeats, ignores_the_generator]}
