"Plausible mistakes, which the checks of lesson 11 must refuse"
import torch
from marlearn.ar import take

def in_a_row(encoded, known, mask_token, N):
    B, n, D = encoded.shape
    return torch.cat([encoded, mask_token.expand(B, N - n, D)], 1)
def same_for_all(encoded, known, mask_token, N):
    out = mask_token.repeat(len(encoded), N, 1)
    out[:, known[0]] = encoded
    return out
def zeros_elsewhere(encoded, known, mask_token, N):
    B, _, D = encoded.shape
    return torch.zeros(B, N, D).scatter(1, known.unsqueeze(-1).expand(-1, -1, D), encoded)

def turns_for_places(tokens, order, n): return take(tokens, order.argsort(dim=1)[:, :n].sort(dim=1).values)
def the_hidden_ones(tokens, order, n): return take(tokens, order[:, -n:].sort(dim=1).values) if n else tokens[:, :0]
def unsorted(tokens, order, n): return take(tokens, order[:, :n])

WRONG = {'check_rows': [(64 + 205, 320, 205), (115, 256, 205), (115, 320, 256), (64 + 52, 320, 204)],
         'check_place': [in_a_row, same_for_all, zeros_elsewhere],
         'check_visible': [turns_for_places, the_hidden_ones, unsorted], 'check_autoregressive': ['a', 'b', 'C']}
