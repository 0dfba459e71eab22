"Plausible mistakes, which the checks of lesson 10 must refuse"
import math, torch

def order_itself(order, n): return order >= n
def off_by_one(order, n): return order.argsort(dim=1) > n
def known_instead(order, n): return order.argsort(dim=1) < n
def floats(order, n): return (order.argsort(dim=1) >= n).float()

def only_the_wish(K, N): return [N - math.floor(N*math.cos(math.pi/2*k/K)) for k in range(1, K + 1)]
def one_too_late(K, N): return [0] + only_the_wish(K, N)[:-1]
def linear(K, N): return [max(k, round(N*k/K)) for k in range(1, K + 1)]

def clamped(n, g): return (1 + 0.25*torch.randn(n, generator=g)).clamp(0.7, 1)
def uniform(n, g): return 0.7 + 0.3*torch.rand(n, generator=g)
def too_few(n, g):
    r = 1 + 0.25*torch.randn(n, generator=g)
    return r[(r >= 0.7) & (r <= 1)]

WRONG = {'check_hidden': [order_itself, off_by_one, known_instead, floats],
         'check_known_schedule': [only_the_wish, one_too_late, linear], 'check_ratios': [clamped, uniform, too_few],
         'check_blind': ['random', 'checkerboard', 'halton']}
