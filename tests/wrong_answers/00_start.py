"Plausible mistakes, which the checks of lesson 00 must refuse"
import torch

def seeded_in_the_loop(labels, draw_one):
    return torch.stack([draw_one(label, torch.Generator().manual_seed(0)) for label in labels])

def seeded_by_class(labels, draw_one):
    return torch.stack([draw_one(label, torch.Generator().manual_seed(label)) for label in labels])

def never_the_same(labels, draw_one):
    g = torch.Generator()
    g.seed()
    return torch.stack([draw_one(label, g) for label in labels])

def in_order_of_drawing(order, counts, draw_set):
    tokens, n_known = [], 0
    for n in counts:
        tokens += draw_set(order[:n_known], order[n_known:n_known + n])
        n_known += n
    return tokens

def forgets_what_is_known(order, counts, draw_set):
    tokens = [None]*len(order)
    for n in counts:
        for place, token in zip(order[:n], draw_set([], order[:n])):
            tokens[place] = token
    return tokens

def one_at_a_time(order, counts, draw_set):
    tokens = [None]*len(order)
    for k, place in enumerate(order):
        tokens[place] = draw_set(order[:k], [place])[0]
    return tokens

def hidden_places_too(steps):
    pairs = enumerate(zip(steps, steps[1:]), 1)
    return [k for k, ((a, _), (b, new)) in pairs if any(x != y for i, (x, y) in enumerate(zip(a, b)) if i not in new)]

def compared_with_the_end(steps):
    end = steps[-1][0]
    return [k for k, (tokens, new) in enumerate(steps) if any(tokens[i] != end[i] for i in new)]

def only_what_was_drawn_first(steps):
    (_, first), *_ = steps
    pairs = enumerate(zip(steps, steps[1:]), 1)
    return [k for k, ((a, _), (b, _)) in pairs if any(a[i] != b[i] for i in first)]

def once_for_every_token(steps):
    broken, before, known = [], None, []
    for k, (tokens, new) in enumerate(steps):
        broken += [k for i in known if tokens[i] != before[i]]
        before, known = tokens, known + new
    return broken

def drawn_again_is_fine(steps):
    broken, before, known = [], None, set()
    for k, (tokens, new) in enumerate(steps):
        if any(tokens[i] != before[i] for i in known - set(new)): broken.append(k)
        before, known = tokens, known | set(new)
    return broken

WRONG = {
    'check_draw_many': [seeded_in_the_loop, seeded_by_class, never_the_same],
    'check_draw_all': [in_order_of_drawing, forgets_what_is_known, one_at_a_time],
    'check_broken_steps': [hidden_places_too, compared_with_the_end, only_what_was_drawn_first,
                            once_for_every_token, drawn_again_is_fine],
}
