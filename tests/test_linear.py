"linear.cpp: the three products of a layer that learns, for any shape and any number of threads"
from concurrent.futures import ThreadPoolExecutor
import pytest, torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from marlearn import plan, transformer
from marlearn.transformer import Linear, linear_kernel

LIBRARY, WHY = linear_kernel()
needs_kernel = pytest.mark.skipif(LIBRARY is None, reason=WHY)
FULL = torch.empty(1, 1)                                       # weights in full precision

def numbers(*shape, seed=0): return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()
def far(a, b): return ((a.double() - b.double()).norm()/b.double().norm()).item()
def gradient(g, x, bias=True):
    gweight, gbias = torch.ops.marlearn.weight_gradient(g, x, bias)
    return gweight, gbias if bias else None

@pytest.fixture
def calls(monkeypatch):
    "Which of its functions are asked"
    seen, call = [], transformer._call_linear
    monkeypatch.setattr(transformer, '_call_linear', lambda name, *args, **kw: seen.append(name) or call(name, *args, **kw))
    return seen

def at_all_threads(work):
    "The same bits"
    threads, first = torch.get_num_threads(), None
    try:
        for n in (1, 2, 3, 4):
            torch.set_num_threads(n); found = work()
            if first is None: first = found
            assert all(torch.equal(a, b) for a, b in zip(found, first))
    finally: torch.set_num_threads(threads)
    return first

# whole panels and rests, either side the wider, more than a thread takes at a time, more rows than fit a cache
SHAPES = [(1, 1, 1), (2, 3, 5), (13, 7, 33), (383, 32, 12), (384, 12, 32), (385, 44, 64), (767, 65, 31), (1025, 256, 77), (2000, 40, 1300), (400, 1300, 40), (900, 1100, 1100), (6000, 34, 66)]

@needs_kernel
@pytest.mark.parametrize('rows, outputs, inputs', SHAPES)
def test_the_gradient_of_weights(rows, outputs, inputs):
    g, x = numbers(rows, outputs), numbers(rows, inputs, seed=1)
    gweight, gbias = at_all_threads(lambda: gradient(g, x))
    assert gweight.dtype == gbias.dtype == torch.float32 and gweight.shape == (outputs, inputs) and gbias.shape == (outputs,)
    assert ((gweight - g.double().t() @ x.double()).abs() <= 2e-6*(g.double().abs().t() @ x.double().abs())).all()        # each element, not only most of them
    assert ((gbias - g.double().sum(0)).abs() <= 2e-6*g.double().abs().sum(0)).all()
    again, none = gradient(g, x, bias=False)
    assert none is None and torch.equal(again, gweight)

@needs_kernel
@pytest.mark.parametrize('rows, outputs, inputs', SHAPES)
@pytest.mark.parametrize('bias', [True, False])
def test_rows_times_weights_and_back(rows, outputs, inputs, bias, calls):
    weight, bias = torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(2)), torch.randn(outputs, generator=torch.Generator().manual_seed(3)) if bias else None
    half = weight.bfloat16().double()
    def check(found, exact, size):                             # bf16 keeps 8 bits, and rounds by at most 2^-8 of a number; sums in float32 are off by far less
        assert found.dtype == torch.bfloat16 and found.shape == exact.shape
        assert ((found.double() - exact).abs() <= 2**-8*exact.abs() + 2e-6*size).all()
    if inputs % 2 == 0:
        x = numbers(rows, inputs)
        out, = at_all_threads(lambda: [torch.ops.marlearn.linear(x, weight, bias)])
        check(out, x.double() @ half.t() + (0 if bias is None else bias.double()), x.double().abs() @ half.abs().t() + (0 if bias is None else bias.double().abs()))
    if outputs % 2 == 0:
        g = numbers(rows, outputs)
        out, = at_all_threads(lambda: [torch.ops.marlearn.input_gradient(g, weight)])
        check(out, g.double() @ half, g.double().abs() @ half.abs())
    assert set(calls) == {name for name, n in (('linear', inputs), ('input_gradient', outputs)) if n % 2 == 0}

@needs_kernel
def test_what_is_not_finite_stays_where_it_is():
    g, x = numbers(500, 50), numbers(500, 70, seed=1)
    g[499, 7], x[3, 69] = torch.nan, torch.inf                 # beside numbers that only fill up
    gweight, gbias = gradient(g, x)
    wrong = torch.zeros(50, 70, dtype=torch.bool); wrong[7], wrong[:, 69] = True, True
    assert torch.equal(~gweight.isfinite(), wrong) and (~gbias.isfinite()).nonzero().flatten().tolist() == [7]
    weight = torch.randn(50, 70)
    for out, row in ((torch.ops.marlearn.linear(x, weight, None), 3), (torch.ops.marlearn.input_gradient(g, weight), 499)):
        assert (~out.isfinite()).any(1).nonzero().flatten().tolist() == [row]
    weight[4, 5] = torch.nan
    assert (~torch.ops.marlearn.linear(x[4:], weight, None).isfinite()).any(0).nonzero().flatten().tolist() == [4]
    assert (~torch.ops.marlearn.input_gradient(g[:499], weight).isfinite()).any(0).nonzero().flatten().tolist() == [5]

