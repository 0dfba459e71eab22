"Plausible mistakes, which the checks of lesson 19 must refuse"

def plain_mean(gradients, sizes): return sum(gradients)/len(gradients)
def nan_stays(gradients, sizes): return sum(n*g for g, n in zip(gradients, sizes))/sum(sizes)
def the_sum(gradients, sizes): return sum(n*g for g, n in zip(gradients, sizes) if n)

def from_rank_0(sums):
    away = (sums - sums[:, :1]).abs() > 1e-5
    rank = away[-1].int().argmax().item()
    return rank, away[:, rank].int().argmax().item()

def largest_sum(sums):
    rank = sums[-1].argmax().item()
    return rank, (sums[:, rank] - sums.median(dim=1).values).abs().gt(1e-5).int().argmax().item()

def one_too_late(sums):
    away = (sums - sums.median(dim=1, keepdim=True).values).abs() > 1e-5
    rank = away.any(0).int().argmax().item()
    return rank, away[:, rank].int().argmax().item() + 1

def rounding_counts(sums):
    away = sums != sums.median(dim=1, keepdim=True).values
    rank = away.sum(0).argmax().item()
    return rank, away[:, rank].int().argmax().item()

WRONG = {
    # at full peak; on one GPU; in hours
    'check_days': [1.2e21/(8*312e12)/86400, 1.2e21/(312e12*.2)/86400, 1.2e21/(8*312e12*.2)/3600],
    # no average; nothing in pieces; weights only
    'check_held': [(7e9*16/1e9, 7e9*16/16/1e9), (7e9*20/1e9, 7e9*20/1e9), (7e9*4/1e9, 7e9*4/16/1e9)],
    'check_shared_gradient': [plain_mean, nan_stays, the_sum],
    'check_find_deaf': [from_rank_0, largest_sum, one_too_late, rounding_counts],
}
