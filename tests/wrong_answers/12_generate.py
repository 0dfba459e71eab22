"Plausible mistakes, which the checks of lesson 12 must refuse"
import torch

def before_the_step(s, N, counts):
    known, out = 0, []
    for n in counts:
        out.append(1 + (s - 1)*known/N)
        known += n
    return out
def reaches_the_end(s, N, counts):
    known, out = 0, []
    for n in counts:
        known += n
        out.append(1 + (s - 1)*known/N)
    return out
def by_steps(s, N, counts): return [1 + (s - 1)*(k + 1)/len(counts) for k in range(len(counts))]

def by_place(order, hidden): return torch.cat([order[~hidden], order[hidden]])
def hidden_first(order, hidden):
    late = hidden[order]
    return torch.cat([order[late], order[~late]])
def sorted_groups(order, hidden): return torch.cat([(~hidden).nonzero()[:, 0], hidden.nonzero()[:, 0]])

def thinks_once(think, draw, order, N, P):
    tokens = torch.zeros(N, P)
    z = think(tokens, order, 0)
    for i in order:
        tokens[i] = draw(z[i])
    return tokens
def never_knows(think, draw, order, N, P):
    tokens = torch.zeros(N, P)
    for i in order:
        tokens[i] = draw(think(tokens, order, 0)[i])
    return tokens
def wrong_place(think, draw, order, N, P):
    tokens = torch.zeros(N, P)
    for k, i in enumerate(order):
        tokens[k] = draw(think(tokens, order, k)[k])
    return tokens

WRONG = {'check_scales': [before_the_step, reaches_the_end, by_steps],
         'check_known_before_hidden': [by_place, hidden_first, sorted_groups], 'check_calls': [16, 800, 1600],
         'check_write': [thinks_once, never_knows, wrong_place]}
