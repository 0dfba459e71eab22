"Attention, block and key-value cache"
import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close
from marlearn.transformer import Attention, Block, init_linear_layers, KVCache, MLP

def stirred(module, seed=0, size=0.1):
    "Nothing left at its quiet start, so that every number matters"
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(size*torch.randn(p.shape, generator=noise))
    return module.eval()

def make_block(**options):
    torch.manual_seed(0)
    return stirred(Block(24, heads=3, **options))

@pytest.fixture
def x(g): return torch.randn(2, 12, 24, generator=g)

def written_out(attn, x, forbidden=None):
    "Attention as the paper writes it, in double precision"
    B, L, D = x.shape
    q, k, v = attn.qkv(x).view(B, L, 3, attn.heads, D//attn.heads).permute(2, 0, 3, 1, 4)
    scores = q @ k.transpose(-1, -2)/(D//attn.heads)**.5
    if forbidden is not None:
        scores = scores.masked_fill(forbidden, -torch.inf)
    return attn.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(B, L, D))

@pytest.mark.parametrize('causal', [False, True])
def test_attention_is_the_formula(x, causal):
    attn, x = make_block(causal=causal).attn.double(), x.double()
    future = torch.ones(12, 12, dtype=torch.bool).triu(1) if causal else None
    assert_close(attn(x), written_out(attn, x, future), rtol=1e-10, atol=1e-10)

@pytest.mark.parametrize('causal', [False, True])
def test_gradients_are_those_of_the_formula(x, causal):
    attn = make_block(causal=causal).attn.double()
    future = torch.ones(12, 12, dtype=torch.bool).triu(1) if causal else None
    found = []
    for f in (attn, lambda x: written_out(attn, x, future)):
        rows = x.double().requires_grad_()
        found.append(torch.autograd.grad(f(rows).pow(3).sum(), [rows, *attn.parameters()]))
    for ours, exact in zip(*found):
        assert_close(ours, exact, rtol=1e-8, atol=1e-8)

def test_block_adds_to_the_stream(x):
    block = make_block()
    h = x + block.attn(F.layer_norm(x, (24,), block.norm1.weight, block.norm1.bias, 1e-6))
    u = block.mlp.up(F.layer_norm(h, (24,), block.norm2.weight, block.norm2.bias, 1e-6))
    assert_close(block(x), h + block.mlp.down(u*torch.special.ndtr(u)), rtol=1e-5, atol=1e-5)

def test_names_of_weights():
    "Checkpoints carry them"
    layers = ('norm1', 'attn.qkv', 'attn.proj', 'norm2', 'mlp.up', 'mlp.down')
    assert list(make_block().state_dict()) == [f'{layer}.{part}' for layer in layers for part in ('weight', 'bias')]

@pytest.mark.parametrize('cuts', [[12], [1]*12, [5, 1, 4, 2], [1, 11], [11, 1]])
def test_with_cache_equals_without(x, cuts):
    block, cache = make_block(causal=True), KVCache(2, 12)
    pieces, lengths = [], []
    for piece in x.split(cuts, dim=1):
        pieces.append(block(piece, cache))
        lengths.append(cache.length)
    assert_close(torch.cat(pieces, dim=1), block(x), rtol=1e-5, atol=1e-5)
    assert lengths == torch.tensor(cuts).cumsum(0).tolist()

def test_causal_and_plain_blocks_share_weights_but_not_outputs(x):
    plain, causal = make_block(), Block(24, heads=3, causal=True).eval()
    causal.load_state_dict(plain.state_dict())
    assert_close(causal(x)[:, -1], plain(x)[:, -1], rtol=1e-5, atol=1e-5)      # the last row sees everything either way
    assert (causal(x)[:, 0] - plain(x)[:, 0]).abs().max() > 1e-3

def test_one_row_and_one_list(x):
    for causal in (False, True):
        block = make_block(causal=causal)
        assert_close(block.attn(x[:1, :1]), block.attn.proj(block.attn.qkv(x[:1, :1])[..., 48:]), rtol=1e-5, atol=1e-5)

def test_cache_says_what_is_wrong(x):
    block, cache = make_block(causal=True), KVCache(2, 8)
    block(x[:, :6], cache)
    with pytest.raises(ValueError, match='holds 6 of at most 8 rows: 3 more do not fit'):
        block(x[:, 6:9], cache)
    assert cache.length == 6
    block(x[:, 6:8], cache)                                        # the refused call left no trace
    with pytest.raises(ValueError, match='made for 2 sequences, not for 1'):
        block(x[:1, :1], KVCache(2, 8))
    with pytest.raises(ValueError, match='needs causal=True'):
        make_block()(x, KVCache(2, 12))
    with pytest.raises(ValueError, match='B=0'):
        KVCache(0, 8)
    with pytest.raises(ValueError, match='width=24 is not a multiple of heads=5'):
        Attention(24, heads=5)

def test_queries_pick_rows_gradients_included(x):
    "The rows that nobody asks for stay out, as keys and values they count"
    block, queries = make_block(), torch.tensor([[3, 0, 7], [11, 5, 5]])
    picked = queries.unsqueeze(-1).expand(-1, -1, 24)
    found = []
    for answers in (lambda rows: block(rows, queries=queries), lambda rows: block(rows).gather(1, picked)):
        rows = x.clone().requires_grad_()
        y = answers(rows)
        found.append([y, *torch.autograd.grad(y.pow(3).sum(), [rows, *block.parameters()])])
    assert found[0][0].shape == (2, 3, 24) and found[0][1].abs().amin(-1).min() > 0
    for ours, exact in zip(*found):
        assert_close(ours, exact, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match='not for causal=True'):
        make_block(causal=True)(x, queries=queries)

def test_dropout_acts_in_training_only(x):
    block, quiet = make_block(dropout=0.5), make_block()
    assert_close(block(x), quiet(x), rtol=0, atol=0)
    block.train()
    for layer in (block.attn, block.mlp, block):
        assert not torch.equal(layer(x), layer(x))
    for layer in (block.attn, block.mlp):                          # half of what comes out is zero
        assert .4 < (layer(x) == 0).float().mean() < .6
    torch.manual_seed(1)
    first = block(x)
    torch.manual_seed(1)
    assert_close(block(x), first, rtol=0, atol=0)                  # PyTorch's global random state decides

def test_dropout_acts_on_weights_and_hidden_numbers():
    "Inside too: what is left of the output is not the quiet answer, doubled"
    torch.manual_seed(0)
    for layer in (Attention(24, heads=3, dropout=0.5), MLP(24, dropout=0.5)):
        x = torch.randn(1, 12, 24)
        quiet, out = stirred(layer)(x), layer.train()(x)
        assert (out[out != 0]/2 - quiet[out != 0]).abs().max() > 1e-2

def test_works_in_bf16(x):
    for causal in (False, True):
        block = make_block(causal=causal)
        with torch.autocast('cpu', torch.bfloat16):
            half = block(x)
        assert half.dtype == torch.float32 and (half - block(x)).abs().max() < .03*block(x).abs().max()

def test_first_weights():
    torch.manual_seed(0)
    block = Block(96, heads=3)
    torch.nn.init.ones_(block.attn.qkv.bias)
    init_linear_layers(block)
    for layer in (block.attn.qkv, block.attn.proj, block.mlp.up, block.mlp.down):
        bound = (6/(layer.in_features + layer.out_features))**.5
        assert layer.weight.abs().max() <= bound and layer.weight.abs().max() > .99*bound
        assert not layer.bias.any()
    assert (block.norm1.weight == 1).all()
