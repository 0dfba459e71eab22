"""How many floating-point operations a step needs, counted on paper: a matrix product of (m, k) and (k, n) is 2mkn, all else is left out

Only what the algorithm cannot do without is counted: the head on hidden tokens, z projected once, and no work twice."""
from marlearn.mar import ModelConfig
from marlearn.orders import make_counts

def linear(rows, inputs, outputs): return 2*rows*inputs*outputs

def block(c:ModelConfig, B, L, queries=None):
    "A transformer block over B lists of L rows, of which `queries` are asked for"
    Q, D = L if queries is None else queries, c.width
    return B*(linear(L, D, 3*D) + 2*2*Q*L*D + linear(Q, D, D) + 2*linear(Q, D, int(c.mlp_ratio*D)))

def backbone(c:ModelConfig, B, n_known, queries=None):
    "Encoder on class slots and known tokens, decoder on all; `queries`: rows that the last block must answer for"
    S, N, D = c.class_slots, c.n_tokens, c.width
    encoder = linear(B*n_known, c.token_dim, D) + c.encoder_blocks*block(c, B, S + n_known)
    decoder = linear(B*(S + n_known), D, D) + (c.decoder_blocks - 1)*block(c, B, S + N) + block(c, B, S + N, queries)
    return encoder + decoder

def head_call(c:ModelConfig, M):
    "The denoising network on M rows, their conditions given"
    W, P = c.head.width, c.token_dim
    return linear(M, P, W) + c.head.blocks*(linear(M, W, 3*W) + 2*linear(M, W, W)) + linear(M, W, 2*W) + linear(M, W, 2*P)

def head_times(c:ModelConfig, T):
    "Conditions for T noise levels"
    return linear(T, 256, c.head.width) + linear(T, c.head.width, c.head.width)

def training(c:ModelConfig, B, n_known):
    "A step: forward, and twice that for the gradients, except that nobody asks how tokens, noise and sinusoids should change"
    M, L, T = B*(c.n_tokens - n_known), c.head.noise_levels, c.head.train_steps
    forward = backbone(c, B, n_known, c.n_tokens - n_known) + linear(M, c.width, c.head.width) + head_times(c, min(L*M, T)) + head_call(c, L*M)
    inputs = linear(B*n_known, c.token_dim, c.width) + linear(L*M, c.token_dim, c.head.width) + linear(min(L*M, T), 256, c.head.width)
    return 3*forward - inputs

def generation(c:ModelConfig, B, ar_steps, diff_steps, guided, plain=False):
    "B pictures: every step of the backbone, and `diff_steps` calls of the head for every token. `plain`: with the work that is not necessary"
    total, n_known, rows = 0, 0, B*(1 + guided)
    for n_new in make_counts('cosine', c.n_tokens, ar_steps):
        M = rows*n_new
        conditions = linear(M, c.width, c.head.width)
        total += backbone(c, rows, n_known, None if plain else n_new) + diff_steps*head_call(c, M)
        total += diff_steps*(conditions + head_times(c, M)) if plain else conditions
        n_known += n_new
    return total + (0 if plain else head_times(c, diff_steps))
