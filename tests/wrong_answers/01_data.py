"Plausible mistakes, which the checks of lesson 01 must refuse"
import numpy as np

def with_replacement(n, batch_size, rng):
    return [rng.integers(n, size=min(batch_size, n - start)) for start in range(0, n, batch_size)]

def not_shuffled(n, batch_size, rng):
    return [np.arange(n)[start:start + batch_size] for start in range(0, n, batch_size)]

def shuffles_batches_only(n, batch_size, rng):
    batches = not_shuffled(n, batch_size, rng)
    return [batches[k] for k in rng.permutation(len(batches))]

def drops_the_rest(n, batch_size, rng):
    return list(rng.permutation(n)[:n//batch_size*batch_size].reshape(-1, batch_size))

def the_same_every_time(n, batch_size, rng):
    order = np.random.default_rng(0).permutation(n)
    return [order[start:start + batch_size] for start in range(0, n, batch_size)]

def an_empty_batch_at_the_end(n, batch_size, rng):
    order = rng.permutation(n)
    return [order[k*batch_size:(k + 1)*batch_size] for k in range(n//batch_size + 1)]

def as_they_were(labels, classes, new_classes): return labels
def numbered_on(labels, classes, new_classes): return labels + len(new_classes) - len(classes)
def the_other_way(labels, classes, new_classes):
    return np.array([classes.index(c) if c in classes else -1 for c in new_classes])[labels]
def names(labels, classes, new_classes): return [classes[k] for k in labels]

def wraps(images, factor): return np.clip(images*factor, 0, 255).astype(np.uint8)
def never_clips(images, factor): return (images.astype(int)*factor).astype(int).astype(np.uint8)
def stays_float(images, factor): return np.clip(images.astype(float)*factor, 0, 255)

def misses_the_last(picture, size, rng):
    C, H, W = picture.shape
    top, left = rng.integers(max(H - size, 1)), rng.integers(max(W - size, 1))
    return picture[:, top:top + size, left:left + size]

def on_the_diagonal(picture, size, rng):
    at = rng.integers(min(picture.shape[1:]) - size + 1)
    return picture[:, at:at + size, at:at + size]

def sides_swapped(picture, size, rng):
    C, W, H = picture.shape
    top, left = rng.integers(H - size + 1), rng.integers(W - size + 1)
    return picture[:, top:top + size, left:left + size]

def pushed_back_inside(picture, size, rng):
    C, H, W = picture.shape
    top, left = min(rng.integers(H), H - size), min(rng.integers(W), W - size)
    return picture[:, top:top + size, left:left + size]

def ends_half_as_often(picture, size, rng):
    C, H, W = picture.shape
    top, left = round(rng.random()*(H - size)), round(rng.random()*(W - size))
    return picture[:, top:top + size, left:left + size]

def each_channel_elsewhere(picture, size, rng):
    C, H, W = picture.shape
    places = [(rng.integers(H - size + 1), rng.integers(W - size + 1)) for _ in range(C)]
    return np.stack([picture[c, top:top + size, left:left + size] for c, (top, left) in enumerate(places)])

def stadium_box(x, y): return np.maximum(np.abs(x) - .9, np.abs(y) - .4)
def endless(x, y): return np.abs(y) - .4
def no_radius(x, y): return np.hypot(x - np.clip(x, -.5, .5), y)

WRONG = {
    'check_epoch': [with_replacement, not_shuffled, shuffles_batches_only, drops_the_rest, the_same_every_time,
                    an_empty_batch_at_the_end],
    'check_relabel': [as_they_were, numbered_on, the_other_way, names],
    'check_brighter': [wraps, never_clips, stays_float],
    'check_random_crop': [misses_the_last, on_the_diagonal, sides_swapped, pushed_back_inside, ends_half_as_often,
                          each_channel_elsewhere],
    'check_pill': [stadium_box, endless, no_radius],
}
