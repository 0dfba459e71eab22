"transformer.cpp: dropout, GELU and softmax in one pass drop what the slow way drops, and agree with it"
import math
import pytest, torch
from torch import nn
from torch.nn import functional as F
from marlearn import transformer
from marlearn.heads import modulate
from marlearn.transformer import MLP, Attention, Norm, block_kernels, dropout, gelu_dropout, in_one_pass, norm_pass, plain_dropout, softmax_dropout

LIBRARY, WHY = block_kernels()
pytestmark = pytest.mark.skipif(LIBRARY is None, reason=WHY)

def numbers(*shape, seed=0, size=1.0): return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).mul(size).bfloat16()

def masked(p, shape, seed):
    "What the slow way multiplies with, in full precision"
    torch.manual_seed(seed)
    return plain_dropout(torch.ones(shape), p) if p else torch.ones(shape)

def far(a, b): return ((a.double() - b.double()).norm()/b.double().norm().clamp(min=1e-30)).item()

@pytest.mark.parametrize('p', [.1, .5, .999])
def test_the_same_elements_are_dropped(p):
    for n in (1, 2, 15, 31, 33, 2047, 2048, 2049, 5000, 100_003):
        x = torch.ones(n, dtype=torch.bfloat16); wanted = masked(p, n, seed=n)
        torch.manual_seed(n); y = dropout(x, p)
        assert torch.equal(y, wanted.bfloat16()) and x.eq(1).all(), n
    torch.manual_seed(3); a = dropout(x, p); b = dropout(x, p)
    assert not torch.equal(a, b)                                        # the random state moves on
    state = torch.get_rng_state(); dropout(x, p); after = torch.get_rng_state()
    torch.set_rng_state(state); plain_dropout(x, p); assert torch.equal(after, torch.get_rng_state())

FUNCTIONS = {'dropout': (dropout, lambda x, m: x*m), 'gelu': (gelu_dropout, lambda x, m: F.gelu(x)*m), 'softmax': (softmax_dropout, lambda x, m: x.softmax(-1)*m)}

@pytest.mark.parametrize('name', FUNCTIONS)
@pytest.mark.parametrize('p', [0.0, .1])
@pytest.mark.parametrize('shape', [(3, 1), (5, 7, 33), (2, 3, 20, 80), (64, 321), (9, 4096)])
def test_results_and_gradients(name, p, shape):
    ours, exact = FUNCTIONS[name]
    if name == 'dropout' and p == 0: return
    x, g = numbers(*shape, size=3).requires_grad_(), numbers(*shape, seed=1)
    torch.manual_seed(5); y = ours(x, p)
    y.backward(g)
    x64 = x.detach().double().requires_grad_(); y64 = exact(x64, masked(p, shape, 5).double()); y64.backward(g.double())
    assert y.dtype == x.grad.dtype == torch.bfloat16 and far(y, y64) < 3e-3         # 2^-9 for each number
    assert far(x.grad, x64.grad) < 4e-3 or (name == 'softmax' and shape[-1] == 1 and x.grad.abs().max() < 1e-6)
    if name != 'gelu': assert torch.equal(y == 0, y64 == 0)             # far out, GELU is zero for others

