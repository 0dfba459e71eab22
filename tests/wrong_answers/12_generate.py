"Plausible mistakes, which the checks of lesson 12 must refuse"
import torch

def before_the_step(s, N, counts):
    known, out = 0, []
    for n in counts:
        out.append(1 + (s - 1)*min(1, 2*known/N))
        known += n
    return out
def never_stays(s, N, counts):
    known, out = 0, []
    for n in counts:
        known += n
        out.append(1 + (s - 1)*2*known/N)
    return out
def by_steps(s, N, counts): return [1 + (s - 1)*min(1, 2*(k + 1)/len(counts)) for k in range(len(counts))]
def begins_at_zero(s, N, counts):
    known, out = 0, []
    for n in counts:
        known += n
        out.append(s*min(1, 2*known/N))
    return out

def loop(think, draw, order, counts, scales, N, P, always=False, by_turn=False, once=False):
    tokens, n_known = torch.zeros(N, P), 0
    for n_new, scale in zip(counts, scales):
        new = order[n_known:n_known + n_new]
        if not once or n_known == 0:
            z_all = think(tokens, order, n_known, True)
        z, z_uncond = z_all[new], None
        if scale != 1 or always:
            z_uncond = think(tokens, order, n_known, False)[new]
        rows = torch.arange(n_known, n_known + n_new) if by_turn else new
        tokens[rows] = draw(z, z_uncond, scale)
        n_known += n_new
    return tokens
def asks_always(*args): return loop(*args, always=True)
def puts_by_turn(*args): return loop(*args, by_turn=True)
def thinks_once(*args): return loop(*args, once=True)
def forgets_the_null_class(think, draw, order, counts, scales, N, P):
    return loop(think, draw, order, counts, [1]*len(counts), N, P)
def asks_too_late(think, draw, order, counts, scales, N, P): # counts on before it asks
    tokens, n_known = torch.zeros(N, P), 0
    for n_new, scale in zip(counts, scales):
        new = order[n_known:n_known + n_new]
        n_known += n_new
        z = think(tokens, order, n_known, True)[new]
        tokens[new] = draw(z, None if scale == 1 else think(tokens, order, n_known, False)[new], scale)
    return tokens
def branches_swapped(think, draw, *args): # pushes away from the class
    def swapped(z, null, scale): return draw(z, None, scale) if null is None else draw(null, z, scale)
    return loop(think, swapped, *args)

def follows_the_order(think, draw, tokens, hidden, order): # the planted bug
    tokens = tokens.clone()
    for n_known, i in enumerate(order):
        if hidden[i]:
            tokens[i] = draw(think(tokens, order, n_known)[i])
    return tokens
def by_place(think, draw, tokens, hidden, order): # `hidden` indexed by turn
    tokens, order = tokens.clone(), torch.cat([order[~hidden], order[hidden]])
    for n_known in range(int((~hidden).sum()), len(order)):
        tokens[order[n_known]] = draw(think(tokens, order, n_known)[order[n_known]])
    return tokens
def begins_with_nothing(think, draw, tokens, hidden, order): # known first, but counted from 0
    tokens, late = tokens.clone(), hidden[order]
    order = torch.cat([order[~late], order[late]])
    for n_known, i in enumerate(order):
        if hidden[i]:
            tokens[i] = draw(think(tokens, order, n_known - int((~hidden).sum()))[i])
    return tokens
def draws_all_again(think, draw, tokens, hidden, order):
    tokens, late = tokens.clone(), hidden[order]
    order = torch.cat([order[~late], order[late]])
    for n_known, i in enumerate(order):
        tokens[i] = draw(think(tokens, order, n_known)[i])
    return tokens
def hidden_first(think, draw, tokens, hidden, order):
    tokens, late = tokens.clone(), hidden[order]
    order = torch.cat([order[late], order[~late]])
    for n_known in range(int(late.sum())):
        tokens[order[n_known]] = draw(think(tokens, order, n_known)[order[n_known]])
    return tokens

WRONG = {'check_calls': [16, 32.5, 800, 1600],
         'check_early_scales': [before_the_step, never_stays, by_steps, begins_at_zero],
         'check_write_one': [asks_always, puts_by_turn, thinks_once, forgets_the_null_class, asks_too_late,
                             branches_swapped],
         'check_complete_one': [follows_the_order, by_place, begins_with_nothing, draws_all_again, hidden_first]}
