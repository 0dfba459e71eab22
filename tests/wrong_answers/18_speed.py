"Plausible mistakes, which the checks of lesson 17 must refuse"
import statistics

def forgets_modulation(M, P, W, blocks): return 2*M*(P*W + blocks*2*W*W + 2*W*W + 2*P*W)
def counts_multiplications_only(M, P, W, blocks): return M*(P*W + blocks*5*W*W + 2*W*W + 2*P*W)

def just_the_part(p, s): return s*p + (1 - p)
def share_saved(p, s): return 1/(1 - p/s)

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

WRONG = {
    'check_head_flops': [forgets_modulation, counts_multiplications_only],
    'check_whole': [just_the_part, share_saved],
    'check_stopwatch': [one_after_the_other, no_warm_up, upside_down],
    'check_first_change': ['b', 'c', 3],
}
