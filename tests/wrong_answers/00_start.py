"Plausible mistakes, which the checks of lesson 00 must refuse"

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

WRONG = {
    'check_left': [5, 11, 13],
    'check_draw_all': [in_order_of_drawing, forgets_what_is_known, one_at_a_time],
    'check_knob': ['a', 'c', 'd'],
}