def test_gelu_of_every_number():
    "All 65536 of them"
    x = torch.arange(-2**15, 2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    x = x[x.isfinite()].clone().requires_grad_()
    y = gelu_dropout(x, 0.0); y.sum().backward()
    x64 = x.detach().double().requires_grad_(); y64 = F.gelu(x64); y64.sum().backward()
    for ours, exact, more in ((y, y64, 2e-6), (x.grad, x64.grad, 5e-5)):      # beside rounding; the slope is a difference of two terms
        assert ((ours.double() - exact).abs() < 2**-8*exact.abs() + more).all()

def test_softmax_of_far_numbers():
    for row in ([1e4, -1e4, 9e3], [-3e38, -3e38, -3e38], [0, -math.inf, 1], [5.0]*40):
        x = torch.tensor([row]).bfloat16()
        assert (softmax_dropout(x, 0.0).float() - x.float().softmax(-1)).abs().max() < 2**-8

def test_nan_stays():
    x = numbers(4, 40); x[2, 7] = torch.nan
    assert gelu_dropout(x, 0.0).isnan().nonzero().tolist() == [[2, 7]]
    assert softmax_dropout(x, 0.0).isnan().any(1).tolist() == [False, False, True, False]
    layer = transformer.Linear(40, 3)
    with torch.autocast('cpu', torch.bfloat16): assert layer.after_silu(x).isnan().any(1).tolist() == [False, False, True, False]

def test_any_number_of_threads():
    threads, found = torch.get_num_threads(), []
    try:
        for n in (1, 2, 3, 5):
            torch.set_num_threads(n)
            x = numbers(70, 1000, size=2).requires_grad_(); torch.manual_seed(0)
            y = softmax_dropout(gelu_dropout(dropout(x, .1), .1), .1); y.backward(numbers(70, 1000, seed=1))
            found.append((y.detach(), x.grad))
    finally: torch.set_num_threads(threads)
    for y, grad in found[1:]: assert torch.equal(y, found[0][0]) and torch.equal(grad, found[0][1])

def test_rows_that_do_not_lie_side_by_side():
    x = numbers(40, 60).t(); g = numbers(60, 40, seed=1).t().contiguous().t()
    for function in (lambda x: dropout(x, .2), lambda x: gelu_dropout(x, .2), lambda x: softmax_dropout(x, .2)):
        a, b = x.detach().requires_grad_(), x.detach().contiguous().requires_grad_()
        for t in (a, b): torch.manual_seed(0); function(t).backward(g)
        assert torch.equal(a.grad, b.grad)

@pytest.mark.parametrize('layer', [lambda: MLP(32, dropout=.1), lambda: Attention(32, 4, dropout=.1), lambda: Attention(32, 4, dropout=.1, causal=True)])
def test_layers_agree_with_the_slow_way(layer, monkeypatch):
    torch.manual_seed(0); layer = layer().train(); x, g, found = torch.randn(3, 50, 32), torch.randn(3, 50, 32), []
    for served in (block_kernels, lambda: (None, '')):
        monkeypatch.setattr(transformer, 'block_kernels', served); layer.zero_grad(); torch.manual_seed(1)
        with torch.autocast('cpu', torch.bfloat16): y = layer(x)
        y.backward(g.to(y.dtype)); found.append([y, *(p.grad for p in layer.parameters())])
    for a, b in zip(*found): assert far(a, b) < .015

def test_when_it_serves():
    x = numbers(4, 4)
    assert in_one_pass(x, .1) and not in_one_pass(x.float(), .1) and not in_one_pass(x.half(), .1) and not in_one_pass(x[:0], .1) and not in_one_pass(x, 1.0)
    assert dropout(x, 1.0).eq(0).all() and dropout(x[:0], .1).shape == gelu_dropout(x[:0], .1).shape == softmax_dropout(x[:0], .1).shape == (0, 4)

def test_no_second_derivative():
    x = numbers(8, 8).requires_grad_()
    grad, = torch.autograd.grad(gelu_dropout(x, .1).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError): grad.sum().backward()

def test_only_the_input_is_kept():
    x, kept = numbers(100, 256).requires_grad_(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        dropout(x, .1); assert not kept
        y = gelu_dropout(x, .1); assert [t.data_ptr() for t in kept] == [x.data_ptr()]
        softmax_dropout(y, .1); assert [t.data_ptr() for t in kept[1:]] == [y.data_ptr()]

@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('affine', [True, False])
@pytest.mark.parametrize('modulation', [True, False])
@pytest.mark.parametrize('shape', [(1, 32), (5, 64), (203, 256), (64, 1056)])
def test_norm(dtype, affine, modulation, shape):
    W, g = shape[1], numbers(*shape, seed=1)
    torch.manual_seed(0)
    x, dials, norm = torch.randn(shape).mul(3).add(2).to(dtype), torch.randn(len(g), 3*W).mul(.5).bfloat16(), nn.LayerNorm(W, eps=1e-6, elementwise_affine=affine)
    for p in norm.parameters(): nn.init.normal_(p)
    a, da = x.clone().requires_grad_(), dials.clone().requires_grad_()
    with torch.autocast('cpu', torch.bfloat16): y = norm_pass(norm, a, *(da.chunk(3, 1)[:2] if modulation else ()))
    y.backward(g)
    exact = nn.LayerNorm(W, eps=1e-6, elementwise_affine=affine).double(); exact.load_state_dict(norm.state_dict())
    b, db = x.double().requires_grad_(), dials.double().requires_grad_()
    z = modulate(exact(b), *db.chunk(3, 1)[:2]) if modulation else exact(b)
    z.backward(g.double())
    assert y.dtype == torch.bfloat16 and a.grad.dtype == dtype and far(y, z) < 3e-3 and far(a.grad, b.grad) < (1e-5 if dtype == torch.float32 else 3e-3)
    for p, q in zip(norm.parameters(), exact.parameters()): assert far(p.grad, q.grad) < 1e-5
    if modulation: assert far(da.grad, db.grad) < 3e-3 and da.grad[:, 2*W:].eq(0).all()

def test_norm_where_it_does_not_serve():
    norm, x = Norm(64), torch.randn(4, 64)
    dials = torch.randn(4, 128).bfloat16()
    assert norm_pass(norm, x) is None and torch.equal(norm(x), nn.LayerNorm(64)(x))                   # no autocast
    with torch.autocast('cpu', torch.bfloat16):
        assert norm_pass(norm, x).dtype == torch.bfloat16
        assert norm_pass(Norm(40), torch.randn(4, 40)) is None and norm_pass(Norm(64).bfloat16(), x) is None and norm_pass(norm, x[:0]) is None
        assert norm_pass(norm, x, *dials.float().chunk(2, 1)) is None and norm_pass(norm, x, *dials[:1].expand(4, -1).chunk(2, 1)) is not None
        assert norm_pass(norm, x, *dials[:, ::2].repeat(1, 2)[:, ::2].chunk(2, 1)) is None
    with torch.autocast('cpu', torch.float16): assert norm_pass(norm, x) is None

def test_norm_of_rows_that_do_not_lie_side_by_side_and_nan():
    norm, x = Norm(64), torch.randn(64, 50).t()
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(norm(x), norm(x.contiguous()))
        x = x.contiguous(); x[3, 9] = torch.nan
        assert norm(x).isnan().any(1).nonzero().flatten().tolist() == [3]

def test_a_step_of_training_agrees_with_the_slow_way(monkeypatch):
    "Loss and gradients of a whole model in bf16, dropout and all"
    from marlearn.heads import HeadConfig
    from marlearn.mar import ImageModel, ModelConfig
    torch.manual_seed(0)
    model = ImageModel(ModelConfig(n_tokens=16, token_dim=4, n_classes=10, width=64, encoder_blocks=2, decoder_blocks=2, heads=2, class_slots=2, dropout=.1, head=HeadConfig(blocks=2, width=64))).train()
    for p in model.parameters(): nn.init.normal_(p, std=.05) if not p.any() else None
    tokens, found = torch.randn(8, 16, 4), []
    for served in (block_kernels, lambda: (None, '')):
        monkeypatch.setattr(transformer, 'block_kernels', served); model.zero_grad(); torch.manual_seed(1)
        with torch.autocast('cpu', torch.bfloat16): loss = model.loss(tokens, torch.arange(8), generator=torch.Generator().manual_seed(2))['loss']
        loss.backward(); found.append((loss.item(), torch.cat([p.grad.flatten() for p in model.parameters()])))
    assert found[0][0] == pytest.approx(found[1][0], rel=2e-3) and far(found[0][1], found[1][1]) < .02

def test_what_a_block_keeps(monkeypatch):
    "Neither weights of attention nor what comes out of GELU: they are made again"
    kept = {}
    for how, served in (('one pass', block_kernels), ('slow', lambda: (None, ''))):
        monkeypatch.setattr(transformer, 'block_kernels', served)
        torch.manual_seed(0); block, sizes = transformer.Block(64, 4, dropout=.1).train(), {}
        x = torch.randn(2, 200, 64, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.update({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()}) or t, lambda t: t):
            with torch.autocast('cpu', torch.bfloat16): y = block(x)
        parameters = {p.untyped_storage().data_ptr() for p in block.parameters()}
        kept[how] = sum(n for at, n in sizes.items() if at not in parameters)
    L, D, rows = 200, 64, 400
    assert kept['one pass'] < rows*D*2*(2*2 + 3 + 1 + 2 + 4 + 1) + 2**16 < kept['slow'] - 2*2*4*L*L*2        # the stream twice in float32; q, k, v; what both products read; hidden rows

@pytest.mark.parametrize('p', [0.0, .1])
def test_attention_that_makes_its_weights_again(p):
    q, k, v, g = (numbers(2, 3, 37, 16, seed=s) for s in range(4))
    leaves = [t.clone().requires_grad_() for t in (q, k, v)]
    torch.manual_seed(5); transformer.plain_attention(*leaves, p=p).backward(g)
    exact = [t.double().requires_grad_() for t in (q, k, v)]
    mask = masked(p, (2, 3, 37, 37), 5).double()
    out = ((exact[0]/4) @ exact[1].transpose(-2, -1)).softmax(-1)*mask @ exact[2]; out.backward(g.double())
    torch.manual_seed(5); assert far(transformer.plain_attention(q, k, v, p=p), out) < .01
    for a, b in zip(leaves, exact): assert far(a.grad, b.grad) < .015

AFTER = {'gelu': (lambda layer, h: layer.after_gelu(h, 0.0), F.gelu, 0.0), 'gelu and dropout': (lambda layer, h: layer.after_gelu(h, .1), F.gelu, .1), 'silu': (lambda layer, h: layer.after_silu(h), F.silu, 0.0)}

@pytest.mark.parametrize('name', AFTER)
@pytest.mark.parametrize('wants', ['everything', 'hidden rows', 'weights'])
def test_a_function_and_a_product_that_keep_the_hidden_rows_only(name, wants):
    after, f, p = AFTER[name]
    torch.manual_seed(0); layer, h, g, kept = transformer.Linear(96, 40), numbers(5, 31, 96).requires_grad_(wants != 'weights'), numbers(5, 31, 40, seed=1), []
    layer.requires_grad_(wants != 'hidden rows')
    torch.manual_seed(5)
    with torch.autocast('cpu', torch.bfloat16), torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.data_ptr()) or t, lambda t: t): y = after(layer, h)
    y.backward(g)
    assert set(kept) == {h.data_ptr(), layer.weight.data_ptr()}
    h64, exact = h.detach().double().requires_grad_(), nn.Linear(96, 40).double(); exact.load_state_dict(layer.state_dict())
    z = exact(f(h64)*masked(p, h.shape, 5).double()); z.backward(g.double())
    assert far(y, z) < .01
    for a, b in ((h, h64), (layer.weight, exact.weight), (layer.bias, exact.bias)):
        if a.requires_grad: assert far(a.grad, b.grad) < .015
        else: assert a.grad is None