@needs_kernel
def test_from_several_threads_of_python_at_once():
    g, x, weight = [numbers(3000, 200, seed=k) for k in range(4)], numbers(3000, 300, seed=9), torch.randn(200, 300)
    work = lambda k: (*gradient(g[k % 4], x), torch.ops.marlearn.input_gradient(g[k % 4], weight), torch.ops.marlearn.linear(x[k % 4:], weight, None))
    alone = [work(k) for k in range(4)]
    with ThreadPoolExecutor(4) as pool: found = list(pool.map(work, range(40)))
    assert all(torch.equal(a, b) for k in range(40) for a, b in zip(found[k], alone[k % 4]))

@needs_kernel
@pytest.mark.parametrize('sizes', [(40, 70), (41, 70), (40, 71)])      # an odd number of products in a sum is the library's
@pytest.mark.parametrize('bias', [True, False])
def test_a_layer_learns_with_it(sizes, bias, calls, monkeypatch):
    torch.manual_seed(0); layer, exact = Linear(*sizes, bias=bias), nn.Linear(*sizes, bias=bias).double(); exact.load_state_dict(layer.state_dict())
    x, into, found = torch.randn(6, 90, sizes[0]), torch.randn(6, 90, sizes[1]), []
    x64 = x.double().requires_grad_(); y64 = exact(x64); y64.backward(into.double())
    for here in (True, False):
        if not here: monkeypatch.setattr(transformer, 'linear_kernel', lambda: (None, ''))
        layer.zero_grad(); calls.clear(); leaf = x.clone().requires_grad_()
        with torch.autocast('cpu', torch.bfloat16): y = layer(leaf)
        y.backward(into.bfloat16())
        found.append([far(y, y64), far(leaf.grad, x64.grad)] + [far(p.grad, q.grad) for p, q in zip(layer.parameters(), exact.parameters())])
        assert set(calls) == ({'weight_gradient'} | ({'linear'} if sizes[0] % 2 == 0 else set()) | ({'input_gradient'} if sizes[1] % 2 == 0 else set()) if here else set())
    assert all(ours <= 1.05*slow < .01 for ours, slow in zip(*found)) and found[0][2] < found[1][2]       # the library rounds the weights' gradient to bf16

@needs_kernel
def test_rows_that_do_not_lie_side_by_side():
    g, x, weight = numbers(80, 600).t(), numbers(600, 100, seed=1)[:, ::2], torch.randn(50, 80).t()
    assert far(gradient(g, x)[0], g.double().t() @ x.double()) < 1e-6
    assert far(torch.ops.marlearn.linear(x, weight, None), x.double() @ weight.double().t()) < .005
    assert far(torch.ops.marlearn.input_gradient(g, weight), g.double() @ weight.double()) < .005

@needs_kernel
def test_when_it_is_used(calls, monkeypatch):
    x = numbers(50, 30)
    assert transformer._in_cpp(x, FULL) and not transformer._in_cpp(x, FULL, summed=31)
    assert not transformer._in_cpp(x.float(), FULL) and not transformer._in_cpp(x, FULL.bfloat16()) and not transformer._in_cpp(x[:0], FULL)
    for sizes, ours in (((512, 1024), True), ((516, 1024), False)):      # large gradients of weights are the library's
        calls.clear(); g, x = numbers(20, sizes[0]), numbers(20, sizes[1], seed=1)
        gweight, gbias = transformer._weight_gradient(g, x, FULL, True)
        assert bool(calls) == ours and far(gweight, g.double().t() @ x.double()) < (1e-6 if ours else .005) and far(gbias, g.double().sum(0)) < 1e-6
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 8); assert not transformer._in_cpp(x, FULL)

@needs_kernel
def test_the_counter_and_the_profiler_see_it(calls):
    layer, x = Linear(30, 40), torch.randn(50, 30, requires_grad=True)
    with FlopCounterMode(display=False) as counter, torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        with torch.autocast('cpu', torch.bfloat16): y = layer(x)
        y.sum().backward()
    assert calls == ['linear', 'input_gradient', 'weight_gradient'] and counter.get_total_flops() == 3*plan.linear(50, 30, 40)
    for name in calls: assert any(f'marlearn::{name}' == op.key for op in seen.key_averages())
