"Plausible mistakes, which the checks of lesson 20 must refuse"
import torch

def null_first(class_emb, fake): return torch.cat([fake, class_emb])
def join(class_emb, fake): return torch.cat([class_emb, fake])
def split(ours): return ours[:-1], ours[-1:]
def split_flat(ours): return ours[:-1], ours[-1]

def by_head(q, k, v, heads):
    D = len(q)
    return torch.stack([t.view(heads, D//heads, D) for t in (q, k, v)], 1).reshape(3*D, D)
def columns(q, k, v, heads): return torch.cat([q, k, v], 1).T
def transposed(q, k, v, heads): return torch.cat([q.T, k.T, v.T])

WRONG = {
    'check_slots': [320, 256, 16],
    'check_join_split': [(null_first, split), (join, split_flat), 3],
    'check_pack_qkv': [by_head, columns, transposed],
}