def test_silu_of_every_number():
    "All 65536 of them, through a product with one"
    x = torch.arange(-2**15, 2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    x, one = x[x.isfinite()].clone().unsqueeze(1).requires_grad_(), transformer.Linear(1, 1, bias=False)
    nn.init.ones_(one.weight)
    with torch.autocast('cpu', torch.bfloat16): y = one.after_silu(x)
    y.sum().backward()
    x64 = x.detach().double().requires_grad_(); y64 = F.silu(x64); y64.sum().backward()
    for ours, exact, more in ((y, y64, 1e-30), (x.grad, x64.grad, 1e-5)):
        assert ((ours.double() - exact).abs() < 2**-8*exact.abs() + more).all()

@pytest.mark.parametrize('shape', [(1, 1), (3, 7), (1, 33), (9, 100), (5, 4096), (1037, 48), (700, 3000)])
def test_sums_of_columns_and_numbers_in_full_precision(shape):
    "Half precision to full: exactly; at every number of threads"
    x, threads = numbers(*shape), torch.get_num_threads()
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            full, sums = transformer._to(x, torch.float32), transformer._column_sums(x, torch.float32)
            assert full.dtype == sums.dtype == torch.float32 and torch.equal(full, x.float())
            assert sums.shape == shape[1:] and torch.allclose(sums.double(), x.double().sum(0), rtol=0, atol=1e-6*x.double().abs().sum(0).max().item())
    finally: torch.set_num_threads(threads)
    assert torch.equal(transformer._to(x.t(), torch.float32), x.t().float()) and torch.equal(transformer._to(x, torch.bfloat16), x)

@pytest.mark.parametrize('rows', [1, 1023, 1024, 1500])
@pytest.mark.parametrize('sizes', [(48, 80), (700, 65)])
def test_weights_laid_out_for_many_rows_give_the_same(rows, sizes, monkeypatch):
    "Where they are laid out and where not; the result is what it is without"
    torch.manual_seed(0); layer, x, found, calls = transformer.Linear(*sizes), torch.randn(rows, sizes[0]), [], []
    if not transformer._reorders(torch.bfloat16): pytest.skip('this build cannot')
    monkeypatch.setattr(transformer, 'linear_kernel', lambda: (None, ''))                 # which lays them out itself
    for can in (True, False):
        monkeypatch.setattr(transformer, '_reorders', lambda dtype: calls.append(can) or can)
        with torch.autocast('cpu', torch.bfloat16): found.append(layer(x))
    assert far(*found) < 1e-3 and far(found[0], F.linear(x, layer.weight, layer.bias)) < .01
    assert bool(calls) == (rows >= max(1024, 2*sizes[0]))
