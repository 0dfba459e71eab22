"Plausible mistakes, which the checks of lesson 11 must refuse"
import torch
from marlearn.ar import take

def all_tokens(backbone, head_loss, tokens, mask):
    return head_loss(backbone(tokens).flatten(0, 1), tokens.flatten(0, 1)).mean()
def the_known_ones(backbone, head_loss, tokens, mask): return head_loss(backbone(tokens)[~mask], tokens[~mask]).mean()
def over_all_places(backbone, head_loss, tokens, mask): # the right rows, divided by B*N
    return head_loss(backbone(tokens)[mask], tokens[mask]).sum()/mask.numel()
def mean_of_means(backbone, head_loss, tokens, mask): # every picture counts the same
    losses, image = head_loss(backbone(tokens)[mask], tokens[mask]), mask.nonzero()[:, 0]
    return torch.stack([losses[image == b].mean() for b in range(len(tokens))]).mean()
def known_wiped_out(backbone, head_loss, tokens, mask): # zeros are still rows
    z = backbone(tokens)*mask.unsqueeze(-1)
    return head_loss(z.flatten(0, 1), (tokens*mask.unsqueeze(-1)).flatten(0, 1)).sum()/mask.sum()

def by_turn(order, n_known, causal): # a triangle of places: right for raster order only
    N = len(order)
    if causal: return torch.ones(N, N, dtype=torch.bool).triu(1)
    return (torch.arange(N) < n_known)[:, None].expand(N, N)
def order_for_turns(order, n_known, causal):
    if causal: return order[:, None] < order[None, :]
    return (order < n_known)[:, None].expand(len(order), len(order))
def own_token_too(order, n_known, causal):
    turn = order.argsort()
    if causal: return turn[:, None] <= turn[None, :]
    return (turn < n_known)[:, None].expand(len(order), len(order))
def transposed(order, n_known, causal):
    turn = order.argsort()
    if causal: return turn[:, None] > turn[None, :]
    return (turn < n_known)[None, :].expand(len(order), len(order))
def hidden_places_only(order, n_known, causal): # z of known places moves, too
    turn = order.argsort()
    if causal: return turn[:, None] < turn[None, :]
    return (turn < n_known)[:, None] & (turn >= n_known)[None, :]

def mean_of_all(tokens, order, n): return take(tokens - tokens.mean(1, keepdim=True), order[:, :n]) # the planted leak
def mean_of_hidden(tokens, order, n):
    return take(tokens, order[:, :n]) - take(tokens, order[:, n:]).mean(1, keepdim=True)
def mean_of_the_batch(tokens, order, n):
    known = take(tokens, order[:, :n])
    return known - known.mean((0, 1), keepdim=True)
def mean_of_each_token(tokens, order, n):
    known = take(tokens, order[:, :n])
    return known - known.mean(2, keepdim=True)

WRONG = {'check_rows': [(), (115, 320), (115, 320, 205, 205),
                        (64 + 205, 320, 205), (115, 256, 205), (115, 320, 256), (64 + 52, 320, 204)],
         'check_masked_loss': [all_tokens, the_known_ones, over_all_places, mean_of_means, known_wiped_out],
         'check_may_move': [by_turn, order_for_turns, own_token_too, transposed, hidden_places_only],
         'check_centred': [mean_of_all, mean_of_hidden, mean_of_the_batch, mean_of_each_token]}
