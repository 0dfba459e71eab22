"Plausible mistakes, which the checks of lesson 18 must refuse"
import statistics
import torch

def forgets_modulation(M, P, W, blocks): return 2*M*(P*W + blocks*2*W*W + 2*W*W + 2*P*W)
def counts_multiplications_only(M, P, W, blocks): return M*(P*W + blocks*5*W*W + 2*W*W + 2*P*W)

def plain_loop(x, z, z_null, is_hidden, steps, scale, project, net):
    for step in range(steps):
        with_z, without = net(x, project(z), step), net(x, project(z_null), step)
        x = torch.where(is_hidden[:, None], x - .1*(without + scale*(with_z - without)), x)
    return x

def all_rows(x, z, z_null, is_hidden, steps, scale, project, net):
    c, c_null = project(z), project(z_null) if scale != 1 else None
    for step in range(steps):
        change = net(x, c, step)
        if scale != 1: change = c_null.new_tensor(scale)*change + (1 - scale)*net(x, c_null, step)
        x = torch.where(is_hidden[:, None], x - .1*change, x)
    return x

def hidden_rows(x, z, z_null, is_hidden, steps, scale, project, net, put_back=True, always_guided=False):
    drawn, c, c_null = x[is_hidden], project(z[is_hidden]), None
    if scale != 1 or always_guided: c_null = project(z_null[is_hidden])
    for step in range(steps):
        change = net(drawn, c, step)
        if c_null is not None: change = scale*change + (1 - scale)*net(drawn, c_null, step)
        drawn = drawn - .1*change
    return torch.zeros_like(x).masked_scatter(is_hidden[:, None], drawn) if put_back else drawn
def forgets_known_rows(*args): return hidden_rows(*args)
def returns_hidden_rows(*args): return hidden_rows(*args, put_back=False)
def always_guided(x, z, z_null, is_hidden, *rest):
    out = hidden_rows(x, z, z_null, is_hidden, *rest, always_guided=True)
    return torch.where(is_hidden[:, None], out, x)

def one_after_the_other(a, b, clock, rounds):
    def total(work):
        start = clock()
        for _ in range(rounds):
            work()
        return clock() - start
    a(), b()
    return total(a)/total(b)

def no_warm_up(a, b, clock, rounds):
    def once(work):
        start = clock()
        work()
        return clock() - start
    pairs = [(once(a), once(b)) for _ in range(rounds)]
    return sum(x for x, _ in pairs)/sum(y for _, y in pairs)

def upside_down(a, b, clock, rounds):
    def once(work):
        start = clock()
        work()
        return clock() - start
    once(a), once(b)
    pairs = [(once(a), once(b)) for _ in range(rounds)]
    return statistics.median(y for _, y in pairs)/statistics.median(x for x, _ in pairs)

def best_of_each(a, b, clock, rounds): # one after the other
    def once(work):
        start = clock()
        work()
        return clock() - start
    a(), b()
    return min([once(a) for _ in range(rounds)])/min([once(b) for _ in range(rounds)])

WRONG = {
    'check_head_flops': [forgets_modulation, counts_multiplications_only],
    'check_draw_tokens': [plain_loop, all_rows, forgets_known_rows, returns_hidden_rows, always_guided],
    'check_stopwatch': [best_of_each, one_after_the_other, no_warm_up, upside_down],
    # one by one, multiplied; nothing left out; the share that is left
    'check_three_changes': [1/.65/.73/.825, 1/(.7/2 + .3/10), .7*.75/2 + .3/10],
}
