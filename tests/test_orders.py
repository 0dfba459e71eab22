"Every order and every schedule takes each position once, and what comes from outside is checked"
import os
from fractions import Fraction
from pathlib import Path
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from marlearn.orders import (
    checkerboard_order, cosine_counts, exponential_counts, given_counts, halton_cell, halton_order,
    linear_counts, make_counts, make_order, mask_from_order, ORDERS, random_order, SCHEDULES)

few = settings(max_examples=40, deadline=None)
sides, steps = st.integers(1, 12), st.integers(1, 10_000)
PARITY = Path(os.environ.get('MARLEARN_PARITY') or Path(__file__).parent/'parity')/'diffusion.safetensors'

def generator(seed=0): return torch.Generator().manual_seed(seed)

@st.composite
def split(draw, N):
    "N as a sum of numbers of at least 1, the user's own schedule"
    cuts = sorted(draw(st.sets(st.integers(1, N - 1), max_size=N - 1))) if N > 1 else []
    return [b - a for a, b in zip([0, *cuts], [*cuts, N])]

@few
@given(data=st.data(), name=st.sampled_from([*ORDERS, 'own']), schedule=st.sampled_from([*SCHEDULES, 'own']),
       side=sides, k=steps, seed=st.integers(0, 2**31))
def test_every_schedule_in_every_order_reveals_each_position_once(data, name, schedule, side, k, seed):
    B, N = 2, side*side
    order = make_order(data.draw(st.permutations(range(N))) if name == 'own' else name, B, N, generator(seed))
    counts = make_counts(data.draw(split(N)), N) if schedule == 'own' else make_counts(schedule, N, 1 + k % N)
    assert schedule == 'own' or len(counts) == 1 + k % N
    seen, n_known = torch.zeros(B, N, dtype=torch.long), 0
    for n in counts:
        assert n >= 1
        new = order[:, n_known:n_known + n]
        assert mask_from_order(order, n_known).gather(1, new).all()             # hidden until its step
        seen.scatter_add_(1, new, torch.ones_like(new))
        n_known += n
    assert order.dtype == torch.int64 and order.shape == (B, N) and (seen == 1).all()

@few
@given(N=st.integers(1, 3000), k=steps)
def test_schedules_for_any_number_of_tokens(N, k):
    for name in SCHEDULES:
        counts = make_counts(name, N, 1 + k % N)
        assert len(counts) == 1 + k % N and sum(counts) == N and min(counts) >= 1, name

