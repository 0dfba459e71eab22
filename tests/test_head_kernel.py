"head.cpp: the same network in one call, built once, and a way out where it can't be"
import os, platform, shutil, subprocess, sys
from pathlib import Path
import pytest, torch
from torch import nn
from marlearn import heads
from marlearn.diffusion import cosine_schedule, respace
from marlearn.heads import DenoisingMLP, DiffusionHead, EnergyHead, FixedMLP, FlowHead, HeadConfig, KernelMLP, fixed_for_drawing, head_kernel, kernel_tokens
from marlearn.transformer import block_kernels, linear_kernel

LIBRARY, WHY = head_kernel()
needs_kernel = pytest.mark.skipif(LIBRARY is None, reason=WHY)
D = 7

def make(width=64, blocks=2, P=4, outputs=None, timed=True, std=.15, seed=0):
    net, g = DenoisingMLP(P, D, HeadConfig(blocks=blocks, width=width), outputs, timed), torch.Generator().manual_seed(seed)
    for p in net.parameters(): p.data.normal_(0, std, generator=g)
    return net.requires_grad_(False)

def rows(net, M, seed=1):
    g = torch.Generator().manual_seed(seed)
    time = None if net.from_time is None else net.embed_time(torch.tensor([300]))
    return torch.randn(M, net.from_token.in_features, generator=g), time, net.from_z(torch.randn(M, D, generator=g))

def far(a, b): return ((a - b).norm()/b.norm()).item()

def half(net, inputs):
    "FixedMLP in bf16, where everything is rounded: how far it may be"
    with torch.autocast('cpu', torch.bfloat16): return FixedMLP(net, torch.bfloat16)(*(None if x is None else x.bfloat16() for x in inputs)).float()

@needs_kernel
@pytest.mark.parametrize('width, blocks, P, outputs, timed', [(32, 1, 1, None, True), (64, 2, 4, None, True), (64, 3, 3, 3, True), (96, 2, 16, 5, False), (128, 1, 33, 70, True), (256, 3, 4, None, True), (192, 3, 24, None, True)])
def test_it_is_the_network(width, blocks, P, outputs, timed):
    net = make(width, blocks, P, outputs, timed, std=.15*(64/width)**.5)
    kernel = KernelMLP(net)
    for M in (1, 2, 11, 12, 13, 25, 64, 97, 193, 500):      # whole tiles and rests, one thread and more, more rows than go at a time
        inputs = rows(net, M)
        out, exact = kernel(*inputs), net(*inputs)
        assert out.shape == exact.shape and out.dtype == torch.float32
        assert far(out, exact) < 1.2*far(half(net, inputs), exact)      # less is rounded than there; 1.2: chance, with one row
        assert far(out, exact) < .02

@needs_kernel
def test_every_part_counts():
    "The comparison above would notice a layer that is left out"
    net = make(); inputs = rows(net, 50); before = KernelMLP(net)(*inputs)
    for name, p in net.named_parameters():
        if name.startswith(('from_z', 'from_time')): continue           # come in from outside
        kept = p.clone(); p.mul_(1.5)
        moved = KernelMLP(net)(*inputs)
        assert far(moved, before) > 1e-4, name
        assert far(moved, net(*inputs)) < .02, name
        p.copy_(kept)

@needs_kernel
def test_a_row_knows_nothing_of_the_others():
    net = make(); kernel = KernelMLP(net); xt, time, condition = rows(net, 300)
    out, threads = kernel(xt, time, condition), torch.get_num_threads()
    for part in (slice(0, 1), slice(5, 18), slice(100, 300)): assert torch.equal(kernel(xt[part], time, condition[part]), out[part])
    try:
        torch.set_num_threads(1); assert torch.equal(kernel(xt, time, condition), out)
        torch.set_num_threads(3); assert torch.equal(kernel(xt, time, condition), out)
    finally: torch.set_num_threads(threads)
    xt[7] = torch.nan
    assert kernel(xt, time, condition).isnan().any(1).nonzero().flatten().tolist() == [7]
    assert kernel(xt[:0], time, condition[:0]).shape == (0, net.outputs)

@needs_kernel
def test_far_conditions():
    "SiLU where e^x is out of range"
    net = make(std=.05); xt, time, _ = rows(net, 4)
    for size in (30., 88., 300., 1e4):
        condition = torch.full((4, 64), size); condition[:, ::2] *= -1
        assert far(KernelMLP(net)(xt, time, condition), net(xt, time, condition)) < .02

@needs_kernel
def test_wrong_shapes():
    net = make(); kernel = KernelMLP(net); xt, time, condition = rows(net, 6)
    for bad in ((xt[:5], time, condition), (xt[:, :3], time, condition), (xt, time, condition[:, :32]), (xt, time.expand(6, -1), condition)):
        with pytest.raises(ValueError, match=r'must be \(M, 4\), \(1, 64\) and \(M, 64\)'): kernel(*bad)

