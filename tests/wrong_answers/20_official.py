"Plausible mistakes, which the checks of lesson 20 must refuse"
import torch

def null_first(class_emb, fake): return torch.cat([fake, class_emb])
def join(class_emb, fake): return torch.cat([class_emb, fake])
def split(ours): return ours[:-1], ours[-1:]
def split_flat(ours): return ours[:-1], ours[-1]

def wrong_names(ours, state):
    different = [f'unexpected: {name}' for name in state if name not in ours]
    different += [f'missing: {name}' for name in ours if name not in state]
    return different + [f'shape: {name}' for name in ours if name in state and state[name].shape != ours[name].shape]

def not_strict(ours, state):
    for name in ours.keys() & state.keys():
        ours[name].copy_(state[name])
def stops_at_the_first(ours, state):
    wrong = wrong_names(ours, state)
    if wrong: raise ValueError(wrong[0])
    for name in ours:
        ours[name].copy_(state[name])
def copies_on_the_way(ours, state):
    wrong = wrong_names(ours, state)
    for name in ours:
        if name in state and state[name].shape == ours[name].shape: ours[name].copy_(state[name])
    if wrong: raise ValueError(', '.join(wrong))
def trusts_copy(ours, state):
    wrong = [name for name in ours.keys() ^ state.keys()]
    if wrong: raise ValueError(', '.join(wrong))
    for name in ours:
        ours[name].copy_(state[name])
def does_not_mind_spares(ours, state):
    wrong = [w for w in wrong_names(ours, state) if not w.startswith('unexpected')]
    if wrong: raise ValueError(', '.join(wrong))
    for name in ours:
        ours[name].copy_(state[name])
def puts_others_in_their_place(ours, state):
    wrong = wrong_names(ours, state)
    if wrong: raise ValueError(', '.join(wrong))
    ours.update(state)

def by_head(q, k, v, heads):
    D = len(q)
    return torch.stack([t.view(heads, D//heads, D) for t in (q, k, v)], 1).reshape(3*D, D)
def columns(q, k, v, heads): return torch.cat([q, k, v], 1).T
def transposed(q, k, v, heads): return torch.cat([q.T, k.T, v.T])

def absolute(ours, theirs, tol):
    return next((k for k, (a, b) in enumerate(zip(ours, theirs)) if (a - b).abs().max() > tol), None)
def nan_passes(ours, theirs, tol):
    return next((k for k, (a, b) in enumerate(zip(ours, theirs)) if (a - b).abs().max() > tol*b.abs().max()), None)
def without_abs(ours, theirs, tol):
    return next((k for k, (a, b) in enumerate(zip(ours, theirs)) if not (a - b).max() <= tol*b.max()), None)
def the_worst(ours, theirs, tol):
    off = [((a - b).abs().max()/b.abs().max()).nan_to_num(9.).item() for a, b in zip(ours, theirs)]
    return off.index(max(off)) if max(off) > tol else None
def the_last(ours, theirs, tol):
    off = [k for k, (a, b) in enumerate(zip(ours, theirs)) if not (a - b).abs().max() <= tol*b.abs().max()]
    return off[-1] if off else None

def shares_memory(ours, state):
    wrong = wrong_names(ours, state)
    if wrong: raise ValueError(', '.join(wrong))
    for name in ours:
        ours[name].data = state[name]

def columns_reversed(q, k, v, heads): return torch.cat([q.flip(1), k.flip(1), v.flip(1)])

def each_by_itself(ours, theirs, tol):
    return next((k for k, (a, b) in enumerate(zip(ours, theirs)) if not torch.allclose(a, b, rtol=tol, atol=0)), None)
def on_average(ours, theirs, tol):
    return next((k for k, (a, b) in enumerate(zip(ours, theirs))
                 if not (a - b).abs().mean() <= tol*b.abs().mean()), None)
def largest_positive(ours, theirs, tol):
    return next((k for k, (a, b) in enumerate(zip(ours, theirs)) if not (a - b).abs().max() <= tol*b.max()), None)

WRONG = {
    'check_join_split': [(null_first, split), (join, split_flat), 3],
    'check_load': [not_strict, stops_at_the_first, copies_on_the_way, trusts_copy, does_not_mind_spares,
                   puts_others_in_their_place, shares_memory],
    'check_pack_qkv': [columns_reversed, by_head, columns, transposed],
    'check_first_wrong': [absolute, nan_passes, without_abs, the_last, each_by_itself, on_average, largest_positive],
}
