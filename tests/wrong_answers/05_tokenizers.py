"Plausible mistakes, which the checks of lesson 05 must refuse"
import torch
from torch.nn import functional as F
from marlearn.tokenizers import patchify, Tokenizer, unpatchify

def only_order(tokens, patch, grid): return tokens.unflatten(1, grid).flip(2).flatten(1, 2)
def upside_down(tokens, patch, grid): return patchify(unpatchify(tokens, patch, grid).flip(2), patch)
def all_reversed(tokens, patch, grid): return tokens.flip(1).flip(2)
def only_inside(tokens, patch, grid): return tokens.unflatten(2, (-1, patch)).flip(3).flatten(2)

def channels_first(grid, patch): return patchify(grid, patch)
def no_permutation(grid, patch): return grid.reshape(grid.shape[0], -1, grid.shape[1]*patch*patch)
def columns_first(grid, patch):
    B, C, H, W = grid.shape
    return grid.reshape(B, C, H//patch, patch, W//patch, patch).permute(0, 4, 2, 3, 5, 1).reshape(B, -1, patch*patch*C)

class Average(Tokenizer):
    kind, stride, channels, img_channels = 'average', 4, 3, 3
    def moments(self, images): return self._cut(F.avg_pool2d(images, 4)*self.scale), None
    def decode(self, tokens, grid=None): return F.interpolate(self._cells(tokens, grid)/self.scale, scale_factor=4)
class ScaleNotUndone(Average):
    def decode(self, tokens, grid=None): return F.interpolate(self._cells(tokens, grid), scale_factor=4)
class SquaresOnly(Average):
    def decode(self, tokens, grid=None): return super().decode(tokens)
class NoPatch(Average):
    def moments(self, images): return patchify(F.avg_pool2d(images, 4)*self.scale, 1), None
class NoScale(Average):
    def moments(self, images): return self._cut(F.avg_pool2d(images, 4)), None
    def decode(self, tokens, grid=None): return F.interpolate(self._cells(tokens, grid), scale_factor=4)
class OneForStd(Average):
    def moments(self, images): return super().moments(images)[0], torch.ones(())
class Smoothed(Average):
    def decode(self, tokens, grid=None):
        return F.interpolate(self._cells(tokens, grid)/self.scale, scale_factor=4, mode='bilinear')

def mean_of_stds(batches): return 1/torch.stack([b.std() for b in batches]).mean().item()
def mean_of_variances(batches): return torch.stack([b.var() for b in batches]).mean().item()**-.5
def about_zero(batches):
    n, s = 0, 0.
    for b in batches:
        n, s = n + b.numel(), s + b.square().sum().item()
    return (s/n)**-.5
def last_one(batches):
    for b in batches: pass
    return 1/b.std().item()
def the_std(batches): return torch.cat([b.flatten() for b in batches]).std().item()

WRONG = {
    'check_mirror': [only_order, upside_down, all_reversed, only_inside],
    'check_cut': [channels_first, no_permutation, columns_first],
    'check_average': [ScaleNotUndone, SquaresOnly, NoPatch, NoScale, OneForStd, Smoothed],
    'check_scale_of': [mean_of_stds, mean_of_variances, about_zero, last_one, the_std],
}