def test_when_it_is_used(monkeypatch):
    monkeypatch.setattr(heads, 'head_kernel', lambda: (object(), ''))   # as if it were here
    monkeypatch.setattr(KernelMLP, '__init__', lambda self, *args: None)
    net = make()
    assert type(fixed_for_drawing(net)) is FixedMLP                     # float32
    with torch.autocast('cpu', torch.bfloat16):
        assert type(fixed_for_drawing(net)) is KernelMLP and fixed_for_drawing(net) is fixed_for_drawing(net)
        assert type(fixed_for_drawing(make(width=48))) is FixedMLP
        monkeypatch.setattr(torch, 'get_num_threads', lambda: 32)
        assert type(fixed_for_drawing(make(width=96))) is KernelMLP and type(fixed_for_drawing(make(width=1024))) is FixedMLP
        monkeypatch.setattr(heads, 'head_kernel', lambda: (None, ''))
        assert type(fixed_for_drawing(make())) is FixedMLP
    with torch.autocast('cpu', torch.float16): assert type(fixed_for_drawing(make())) is FixedMLP

@needs_kernel
@pytest.mark.parametrize('kind, options', [(DiffusionHead, {}), (DiffusionHead, {'sampler': 'ddim'}), (DiffusionHead, {'sampler': 'dpm++'}), (FlowHead, {}), (EnergyHead, {})])
@pytest.mark.parametrize('cfg_scale', [1.0, 3.0])
def test_a_drawing_in_half_precision_goes_through_it(kind, options, cfg_scale, monkeypatch):
    head, g = kind(4, D, HeadConfig(blocks=2, width=64, x0_limit=3.0)), torch.Generator().manual_seed(0)
    for p in head.parameters(): p.data.normal_(0, .1, generator=g)
    z, z_uncond = torch.randn(2, 40, D, generator=g)
    draw = lambda: head.sample(z, z_uncond=z_uncond, cfg_scale=cfg_scale, generator=torch.Generator().manual_seed(1), **options)
    exact, calls, call, chain = draw(), [], KernelMLP.__call__, kernel_tokens
    monkeypatch.setattr(KernelMLP, '__call__', lambda *args: calls.append('call') or call(*args))
    monkeypatch.setattr(heads, 'kernel_tokens', lambda *args, **kw: calls.append('chain') or chain(*args, **kw))
    with torch.autocast('cpu', torch.bfloat16):
        ours = draw(); assert set(calls) == {'chain' if kind is DiffusionHead and not options else 'call'}
        with torch.no_grad(): [p.mul_(1.5) for p in head.net.blocks.parameters()]
        assert far(draw(), ours) > .01                                  # follows the weights
        with torch.no_grad(): [p.div_(1.5) for p in head.net.blocks.parameters()]
        monkeypatch.setattr(KernelMLP, 'suits', lambda *args: False); rounded = draw()
    assert far(ours, exact) < 1.5*far(rounded, exact) + 1e-3

# --- whole chains of steps ------------------------------------------------------------------------------------
def chains(M, S, width=64, blocks=2, P=4, guided=True, x0_limit=3.0, temperature=1.0, std=.15, seed=0):
    "Tokens in one call of head.cpp for many steps, and step by step; and where the generators stand afterwards"
    head, g = DiffusionHead(P, D, HeadConfig(blocks=blocks, width=width, x0_limit=x0_limit)), torch.Generator().manual_seed(seed)
    for p in head.parameters(): p.data.normal_(0, std*(64/width)**.5, generator=g)
    z, z_uncond = torch.randn(2, M, D, generator=g)
    kw = dict(z_uncond=z_uncond if guided else None, cfg_scale=2.5 if guided else 1.0, temperature=temperature, diff_steps=S)
    one, many, seen = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1), []
    with torch.autocast('cpu', torch.bfloat16): return head.sample(z, generator=one, **kw), head.sample(z, generator=many, callback=lambda t, xt, x0: seen.append(t), **kw), one.get_state(), many.get_state()

@needs_kernel
@pytest.mark.parametrize('guided', [False, True])
@pytest.mark.parametrize('changes', [{}, {'P': 1}, {'P': 16, 'width': 96}, {'P': 37, 'blocks': 1}, {'x0_limit': None, 'std': .05}, {'x0_limit': .2}, {'temperature': .5}, {'temperature': 0}, {'width': 256, 'blocks': 3}], ids=str)
def test_a_chain_is_its_steps(changes, guided):
    for M in (1, 2, 13, 60, 230):                           # one thread and more, more rows than go at a time
        for S, tolerance in ((1, 1e-5), (2, 1e-3), (11, 1e-2), (20, 1e-2)):         # what float32 rounds differently, bf16 makes larger in the next step
            ours, theirs, *states = chains(M, S, guided=guided, **changes)
            assert ours.shape == theirs.shape and ours.dtype == torch.float32
            assert far(ours, theirs) < tolerance, (M, S, far(ours, theirs))
            assert torch.equal(*states)                     # whoever draws next finds the same noise

