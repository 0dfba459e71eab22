"Plausible mistakes, which the checks of lesson 05 must refuse"
from marlearn.tokenizers import patchify

def channels_first(grid, patch): return patchify(grid, patch)
def no_permutation(grid, patch): return grid.reshape(grid.shape[0], -1, grid.shape[1]*patch*patch)
def columns_first(grid, patch):
    B, C, H, W = grid.shape
    return grid.reshape(B, C, H//patch, patch, W//patch, patch).permute(0, 4, 2, 3, 5, 1).reshape(B, -1, patch*patch*C)

def by_batch(latents, scale): return latents/latents.std()
def divides(latents, scale): return latents/scale
def by_picture(latents, scale): return latents/latents.flatten(1).std(1).view(-1, 1, 1)

WRONG = {
    'check_n_and_p': [(1024, 4), (256, 4), (16, 256)],
    'check_cut': [channels_first, no_permutation, columns_first],
    'check_encode': [by_batch, divides, by_picture],
    'check_wrong_scale': ['a', 'c', 'B'],
}
