"Plausible mistakes, which the checks of lesson 19 must refuse"
import torch

def rounded_down(pictures, shard_size, rank, world_size, done):
    return [k for k in range(rank, pictures//shard_size, world_size) if k not in done]
def one_too_many(pictures, shard_size, rank, world_size, done):
    return [k for k in range(rank, pictures//shard_size + 1, world_size) if k not in done]
def deals_the_rest(pictures, shard_size, rank, world_size, done): # two that look at two moments write the same
    return [k for k in range(-(-pictures//shard_size)) if k not in done][rank::world_size]
def in_blocks(pictures, shard_size, rank, world_size, done):
    each = -(-(-(-pictures//shard_size))//world_size)
    return [k for k in range(rank*each, min((rank + 1)*each, -(-pictures//shard_size))) if k not in done]
def all_anew(pictures, shard_size, rank, world_size, done):
    return list(range(rank, -(-pictures//shard_size), world_size))

def orders(n, seed):
    g = torch.Generator().manual_seed(seed)
    while True:
        yield torch.randperm(n, generator=g)
def starts_anew(n, batch_size, seed, first_step):
    for order in orders(n, seed):
        yield from order.split(batch_size)
def another_seed(n, batch_size, seed, first_step):
    for order in orders(n, seed + first_step):
        yield from order.split(batch_size)
def order_of_epoch_0(n, batch_size, seed, first_step):
    skip = first_step % (n//batch_size)
    for order in orders(n, seed):
        yield from order.split(batch_size)[skip:]
        skip = 0
def one_order_for_all(n, batch_size, seed, first_step):
    order, step = next(orders(n, seed)), first_step
    while True:
        yield order.split(batch_size)[step % (n//batch_size)]
        step += 1
def whole_epochs_only(n, batch_size, seed, first_step):
    for epoch, order in enumerate(orders(n, seed)):
        if epoch >= first_step//(n//batch_size):
            yield from order.split(batch_size)
def one_too_far(n, batch_size, seed, first_step):
    step = 0
    for order in orders(n, seed):
        for rows in order.split(batch_size):
            step += 1
            if step > first_step + (first_step > 0): yield rows
def ends(n, batch_size, seed, first_step):
    yield from next(orders(n, seed)).split(batch_size)

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

def seed_plus_epoch(n, batch_size, seed, first_step): # seed 1 begins as seed 0 goes on
    step = first_step
    while True:
        epoch, k = divmod(step, n//batch_size)
        yield next(orders(n, seed + epoch)).split(batch_size)[k]
        step += 1

WRONG = {
    'check_my_shards': [rounded_down, one_too_many, deals_the_rest, in_blocks, all_anew],
    'check_batches': [seed_plus_epoch,
                      starts_anew, another_seed, order_of_epoch_0, one_order_for_all, whole_epochs_only, one_too_far,
                      ends],
    # the plan's own advice; weights alone in pieces; whole weights; too few pictures at a time; another batch; another
    # model; no such option; no whole number of pictures; a shorter run
    'check_flags': ['--train.accumulate 16 --train.recompute', '--shard', '--train.accumulate 16',
                    '--shard --train.accumulate 32', '--shard --train.batch-size 128',
                    '--shard --preset mar-l-imagenet256 --train.accumulate 16', '--shard --accumulate 16',
                    '--shard --train.accumulate 12', '--shard --train.accumulate 16 --train.steps 400000'],
    'check_find_deaf': [from_rank_0, largest_sum, one_too_late, rounding_counts],
}
