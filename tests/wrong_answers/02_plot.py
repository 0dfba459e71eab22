"Plausible mistakes, which the checks of lesson 02 must refuse"

def each_its_own(errors): return errors/errors.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-9)
def from_black_to_white(errors): return 2*(errors - errors.min())/(errors.max() - errors.min()).clamp(min=1e-9) - 1
def by_the_largest(errors): return errors/errors.max().clamp(min=1e-9)
def nothing_by_nothing(errors): return errors/errors.abs().max()
def only_clipped(errors): return errors.clamp(-1, 1)
def in_place(errors): return errors.div_(errors.abs().max().clamp(min=1e-9))

def by_channel(errors): return errors/errors.abs().amax((0, 2, 3), keepdim=True).clamp(min=1e-9)

def cut(x, side):
    B, C, H, W = x.shape
    return x.view(B, C, side, H//side, side, W//side)

def columns_first(before, after, side):
    return cut(before != after, side).any(5).any(3).any(1).transpose(1, 2).flatten(1)
def by_the_mean(before, after, side): return cut(after - before, side).mean((1, 3, 5)).abs().flatten(1) > 1e-6
def first_channel(before, after, side): return cut(before != after, side)[:, 0].any(4).any(2).flatten(1)
def the_unchanged(before, after, side): return cut(before == after, side).all(5).all(3).all(1).flatten(1)

def large_changes_only(before, after, side):
    return cut((before - after).abs() > .1, side).any(5).any(3).any(1).flatten(1)

def from_zero(losses, keep=0.9, average=0.0):
    curve = []
    for loss in losses:
        average = keep*average + (1 - keep)*loss
        curve.append(average)
    return curve

def window_around(losses, width=11):
    padded = [losses[0]]*(width//2) + list(losses) + [losses[-1]]*(width//2)
    return [sum(padded[i:i + width])/width for i in range(len(losses))]

def only_full_windows(losses, width=5): return [sum(losses[i:i + width])/width for i in range(len(losses) - width + 1)]
def not_at_all(losses): return losses
def of_everything_so_far(losses): return [sum(losses[:i])/i for i in range(1, len(losses) + 1)]

def from_four(losses, keep=0.9): return from_zero(losses, keep, average=4.0)

WRONG = {
    'check_to_show': [each_its_own, from_black_to_white, by_the_largest, nothing_by_nothing, only_clipped, in_place,
                      by_channel],
    'check_changed': [columns_first, by_the_mean, first_channel, the_unchanged, large_changes_only],
    'check_smooth': [from_zero, window_around, only_full_windows, not_at_all, of_everything_so_far,
                     from_four],
}
