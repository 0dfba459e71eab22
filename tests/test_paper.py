"Numbers of the paper (arXiv 2406.11838), computed here: mask ratio, parameters, FLOPs, tokens per step, guidance"
import math
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from marlearn.generate import guidance_at
from marlearn.mar import count_parameters, AutoregressiveModel
from marlearn.orders import cosine_counts, mask_ratio
from marlearn.engine.presets import mar_base, mar_huge, mar_large

MODELS = {'B': mar_base, 'L': mar_large, 'H': mar_huge}

def on_meta(size):
    with torch.device('meta'):
        return AutoregressiveModel(MODELS[size]().model).eval()

# --- training masks (App. B) ---

def test_mean_mask_ratio():
    "Normal distribution, mean 1, std 0.25, kept within [0.7, 1]: integrated, and in closed form"
    n = 100_000
    integrated = mask_ratio((torch.arange(n, dtype=torch.float64) + 0.5)/n).mean().item()
    def density(x): return math.exp(-x*x/2)/math.sqrt(2*math.pi)
    def mass(x): return 0.5*math.erf(x/math.sqrt(2))
    a = (0.7 - 1)/0.25
    closed = 1 + 0.25*(density(a) - density(0))/(mass(0) - mass(a))
    assert abs(integrated - closed) < 1e-6 and round(closed, 3) == 0.867

# --- sizes (Table 4) ---

@pytest.mark.parametrize('size, millions', [('B', 208), ('L', 479), ('H', 943)])
def test_parameters(size, millions):
    "The paper rounds up: 207.9, 478.3 and 942.4 million"
    assert math.ceil(count_parameters(on_meta(size))/1e6) == millions

# --- arithmetic ---

def counted(f):
    with FlopCounterMode(display=False) as counter:
        f()
    return counter.get_total_flops()

# qkv, projection, MLP; scores and mixing. A multiplication with its addition counts 2
def block_flops(D, L, ratio): return 2*L*D*D*(3 + 1 + 2*ratio) + 4*L*L*D

def backbone_flops(c, n_known):
    L, S = c.n_tokens + c.class_slots, c.class_slots
    encoder = 2*n_known*c.token_dim*c.width + c.encoder_blocks*block_flops(c.width, S + n_known, c.mlp_ratio)
    bridge = 2*(S + n_known)*c.width**2
    return encoder + bridge + c.decoder_blocks*block_flops(c.width, L, c.mlp_ratio)

def head_row_flops(c):
    "One row of the head: what all its noise levels or steps share, and what each costs"
    W, P = c.head.width, c.token_dim
    return 2*c.width*W, 2*P*W + c.head.blocks*2*(W*W + W*W + 3*W*W) + 2*2*W*W + 2*W*2*P

def time_flops(c): return 2*(256 + c.head.width)*c.head.width

def mean_known(c): return round(c.n_tokens*(1 - 0.867))

@pytest.mark.parametrize('size, giga', [('B', 75), ('L', 176), ('H', 341)])
def test_flops_of_the_backbone(size, giga):
    "One picture through encoder and decoder at the mean mask ratio, in 10^9: counted by torch and by hand"
    model = on_meta(size)
    c, n = model.config, mean_known(model.config)
    with torch.device('meta'):
        tokens, labels = torch.empty(1, c.n_tokens, c.token_dim), torch.empty(1, dtype=torch.int64)
        order = torch.empty(1, c.n_tokens, dtype=torch.int64)
    flops = counted(lambda: model.backbone(tokens, labels, order, n))
    assert flops == backbone_flops(c, n)
    assert round(flops/1e9) == giga

@pytest.mark.parametrize('size', MODELS)
def test_flops_of_the_head(size):
    head, c = on_meta(size).head, MODELS[size]().model
    M, (once, each) = 7, head_row_flops(c)
    with torch.device('meta'):
        x, z, t = torch.empty(M, c.token_dim), torch.empty(M, c.width), torch.empty(M, dtype=torch.int64)
    assert counted(lambda: head.net(x, head.net.embed_time(t), head.net.from_z(z))) == M*(once + each + time_flops(c))

def share_in_training(c, every_token=False):
    "Forward and backward cost the same multiple on both sides; rows: hidden tokens, or all as in the official code"
    rows, (once, each) = c.n_tokens if every_token else c.n_tokens - mean_known(c), head_row_flops(c)
    levels = c.head.noise_levels
    head = rows*(levels*(each + time_flops(c)) + (levels if every_token else 1)*once)
    return head/(head + backbone_flops(c, mean_known(c)))

def share_in_generation(c, K, S=100):
    "Every token goes S times through the head; the backbone runs K times with more and more known tokens"
    once, each = head_row_flops(c)
    head = c.n_tokens*(once + S*each) + K*S*time_flops(c)
    counts, backbone, known = cosine_counts(c.n_tokens, K), 0, 0
    for n in counts:
        backbone, known = backbone + backbone_flops(c, known), known + n
    return head/(head + backbone)

# training; training on all tokens; generation with K = 256 steps; with 8
SHARES = {'B': (0.45, 0.49, 0.07, 0.72), 'L': (0.42, 0.46, 0.06, 0.69), 'H': (0.44, 0.48, 0.07, 0.71)}

@pytest.mark.parametrize('size', SHARES)
def test_share_of_the_head(size):
    c = MODELS[size]().model
    in_training = share_in_training(c), share_in_training(c, every_token=True)
    in_generation = share_in_generation(c, 256), share_in_generation(c, 8)
    assert tuple(round(x, 2) for x in in_training + in_generation) == SHARES[size]

# --- generation ---

@pytest.mark.parametrize('K', [8, 16, 64, 256])
def test_tokens_per_step(K):
    "MaskGIT's cosine: after step k, floor(256 cos(pi/2 k/K)) are hidden, but each step reveals at least one"
    counts = cosine_counts(256, K)
    hidden, want = 256, []
    for k in range(1, K + 1):
        after = 0 if k == K else max(1, min(hidden - 1, math.floor(256*math.cos(math.pi/2*k/K))))
        want.append(hidden - after)
        hidden = after
    assert counts == want and sum(counts) == 256 and min(counts) >= 1
    ends = {8: [5, 15, 48, 49], 16: [2, 3, 24, 25], 64: [1, 1, 6, 6], 256: [1, 1, 1, 1]}
    assert counts[:2] + counts[-2:] == ends[K]

@pytest.mark.parametrize('s', [2.9, 3.0, 3.2])
def test_guidance_ramp(s):
    "A straight line in the share of known tokens, from 1 towards the scale; the last step stays one token short of it"
    known = torch.tensor(cosine_counts(256, 64)).cumsum(0)
    ramp = [guidance_at(s, 256 - n, 256) for n in known.tolist()]
    assert all(math.isclose(r, 1 + (s - 1)*min(n, 255)/256) for r, n in zip(ramp, known.tolist()))
    assert ramp == sorted(ramp) and 1 < ramp[0] < 1.02 and math.isclose(ramp[-1], s - (s - 1)/256)
