"weight_gradient.cpp: the sum over rows, in full precision, for any shape and any number of threads"
from concurrent.futures import ThreadPoolExecutor
import pytest, torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from marlearn import plan, transformer
from marlearn.transformer import Linear, weight_kernel

LIBRARY, WHY = weight_kernel()
needs_kernel = pytest.mark.skipif(LIBRARY is None or transformer.block_kernels()[0] is None, reason=WHY)

def numbers(*shape, seed=0): return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()
def far(a, b): return ((a.double() - b.double()).norm()/b.double().norm()).item()

@pytest.fixture
def calls(monkeypatch):
    "How often it is asked"
    seen = []
    def counted(): seen.append(1); return weight_kernel()
    monkeypatch.setattr(transformer, 'weight_kernel', counted)
    return seen

SHAPES = [(1, 1, 1), (2, 3, 5), (13, 7, 33), (383, 32, 12), (384, 12, 32), (385, 44, 64), (767, 65, 31), (1025, 256, 77), (2000, 40, 1300), (400, 1300, 40), (900, 1100, 1100)]

@needs_kernel
@pytest.mark.parametrize('rows, outputs, inputs', SHAPES)      # whole panels and rests, either side the wider, more than a thread takes at a time
def test_it_is_the_sum_over_rows(rows, outputs, inputs):
    g, x, threads = numbers(rows, outputs), numbers(rows, inputs, seed=1), torch.get_num_threads()
    exact, sums, first = g.double().t() @ x.double(), g.double().sum(0), None
    scale, scale_sums = g.double().abs().t() @ x.double().abs(), g.double().abs().sum(0)
    try:
        for n in (1, 2, 3, 4):
            torch.set_num_threads(n)
            gweight, gbias = transformer._weight_gradient(g, x, torch.float32, True)
            assert gweight.dtype == gbias.dtype == torch.float32 and gweight.shape == (outputs, inputs) and gbias.shape == (outputs,)
            assert ((gweight - exact).abs() <= 2e-6*scale).all() and ((gbias - sums).abs() <= 2e-6*scale_sums).all()       # each element, not only most of them
            if first is None: first = gweight, gbias
            assert torch.equal(gweight, first[0]) and torch.equal(gbias, first[1])                  # in the same order, so the same bits
        again, none = transformer._weight_gradient(g, x, torch.float32, False)
        assert none is None and torch.equal(again, first[0])
    finally: torch.set_num_threads(threads)

@needs_kernel
def test_what_is_not_finite_stays_where_it_is():
    g, x = numbers(500, 50), numbers(500, 70, seed=1)
    g[499, 7], x[3, 69] = torch.nan, torch.inf                 # beside numbers that only fill up
    gweight, gbias = transformer._weight_gradient(g, x, torch.float32, True)
    wrong = torch.zeros(50, 70, dtype=torch.bool); wrong[7], wrong[:, 69] = True, True
    assert torch.equal(~gweight.isfinite(), wrong) and (~gbias.isfinite()).nonzero().flatten().tolist() == [7]

@needs_kernel
def test_from_several_threads_of_python_at_once():
    g, x = [numbers(3000, 200, seed=k) for k in range(4)], numbers(3000, 300, seed=9)
    alone = [transformer._weight_gradient(each, x, torch.float32, True) for each in g]
    with ThreadPoolExecutor(4) as pool: found = list(pool.map(lambda k: transformer._weight_gradient(g[k % 4], x, torch.float32, True), range(40)))
    assert all(torch.equal(a, b) for k in range(40) for a, b in zip(found[k], alone[k % 4]))

@needs_kernel
@pytest.mark.parametrize('bias', [True, False])
def test_a_layer_learns_with_it(bias, calls, monkeypatch):
    torch.manual_seed(0); layer, exact = Linear(40, 70, bias=bias), nn.Linear(40, 70, bias=bias).double(); exact.load_state_dict(layer.state_dict())
    x, into = torch.randn(6, 90, 40), torch.randn(6, 90, 70)
    exact(x.double()).backward(into.double())
    found = []
    for here in (True, False):
        if not here: monkeypatch.setattr(transformer, 'weight_kernel', lambda: (None, ''))
        layer.zero_grad()
        with torch.autocast('cpu', torch.bfloat16): y = layer(x)
        y.backward(into.bfloat16().expand_as(y))
        found.append([far(p.grad, q.grad) for p, q in zip(layer.parameters(), exact.parameters())])
        assert bool(calls)
    assert all(ours <= 1.05*slow < .01 for ours, slow in zip(*found)) and found[0][0] < found[1][0]       # the library rounds the sum to bf16

@needs_kernel
def test_rows_that_do_not_lie_side_by_side():
    g, x = numbers(80, 600).t(), numbers(600, 100, seed=1)[:, ::2]
    assert far(transformer._weight_gradient(g, x, torch.float32, False)[0], g.double().t() @ x.double()) < 1e-6

@needs_kernel
def test_when_it_is_used(calls, monkeypatch):
    g, x = numbers(50, 40), numbers(50, 30, seed=1)
    transformer._weight_gradient(g, x, torch.float32, True); assert calls; calls.clear()
    transformer._weight_gradient(g, x, torch.bfloat16, True); transformer._weight_gradient(g.float(), x.float(), torch.float32, True); assert not calls
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 8); transformer._weight_gradient(g, x, torch.float32, True); assert not calls

@needs_kernel
def test_the_counter_and_the_profiler_see_it(calls):
    layer, x = Linear(30, 40), torch.randn(50, 30)
    with torch.autocast('cpu', torch.bfloat16): y = layer(x)
    with FlopCounterMode(display=False) as counter, torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen: y.sum().backward()
    assert calls and counter.get_total_flops() == plan.linear(50, 30, 40)
    assert any('weight_gradient' in op.key for op in seen.key_averages())
