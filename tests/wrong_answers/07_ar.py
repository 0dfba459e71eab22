"Plausible mistakes, which the checks of lesson 07 must refuse"
import math, torch

def as_if_even(shares, n): return math.log(len(shares))/n
def in_bits(shares, n): return sum(-p*math.log2(p) for p in shares if p)/n
def never_per_token(shares, n): return sum(-p*math.log(p) for p in shares if p)
def mean_of_surprises(shares, n): return sum(-math.log(p) for p in shares if p)/sum(p > 0 for p in shares)/n
def log_of_zero(shares, n): return sum(-p*math.log(p) for p in shares)/n

def token_before_question(x, asked, order):
    return torch.stack([x[order], asked[order]], dim=1).flatten(0, 1), 2*order.argsort() + 1
def token_answers_for_itself(x, asked, order):
    return torch.stack([asked[order], x[order]], dim=1).flatten(0, 1), 2*order.argsort() + 1
def not_sorted_back(x, asked, order):
    return torch.stack([asked[order], x[order]], dim=1).flatten(0, 1), 2*order
def by_steps(x, asked, order):
    return torch.stack([asked[order], x[order]], dim=1).flatten(0, 1), 2*torch.arange(len(order))
def questions_first(x, asked, order): return torch.cat([asked[order], x[order]]), order.argsort()
def in_raster(x, asked, order): return torch.stack([asked, x], dim=1).flatten(0, 1), 2*torch.arange(len(order))

def _cross_entropy(logits, target, codebook, dim=1, dot=False):
    index = (target @ codebook.T).argmax(1) if dot else torch.cdist(target, codebook).argmin(1)
    return logits.logsumexp(dim)[index if dim == 0 else ...] - logits[torch.arange(len(index)), index]
def dot_product(*args): return _cross_entropy(*args, dot=True)
def sums_over_rows(*args): return _cross_entropy(*args, dim=0)
def overflows(logits, target, codebook):
    index = torch.cdist(target, codebook).argmin(1)
    return -(logits.exp()/logits.exp().sum(1, keepdim=True))[torch.arange(len(index)), index].log()
def codes_that_are_equal(logits, target, codebook):
    index = (target[:, None] == codebook).all(2).int().argmax(1)
    return logits.logsumexp(1) - logits[torch.arange(len(index)), index]
def mean_over_all(*args): return _cross_entropy(*args).mean()
def every_pair(logits, target, codebook):
    return -logits.log_softmax(1)[:, torch.cdist(target, codebook).argmin(1)]

def _complete(draw, tokens, known, order, start):
    tokens = tokens.clone()
    for k in range(start, len(order)): tokens[order[k]] = draw(tokens, order, k)
    return tokens
def _split(known): return known.nonzero()[:, 0], (~known).nonzero()[:, 0]
def raster_order(draw, tokens, known):
    tokens = tokens.clone()
    for k in range(len(tokens)):
        if not known[k]: tokens[k] = draw(tokens, torch.arange(len(tokens)), k)
    return tokens
def writes_over_the_known(draw, tokens, known): return _complete(draw, tokens, known, torch.cat(_split(known)), 0)
def hidden_first(draw, tokens, known):
    return _complete(draw, tokens, known, torch.cat(_split(known)[::-1]), int(known.sum()))
def one_too_late(draw, tokens, known):
    return _complete(draw, tokens, known, torch.cat(_split(known)), int(known.sum()) + 1)
def hidden_only(draw, tokens, known): return _complete(draw, tokens, known, _split(known)[1], 0)
def all_at_once(draw, tokens, known):
    order, n = torch.cat(_split(known)), int(known.sum())
    drawn = tokens.clone()
    for k in range(n, len(order)): drawn[order[k]] = draw(tokens, order, n)
    return drawn

WRONG = {'check_lowest_loss': [as_if_even, in_bits, never_per_token, mean_of_surprises, log_of_zero],
         'check_ask_in_the_list': [token_before_question, token_answers_for_itself, not_sorted_back, by_steps,
                                   questions_first, in_raster],
         'check_cross_entropy': [dot_product, sums_over_rows, overflows, mean_over_all, every_pair,
                                 codes_that_are_equal],
         'check_complete': [raster_order, writes_over_the_known, hidden_first, one_too_late, hidden_only, all_at_once]}