@needs_kernel
def test_a_chain_of_a_row_knows_nothing_of_the_others():
    net, schedule = make(), respace(cosine_schedule(), 14)
    z, z_uncond = torch.randn(2, 150, D, generator=torch.Generator().manual_seed(2))
    def draw(z, z_uncond):
        with torch.autocast('cpu', torch.bfloat16): return kernel_tokens(fixed_for_drawing(net), net, z, z_uncond, 2.0, schedule, net.embed_time(schedule.times), x0_limit=3.0, generator=torch.Generator().manual_seed(3))
    threads, out = torch.get_num_threads(), draw(z, z_uncond)
    try:
        for n in (1, 3): torch.set_num_threads(n); assert torch.equal(draw(z, z_uncond), out)
    finally: torch.set_num_threads(threads)
    z[7], z_uncond[11] = torch.nan, torch.nan
    spoiled = draw(z, z_uncond)
    assert spoiled.isnan().any(1).nonzero().flatten().tolist() == [7, 11]
    rest = [i for i in range(150) if i not in (7, 11)]
    assert torch.equal(spoiled[rest], out[rest]) and draw(z[:0], z_uncond[:0]).shape == (0, 4)

@needs_kernel
def test_a_chain_of_wrong_shapes():
    net, schedule = make(), respace(cosine_schedule(), 5)
    z, times = torch.randn(6, D), net.embed_time(schedule.times)
    with torch.autocast('cpu', torch.bfloat16):
        for what, args in ((r'times \(4, 64\) must be \(5, 64\)', (net, z, None, 1.0, schedule, times[:4])), (r'z_uncond \(5, 7\) must be \(6, 7\)', (net, z, z[:5], 2.0, schedule, times)),
                           ('4 inputs needs 8 outputs', (make(outputs=4), z, None, 1.0, schedule, times))):
            with pytest.raises(ValueError, match=what): kernel_tokens(fixed_for_drawing(args[0]), *args)

# --- building it ----------------------------------------------------------------------------------------------
def elsewhere(folder, code, **env):
    "In a process of its own, with an empty cache"
    done = subprocess.run([sys.executable, '-c', f'from marlearn.heads import *; import torch\n{code}'], env=os.environ | {'MARLEARN_CACHE': str(folder)} | env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()

@needs_kernel
def test_compiled_once_and_again_when_damaged(tmp_path):
    ask = 'print(head_kernel()[1])'
    assert elsewhere(tmp_path/'new'/'cache', ask) == 'in use for bf16'
    made, = (tmp_path/'new'/'cache').iterdir()
    when = made.stat().st_mtime_ns
    assert elsewhere(tmp_path/'new'/'cache', ask, PATH='') == 'in use for bf16' and made.stat().st_mtime_ns == when      # no compiler needed any more
    whole = made.read_bytes()
    for part in (0, 1000, len(whole) - 1):
        made.write_bytes(whole[:part])
        assert elsewhere(tmp_path/'new'/'cache', ask) == 'in use for bf16' and len(made.read_bytes()) == len(whole)

@needs_kernel
def test_without_a_place_to_keep_it(tmp_path):
    (tmp_path/'file').write_text('not a folder')
    assert elsewhere(tmp_path/'file', 'print(head_kernel()[1])') == 'in use for bf16'

DRAW = """torch.manual_seed(0); head = DiffusionHead(4, 7, HeadConfig(blocks=1, width=64, x0_limit=3.0))
with torch.autocast('cpu', torch.bfloat16): print(head_kernel()[1], '|', head.sample(torch.randn(5, 7), diff_steps=3).isfinite().all().item())"""

@pytest.mark.skipif(sys.platform != 'linux', reason='elsewhere nothing is compiled')
def test_without_a_compiler_drawing_goes_on(tmp_path):
    assert elsewhere(tmp_path, DRAW, PATH='') == 'needs the compiler g++ | True'
    (tmp_path/'g++').write_text('#!/bin/sh\necho "In file included from x:" >&2; echo "error: unrecognized option" >&2; exit 1\n'); (tmp_path/'g++').chmod(0o755)
    assert elsewhere(tmp_path, DRAW, PATH=f'{tmp_path}:/bin:/usr/bin') == 'g++ says: error: unrecognized option | True'

@pytest.mark.skipif(sys.platform != 'linux' or platform.machine() != 'x86_64' or not shutil.which('g++'), reason='nothing to compile it with, or for')
def test_it_compiles():
    "Else everything above would be left out, and nobody would notice"
    for library, why in (head_kernel(), block_kernels(), linear_kernel()): assert library or why == 'this processor lacks the instructions', why

def test_the_source_travels_with_the_package(tmp_path):
    root = Path(__file__).resolve().parent.parent
    subprocess.run([sys.executable, 'setup.py', '-q', 'build_py', '--build-lib', str(tmp_path)], cwd=root, check=True, capture_output=True)
    assert {'head.cpp', 'transformer.cpp', 'linear.cpp', 'simd.h'} <= {f.name for f in (tmp_path/'marlearn').iterdir()}
