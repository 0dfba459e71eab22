"Plausible mistakes, which the checks of lesson 06 must refuse"
import math, torch
from marlearn.transformer import KVCache

def _attend(q, k, v, lengths, dim=-1, scale=None, extra=0, after=False):
    scores = q @ k.transpose(1, 2)/math.sqrt(scale or q.shape[-1])
    padding = torch.arange(k.shape[1]) >= lengths[:, None, None] + extra
    if after: return scores.softmax(dim).masked_fill(padding, 0.) @ v
    return scores.masked_fill(padding, -math.inf).softmax(dim) @ v
def wrong_axis(q, k, v, lengths): return _attend(q, k, v, lengths, dim=1)
def root_of_rows(q, k, v, lengths): return _attend(q, k, v, lengths, scale=k.shape[1])
def one_row_too_many(q, k, v, lengths): return _attend(q, k, v, lengths, extra=1)
def zeroed_weights(q, k, v, lengths): return _attend(q, k, v, lengths, after=True)
def as_it_was(q, k, v, lengths): return _attend(q, k, v, lengths, dim=1, scale=k.shape[1], extra=1, after=True)
def zeroed_keys(q, k, v, lengths):
    real = torch.arange(k.shape[1]) < lengths[:, None]
    return _attend(q, k*real[..., None], v*real[..., None], torch.full_like(lengths, k.shape[1]))

def own_row(L): return 20*math.sqrt(L)*torch.eye(L), torch.eye(L)
def next_row(L): return 20*math.sqrt(L)*torch.eye(L).roll(-1, 0), torch.eye(L)
def around_the_corner(L): return 20*math.sqrt(L)*torch.eye(L).roll(1, 0), torch.eye(L)
def too_soft(L): return torch.eye(L)[[0, *range(L - 1)]], torch.eye(L)

def sum_of_a_row(f, x):
    x = x.requires_grad_()
    rows = [torch.autograd.grad(row.sum(), x, retain_graph=True)[0][0] for row in f(x)[0]]
    return torch.stack([(g != 0).any(-1) for g in rows])
def transposed(f, x): return _sees(f, x).T
def changed_and_run_again(f, x):
    before, columns = f(x), []
    for j in range(x.shape[1]):
        changed = x.clone()
        changed[:, j] += 1
        columns.append((f(changed) != before).any(-1)[0])
    return torch.stack(columns, dim=1)
def last_row_only(f, x): return _sees(f, x) & (torch.arange(x.shape[1]) == x.shape[1] - 1)[:, None]
def never(f, x): return torch.zeros(x.shape[1], x.shape[1], dtype=torch.bool)
def _sees(f, x):
    x = x.requires_grad_()
    rows = [torch.autograd.grad(row.pow(3).sum() + row[0], x, retain_graph=True)[0][0] for row in f(x)[0]]
    return torch.stack([(g != 0).any(-1) for g in rows])

def one_place_ahead(block, first, positions, cache):
    rows = [first]
    for position in positions[1:]:
        rows.append(block((rows[-1] + position)[:, None], cache)[:, 0])
    return torch.stack(rows, dim=1)
def always_the_first_place(block, first, positions, cache):
    rows = [first]
    for _ in positions[1:]:
        rows.append(block((rows[-1] + positions[0])[:, None], cache)[:, 0])
    return torch.stack(rows, dim=1)
def forgets(block, first, positions, cache):
    rows = [first]
    for position in positions[:-1]:
        rows.append(block((rows[-1] + position)[:, None], KVCache(len(first), 1))[:, 0])
    return torch.stack(rows, dim=1)
def no_cache(block, first, positions, cache):
    rows = first[:, None]
    while rows.shape[1] < len(positions):
        rows = torch.cat([rows, block(rows + positions[:rows.shape[1]])[:, -1:]], dim=1)
    return rows
def all_rows_again(block, first, positions, cache):
    rows = first[:, None]
    while rows.shape[1] < len(positions):
        rows = torch.cat([rows, block(rows + positions[:rows.shape[1]], cache)[:, -1:]], dim=1)
    return rows

WRONG = {'check_attend': [wrong_axis, root_of_rows, one_row_too_many, zeroed_weights, as_it_was, zeroed_keys],
         'check_previous_row': [own_row, next_row, around_the_corner, too_soft],
         'check_sees': [sum_of_a_row, transposed, last_row_only, never, changed_and_run_again],
         'check_write_rows': [one_place_ahead, always_the_first_place, forgets, no_cache, all_rows_again]}