@few
@given(side=sides, seed=st.integers(0, 2**31))
def test_checkerboard_never_returns_to_the_first_colour(side, seed):
    order = checkerboard_order(3, side*side, generator(seed))
    colour = (order//side + order%side) % 2
    assert (colour.diff(dim=1) >= 0).all()
    assert (colour[:, 0] == 0).all()
    assert (colour == 0).sum(1).eq((side*side + 1)//2).all()

def test_checkerboard_is_random_within_a_colour():
    firsts = checkerboard_order(4000, 16, generator())[:, 0].bincount(minlength=16)
    expected = torch.tensor([(i//4 + i%4) % 2 == 0 for i in range(16)])*500.
    assert (firsts - expected).abs().max() < 5*500**.5 and (firsts[expected == 0] == 0).all()

@pytest.mark.parametrize('side', [1, 2, 3, 5, 7, 8, 16, 27, 32, 64])
def test_halton_is_a_permutation_and_the_same_every_time(side):
    order = halton_order(2, side*side)
    assert (order.sort(dim=1).values == torch.arange(side*side)).all() and (order[0] == order[1]).all()
    assert (order == halton_order(2, side*side)).all()

@pytest.mark.parametrize('side', [3, 6, 9, 10, 18])
def test_halton_equals_exact_fractions(side):
    "Where floats fail: the fifth point is 7/9 in base 3, and 9 times that is 6.99..."
    def mirror(i, base):
        value, place = Fraction(0), Fraction(1, base)
        while i:
            value, place, i = value + i%base*place, place/base, i//base
        return value
    cells, i = {}, 0
    while len(cells) < side*side:
        i += 1
        cells.setdefault(int(mirror(i, 2)*side)*side + int(mirror(i, 3)*side))
    assert halton_order(1, side*side)[0].tolist() == list(cells)
    assert halton_cell(5, 3, 9) == 7

def test_halton_follows_its_points():
    "i = 1, 2, 3, 4: (1/2, 1/3), (1/4, 2/3), (3/4, 1/9), (1/8, 4/9) on a board of 8"
    assert halton_order(1, 64)[0, :4].tolist() == [4*8 + 2, 2*8 + 5, 6*8 + 0, 1*8 + 3]
    for base in (2, 3):  # exact where floats are not: multiples of 1/side
        for side in (base, base**2, 10):
            for i in range(1, 500):
                cell, digits, n = halton_cell(i, base, side), [], i
                while n:
                    digits.append(n % base)
                    n //= base
                top = sum(d*base**(len(digits) - 1 - p) for p, d in enumerate(digits))
                assert cell == top*side//base**len(digits)

@pytest.mark.parametrize('side', [8, 16])
def test_spreading_orders_write_fewer_neighbours_together_than_chance(side):
    N, together = side*side, {}
    for name in ORDERS:
        turns = make_order(name, 30, N, generator()).argsort(1)
        step = torch.repeat_interleave(torch.tensor(cosine_counts(N, 8)))[turns].view(-1, side, side)
        together[name] = ((step.diff(dim=1) == 0).sum((1, 2)) + (step.diff(dim=2) == 0).sum((1, 2))).double().mean()
    assert max(together['halton'], together['checkerboard']) < 0.6*together['random'] < 0.6*together['raster']

def test_known_lists():
    assert cosine_counts(16, 4) == [2, 3, 5, 6]
    assert exponential_counts(256, 8) == [2, 2, 4, 8, 16, 32, 64, 128]
    assert exponential_counts(125, 3) == [5, 20, 100]                           # 125**(1/3) is 4.99... in floats
    assert linear_counts(10, 3) == [3, 3, 4]
    for counts in SCHEDULES.values():
        assert counts(49, 49) == [1]*49 and counts(49, 1) == [49]

@pytest.mark.skipif(not PARITY.exists(), reason='no recorded schedules there')
def test_cosine_schedule_equals_the_recorded_official_one():
    from safetensors.torch import load_file
    recorded, n = load_file(PARITY), 0
    for name in recorded:
        if not (name.startswith('sched.') and name.endswith('.n_pred')): continue
        N, K = int(name.split('.')[1][1:]), int(name.split('.')[2][1:])
        if K > N:
            with pytest.raises(ValueError, match=f'ar_steps={K} must lie in 1..{N}'):
                cosine_counts(N, K)
        else:
            assert cosine_counts(N, K) == recorded[name].flatten().long().tolist()
            n += 1
    assert n or not any(name.startswith('sched.') for name in recorded)

@pytest.mark.parametrize('schedule', SCHEDULES)
@pytest.mark.parametrize('K', [0, 17, -1, 2.0, None])
def test_steps_that_cannot_be_are_refused(schedule, K):
    with pytest.raises(ValueError, match='ar_steps='):
        make_counts(schedule, 16, K)

@pytest.mark.parametrize('counts, says', [([3, 12], '15 tokens in all, but there are 16'), ([3, 14], '17 tokens'),
                                          ([0, 16], 'step 0 reveals 0'), ([8, 0, 8], 'step 1 reveals 0'),
                                          ([-1, 17], 'step 0 reveals -1'), ([8.0, 8.0], 'not a whole number'),
                                          ([8, 8.5], 'step 1'), ([True]*16, 'not a whole number'), ([], '0 tokens'),
                                          (['8', '8'], 'not a whole number'),
                                          (torch.tensor([8., 8.]), 'not a whole number'),
                                          (torch.tensor([[8, 8]]), 'not a whole number'), (None, 'list'), (16, 'list'),
                                          (torch.tensor(16), 'list'), ([8, float('nan')], 'not a whole number'),
                                          ('cubic', 'there is no schedule')])
def test_wrong_schedules_are_refused(counts, says):
    with pytest.raises(ValueError, match=says):
        make_counts(counts, 16)

def test_given_schedules_of_many_kinds():
    for counts in ([4, 12], (4, 12), torch.tensor([4, 12]), np.array([4, 12])):
        assert make_counts(counts, 16) == given_counts(16, counts) == [4, 12]
    with pytest.raises(ValueError, match='ar_steps=3, but the given schedule has 2'):
        make_counts([4, 12], 16, 3)
    assert make_counts([4, 12], 16, 2) == [4, 12]

@few
@given(order=st.permutations(range(9)), where=st.integers(0, 8), value=st.integers(-3, 12), image=st.integers(0, 2))
def test_a_changed_permutation_is_refused_and_its_image_named(order, where, value, image):
    orders = torch.tensor([order]*3)
    assert torch.equal(make_order(orders, 3, 9), orders)
    if value == order[where]: return
    orders[image, where] = value
    with pytest.raises(ValueError, match=f'order of sequence {image} is not a permutation'):
        make_order(orders, 3, 9)

@pytest.mark.parametrize('order', [torch.zeros(1, 3), torch.arange(3), torch.arange(4).expand(3, 4), torch.arange(4.),
                                   torch.ones(2, 4, dtype=torch.bool), torch.tensor([0., 1., 2., float('nan')]),
                                   'spiral', None, [0, 1, None, 2], [[0, 1], [2]], torch.tensor(3)])
def test_what_is_no_order_is_refused(order):
    with pytest.raises(ValueError, match='order'):
        make_order(order, 2, 4)

def test_own_orders_of_many_kinds():
    for order in ([2, 0, 3, 1], torch.tensor([2, 0, 3, 1], dtype=torch.int32), np.array([2, 0, 3, 1]),
                  torch.tensor([[2, 0, 3, 1]]*2)):
        assert torch.equal(make_order(order, 2, 4), torch.tensor([[2, 0, 3, 1]]*2))

@pytest.mark.parametrize('name', ['checkerboard', 'halton'])
@pytest.mark.parametrize('N', [2, 10, 15, 17])
def test_orders_of_a_grid_need_a_grid(name, N):
    with pytest.raises(ValueError, match=f'N={N} is not a square number'):
        make_order(name, 2, N)
    for other in ('random', 'raster'):
        assert make_order(other, 2, N).shape == (2, N)

@pytest.mark.parametrize('name', ORDERS)
def test_orders_repeat_with_the_same_generator_and_leave_the_global_one_alone(name):
    before = torch.get_rng_state()
    assert torch.equal(make_order(name, 3, 25, generator(5)), make_order(name, 3, 25, generator(5)))
    assert torch.equal(torch.get_rng_state(), before)
    if name in ('random', 'checkerboard'):
        assert not torch.equal(make_order(name, 3, 25, generator(5)), make_order(name, 3, 25, generator(6)))
    assert torch.equal(random_order(3, 25, generator(5)), make_order('random', 3, 25, generator(5)))
