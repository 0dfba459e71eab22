"Plausible mistakes, which the checks of lesson 04 must refuse"
import torch

def nearest_rows(codes, use, batch, below):                   # sorts the wrong way
    order = torch.cdist(batch, codes).min(1).values.argsort()
    dead, new = (use < below).nonzero().flatten(), codes.clone()
    new[dead] = batch[order[:len(dead)]]
    return new
def all_onto_one(codes, use, batch, below):
    worst = torch.cdist(batch, codes).min(1).values.argmax()
    return torch.where((use < below)[:, None], batch[worst], codes)
def far_from_all(codes, use, batch, below):                   # mean distance to all codes, not to the nearest
    order = torch.cdist(batch, codes).mean(1).argsort(descending=True)
    dead, new = (use < below).nonzero().flatten(), codes.clone()
    new[dead] = batch[order[:len(dead)]]
    return new
def changes_its_input(codes, use, batch, below):
    order = torch.cdist(batch, codes).min(1).values.argsort(descending=True)
    dead = (use < below).nonzero().flatten()
    codes[dead] = batch[order[:len(dead)]]
    return codes

def just_rounded(latents, levels): return (latents.tanh()*(levels - 1)/2).round()
def slope_of_one(latents, levels): return latents + ((latents.tanh()*(levels - 1)/2).round() - latents).detach()
def a_level_too_many(latents, levels):
    smooth = latents.tanh()*levels/2
    return smooth + (smooth.round() - smooth).detach()
def not_rounded(latents, levels): return latents.tanh()*(levels - 1)/2

def never_subtracts(latents, codebook, depth):
    indices = torch.cdist(latents, codebook).argmin(1)[:, None].expand(-1, depth)
    return indices, codebook[indices].sum(1)
def what_is_left(latents, codebook, depth):
    rest, indices = latents, []
    for _ in range(depth):
        indices.append(torch.cdist(rest, codebook).argmin(1))
        rest = rest - codebook[indices[-1]]
    return torch.stack(indices, 1), rest
def last_code_only(latents, codebook, depth):
    rest, indices = latents, []
    for _ in range(depth):
        indices.append(torch.cdist(rest, codebook).argmin(1))
        rest = rest - codebook[indices[-1]]
    return torch.stack(indices, 1), codebook[indices[-1]]

WRONG = {
    'check_long_list': [96, 2**16, 2**6144],
    'check_revive_worst': [nearest_rows, all_onto_one, far_from_all, changes_its_input],
    'check_round_through': [just_rounded, slope_of_one, a_level_too_many, not_rounded],
    'check_residual': [never_subtracts, what_is_left, last_code_only],
}
