"The one loop: both backbones, known tokens, guidance, orders and schedules, and what it refuses"
import os
from pathlib import Path
import pytest, torch
from hypothesis import given, settings, strategies as st
from torch.testing import assert_close
from marlearn.ar import take
from marlearn.generate import anneal_diff_steps, generate, guidance_at, guidance_scales, known_first
from marlearn.heads import HeadConfig
from marlearn.mar import AutoregressiveModel, ModelConfig
from marlearn.orders import cosine_counts, make_order, ORDERS, random_order, raster_order, SCHEDULES

N, P, D = 16, 5, 32
LABELS = torch.tensor([0, 1, 2])
B = len(LABELS)
PARITY = Path(os.environ.get('MARLEARN_PARITY') or Path(__file__).parent/'parity')/'diffusion.safetensors'

def generator(seed=0): return torch.Generator().manual_seed(seed)

def make_model(backbone='mar', kind='diffusion', **changes):
    "A small model with random weights, none of them zero; cross-entropy with a codebook of its own"
    torch.manual_seed(0)
    head = HeadConfig(kind=kind, blocks=1, width=24, x0_limit=4.0, codes=7 if kind == 'cross-entropy' else 0)
    settings = {'n_tokens': N, 'token_dim': P, 'n_classes': 3, 'backbone': backbone, 'width': D, 'encoder_blocks': 1,
                'decoder_blocks': 1, 'heads': 4, 'class_slots': 2, 'dropout': 0.0, 'head': head}
    model = AutoregressiveModel(ModelConfig(**settings | changes)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1*torch.randn_like(p))
    if kind == 'cross-entropy':
        model.head.set_codebook(torch.randn(7, P))
    return model

@pytest.fixture(scope='module')
def models(): return {b: make_model(b) for b in ('mar', 'causal')}

def draw(model, seed=0, labels=LABELS, **options):
    return generate(model, labels, generator=generator(seed), **({'diff_steps': 3} | options))

def some_known(n_hidden, seed=0):
    g = generator(seed)
    return torch.randn(B, N, P, generator=g), torch.rand(B, N, generator=g).argsort(1).argsort(1) < n_hidden

class Recorder:
    "Counts rows of the backbone, and notes what reaches the head"
    def __init__(self, model, monkeypatch):
        self.rows, self.steps, self.scales, self.guided = [], [], [], []
        condition, sample = model.backbone.condition, model.head.sample
        def watch(tokens, labels, order, n_known, n_new=1, cache=None, lengths=None):
            self.rows.append(len(tokens))
            self.steps.append((n_known, n_new))
            return condition(tokens, labels, order, n_known, n_new, cache=cache, lengths=lengths)
        def listen(z, *, z_uncond=None, cfg_scale=1.0, **kw):
            self.scales.append(cfg_scale)
            self.guided.append(z_uncond is not None)
            self.options = kw
            return sample(z, z_uncond=z_uncond, cfg_scale=cfg_scale, **kw)
        monkeypatch.setattr(model.backbone, 'condition', watch)
        monkeypatch.setattr(model.head, 'sample', listen)

# --- known tokens -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('cfg_scale', [1.0, 2.0])
@pytest.mark.parametrize('backbone', ['mar', 'causal'])
def test_known_tokens_come_back_bit_for_bit_and_hidden_values_have_no_say(models, backbone, cfg_scale):
    for n_hidden in (1, 7, 15, 16):
        known, hidden = some_known(n_hidden)
        out = draw(models[backbone], known=known, hidden=hidden, cfg_scale=cfg_scale)
        assert torch.equal(out[~hidden], known[~hidden]) and not torch.isin(out[hidden], known[hidden]).any()
        for value in (float('nan'), float('inf'), 1e6):
            spoilt = torch.where(hidden.unsqueeze(-1), value, known)
            assert torch.equal(out, draw(models[backbone], known=spoilt, hidden=hidden, cfg_scale=cfg_scale))
        assert torch.equal(known, some_known(n_hidden)[0])                      # and the input is left alone

@pytest.mark.parametrize('backbone', ['mar', 'causal'])
def test_known_tokens_are_seen_by_all_that_are_drawn(models, backbone):
    known, hidden = some_known(6)
    out, other = (draw(models[backbone], known=k, hidden=hidden) for k in (known, known + 1))
    assert ((out - other)[hidden].abs().amax(1) > 1e-4).all()

def test_everything_known_or_nothing_known(models):
    known, _ = some_known(0)
    assert torch.equal(draw(models['mar'], known=known, hidden=torch.zeros(B, N, dtype=torch.bool),
                            callback=lambda *a: pytest.fail('nothing to draw')), known)
    assert torch.equal(draw(models['mar'], known=known, hidden=torch.ones(B, N, dtype=torch.bool)), draw(models['mar']))

@settings(max_examples=15, deadline=None)
@given(backbone=st.sampled_from(['mar', 'causal']), n_hidden=st.integers(0, N), k=st.integers(0, 99),
       seed=st.integers(0, 999), order=st.sampled_from([*ORDERS]), schedule=st.sampled_from([*SCHEDULES]))
def test_every_hidden_token_is_drawn_once_and_no_known_one(backbone, n_hidden, k, seed, order, schedule):
    model, (known, hidden), steps = make_model(backbone, 'mse'), some_known(n_hidden, seed), []
    K = None if backbone == 'causal' or not n_hidden else 1 + k % n_hidden
    out = draw(model, seed, known=known, hidden=hidden, ar_steps=K, order=order, schedule=schedule,
               callback=lambda k, tokens, new: steps.append((k, new)))
    seen = torch.zeros(B, N, dtype=torch.long)
    for _, new in steps:
        seen.scatter_add_(1, new, torch.ones_like(new))
    assert torch.equal(seen, hidden.long())
    assert [k for k, _ in steps] == list(range(len(steps)))
    assert (K is None or len(steps) == K)
    assert torch.equal(out[~hidden], known[~hidden]) and out.isfinite().all()

def test_steps_are_planned_for_hidden_tokens_only(models, monkeypatch):
    seen, (known, hidden) = Recorder(models['mar'], monkeypatch), some_known(6)
    draw(models['mar'], known=known, hidden=hidden, ar_steps=4)
    assert seen.steps == [(10, 1), (11, 1), (12, 2), (14, 2)] and [n for _, n in seen.steps] == cosine_counts(6, 4)
    seen.steps.clear()
    draw(models['mar'], known=known, hidden=hidden)         # the default: as many steps as hidden tokens
    assert [n for _, n in seen.steps] == [1]*6

def test_known_first_keeps_both_halves_in_order():
    order, (_, hidden) = random_order(B, N, generator()), some_known(6)
    got = known_first(order, hidden)
    for o, h, new in zip(order.tolist(), hidden.tolist(), got.tolist()):
        assert new == [p for p in o if not h[p]] + [p for p in o if h[p]]

def test_raster_causal_models_continue_a_picture_but_fill_no_hole():
    model, (known, _) = make_model('causal', 'mse', order='raster'), some_known(0)
    prefix = torch.arange(N).expand(B, N) >= 5
    out = draw(model, known=known, hidden=prefix)
    assert torch.equal(out[:, :5], known[:, :5])
    hole = prefix.clone()
    hole[:, :8] = torch.arange(8) % 2 == 0
    with pytest.raises(ValueError, match='raster order: known tokens must be the first'):
        draw(model, known=known, hidden=hole)
    draw(make_model('causal', 'mse', order='random'), known=known, hidden=hole)
    draw(make_model('mar', 'mse', order='raster'), known=known, hidden=hole)

# --- guidance ---------------------------------------------------------------------------------------------------------

def test_linear_guidance_is_the_ramp_and_constant_is_flat(models, monkeypatch):
    seen, counts = Recorder(models['mar'], monkeypatch), cosine_counts(N, 5)
    draw(models['mar'], cfg_scale=3.0, ar_steps=5)
    assert seen.scales == [guidance_at(3.0, N - sum(counts[:k+1]), N) for k in range(5)]
    assert seen.scales[-1] == 1 + 2*15/16
    seen.scales.clear()
    draw(models['mar'], cfg_scale=3.0, ar_steps=5, guidance='constant')
    assert seen.scales == [3.0]*5 and seen.rows == [2*B]*10 and all(seen.guided)

@pytest.mark.parametrize('backbone, K', [('mar', 8), ('causal', 16)])
@pytest.mark.parametrize('interval', [(0.25, 0.75), (0.0, 0.5), (0.5, 1.0), (0.0, 1.0), (0.3, 0.31)])
def test_interval_guidance_runs_two_branches_only_inside(models, monkeypatch, backbone, K, interval):
    seen, counts = Recorder(models[backbone], monkeypatch), [1]*N if backbone == 'causal' else cosine_counts(N, K)
    draw(models[backbone], cfg_scale=3.0, ar_steps=K, guidance=interval)
    inside = [interval[0] <= sum(counts[:k])/N < interval[1] for k in range(K)]
    assert seen.rows == [2*B if i else B for i in inside]
    assert seen.guided == inside
    assert seen.scales == [3.0 if i else 1.0 for i in inside]

@pytest.mark.parametrize('backbone', ['mar', 'causal'])
def test_no_second_branch_without_guidance(models, monkeypatch, backbone):
    seen = Recorder(models[backbone], monkeypatch)
    for guidance in ('linear', 'constant', (0.2, 0.8)):
        draw(models[backbone], cfg_scale=1.0, guidance=guidance)
    assert set(seen.rows) == {B} and not any(seen.guided)

def test_guidance_counts_what_was_known_from_the_start(models, monkeypatch):
    seen, (known, hidden) = Recorder(models['mar'], monkeypatch), some_known(6)
    draw(models['mar'], cfg_scale=3.0, ar_steps=2, known=known, hidden=hidden)
    assert seen.scales == [1 + 2*(10 + cosine_counts(6, 2)[0])/16, 1 + 2*15/16]
    seen.rows.clear()
    draw(models['mar'], cfg_scale=3.0, guidance=(0.0, 0.6), known=known, hidden=hidden)
    assert set(seen.rows) == {B}                                                # 10 of 16 are known already

def test_guidance_towards_the_null_class_of_null_labels_changes_nothing():
    model, nobody = make_model('mar', 'mse'), torch.full((B,), 3)
    assert_close(draw(model, labels=nobody, cfg_scale=3.0), draw(model, labels=nobody), atol=1e-4, rtol=1e-4)

@pytest.mark.parametrize('backbone', ['mar', 'causal'])
@pytest.mark.parametrize('guidance', ['linear', 'constant', (0.2, 0.7)])
def test_two_branches_in_one_pass_equal_two_passes(backbone, guidance):
    model, order = make_model(backbone, 'mse'), random_order(B, N, generator(3))
    counts = [1]*N if backbone == 'causal' else cosine_counts(N, 6)
    scales, tokens, n_known = guidance_scales(2.5, N, counts, guidance), torch.zeros(B, N, P), 0
    with torch.no_grad():
        for n, scale in zip(counts, scales):
            new = order[:, n_known:n_known + n]
            z, z_uncond = (take(model.backbone(tokens, labels, order, n_known), new).flatten(0, 1)
                           for labels in (LABELS, torch.full_like(LABELS, 3)))
            tokens = tokens.scatter(1, new.unsqueeze(-1).expand(-1, -1, P),
                                    model.head.sample(z, z_uncond=z_uncond, cfg_scale=scale).view(B, n, P))
            n_known += n
    assert_close(draw(model, order=order, cfg_scale=2.5, guidance=guidance, ar_steps=len(counts)), tokens, atol=1e-4,
                 rtol=1e-4)

@pytest.mark.skipif(not PARITY.exists(), reason='no recorded schedules there')
def test_guidance_equals_the_recorded_official_ramp():
    from safetensors.torch import load_file
    recorded, n = load_file(PARITY), 0
    for name, want in recorded.items():
        if not (name.startswith('sched.') and '.cfg_iter_' in name): continue
        N, K, scale = int(name.split('.')[1][1:]), int(name.split('.')[2][1:]), float(name.split('cfg_iter_')[1])
        if K > N: continue
        assert_close(torch.tensor(guidance_scales(scale, N, cosine_counts(N, K)), dtype=torch.float64),
                     want.flatten().double(), rtol=1e-6, atol=0)
        n += 1
    assert n or not any('.cfg_iter_' in name for name in recorded)

# --- causal backbones -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('kind', ['diffusion', 'cross-entropy'])
@pytest.mark.parametrize('order', ['raster', 'random'])
def test_cached_causal_generation_equals_a_naive_loop(kind, order):
    model, g = make_model('causal', kind, order=order), generator(1)
    options = {'diff_steps': 3} if kind == 'diffusion' else {}
    places, tokens = make_order(order, B, N, g), torch.zeros(B, N, P)
    with torch.no_grad():
        for k in range(N):  # the whole sequence in every step, and no cache
            new = places[:, k:k+1]
            z = take(model.backbone(tokens, LABELS, places), new).flatten(0, 1)
            tokens = tokens.scatter(1, new.unsqueeze(-1).expand(-1, -1, P),
                                    model.head.sample(z, generator=g, **options).view(B, 1, P))
    assert_close(draw(model, seed=1), tokens, atol=1e-4, rtol=1e-4)

def test_causal_with_known_tokens_equals_a_naive_loop():
    model, g, (known, hidden) = make_model('causal'), generator(1), some_known(6)
    order, tokens = known_first(random_order(B, N, g), hidden), torch.where(hidden.unsqueeze(-1), 0, known)
    with torch.no_grad():
        for k in range(N - 6, N):
            z = take(model.backbone(tokens, LABELS, order), order[:, k:k+1]).flatten(0, 1)
            tokens = tokens.scatter(1, order[:, k:k+1].unsqueeze(-1).expand(-1, -1, P),
                                    model.head.sample(z, generator=g, diff_steps=3).view(B, 1, P))
    assert_close(draw(model, seed=1, known=known, hidden=hidden), tokens, atol=1e-4, rtol=1e-4)

def test_the_cache_is_used(models):
    lengths = []
    def note(module, args): lengths.append(args[0].shape[1])
    hook = models['causal'].backbone.blocks[0].register_forward_pre_hook(note)
    draw(models['causal'])
    hook.remove()
    assert lengths == [2] + [1]*(N - 1)  # two class slots, then one token at a time

@pytest.mark.parametrize('options', [{'ar_steps': 4}, {'ar_steps': 15}, {'schedule': [8, 8]}])
def test_causal_models_draw_one_token_a_step(models, options):
    with pytest.raises(ValueError, match='one token a step, so 16'):
        draw(models['causal'], **options)
    assert torch.equal(draw(models['causal'], ar_steps=16), draw(models['causal'], schedule=[1]*16))
    known, hidden = some_known(6)
    with pytest.raises(ValueError, match='ar_steps=16 must lie in 1..6'):
        draw(models['causal'], known=known, hidden=hidden, ar_steps=16)

# --- orders, schedules, defaults --------------------------------------------------------------------------------------

def positions(model, **options):
    seen = []
    draw(model, callback=lambda k, tokens, new: seen.append(new), **options)
    return torch.cat(seen, 1), [new.shape[1] for new in seen]

def test_orders_by_name_and_by_tensor():
    model, own = make_model(kind='mse'), random_order(B, N, generator(9))
    for name in ORDERS:
        assert torch.equal(positions(model, order=name)[0], make_order(name, B, N, generator(0)))
    for order in (own, own.int(), own.tolist()):
        assert torch.equal(positions(model, order=order)[0], own)
    assert torch.equal(positions(model, order=own[1])[0], own[1].expand(B, N))
    assert torch.equal(positions(model)[0], random_order(B, N, generator(0)))   # the model's own
    assert torch.equal(positions(make_model(kind='mse', order='raster'))[0], raster_order(B, N))

def test_schedules_by_name_and_by_list():
    model = make_model(kind='mse')
    for name, counts in SCHEDULES.items():
        assert positions(model, schedule=name, ar_steps=5)[1] == counts(N, 5)
    for options in ({'schedule': [3, 1, 12]}, {'schedule': torch.tensor([3, 1, 12]), 'ar_steps': 3}):
        assert positions(model, **options)[1] == [3, 1, 12]

def test_default_steps():
    assert positions(make_model(kind='mse'))[1] == [1]*N
    assert positions(make_model(kind='mse', ar_steps=4))[1] == cosine_counts(N, 4)
    assert positions(make_model(kind='mse', ar_steps=4), ar_steps=2)[1] == cosine_counts(N, 2)
    assert len(positions(make_model(kind='mse', n_tokens=100))[1]) == 64
    known, hidden = some_known(3)
    assert positions(make_model(kind='mse', ar_steps=4), known=known, hidden=hidden)[1] == [1]*3

@pytest.mark.parametrize('backbone', ['mar', 'causal'])
def test_repeatable_and_without_the_global_generator(models, backbone):
    before = torch.get_rng_state()
    first = draw(models[backbone], cfg_scale=2.0)
    torch.manual_seed(77)
    assert torch.equal(first, draw(models[backbone], cfg_scale=2.0))
    assert not torch.equal(first, draw(models[backbone], seed=1, cfg_scale=2.0))
    torch.set_rng_state(before)
    draw(models[backbone])
    assert torch.equal(torch.get_rng_state(), before)

def test_callback_sees_the_tokens_of_its_step(models):
    states = []
    out = draw(models['mar'], ar_steps=4, callback=lambda k, tokens, new: states.append((tokens, new)))
    for tokens, new in states:
        assert torch.equal(take(tokens, new), take(out, new)) and tokens.shape == (B, N, P)

# --- heads ------------------------------------------------------------------------------------------------------------

def test_only_options_that_the_head_knows_reach_it(monkeypatch):
    for kind, expected in (('diffusion', {'diff_steps': 7}), ('flow', {'diff_steps': 7}), ('mse', {}), ('mixture', {}),
                           ('energy', {}), ('cross-entropy', {})):
        model = make_model(kind=kind)
        seen = Recorder(model, monkeypatch)
        generate(model, LABELS, diff_steps=7, temperature=0.5, ar_steps=2, generator=generator())
        got = {k: v for k, v in seen.options.items() if k not in ('temperature', 'generator')}
        assert got == expected
        assert seen.options['temperature'] == 0.5
        assert set(expected) <= set(model.head.sample_options)
        if 'sampler' not in model.head.sample_options:
            with pytest.raises(ValueError, match="sampler='ddim'"):
                draw(model, sampler='ddim')
        if not expected:
            draw(model, diff_steps=10**6)                          # of no interest to a head of one pass

def test_samplers_reach_a_diffusion_head(models, monkeypatch):
    seen, drawn = Recorder(models['mar'], monkeypatch), {}
    for sampler in ('ddpm', 'ddim', 'dpm++'):
        drawn[sampler] = draw(models['mar'], ar_steps=2, sampler=sampler)
        assert seen.options['sampler'] == sampler
    assert torch.equal(drawn['ddpm'], draw(models['mar'], ar_steps=2)) and not torch.equal(drawn['ddpm'], drawn['ddim'])

@pytest.mark.parametrize('head', ['diffusion', 'flow', 'mse', 'mixture', 'energy', 'cross-entropy'])
@pytest.mark.parametrize('backbone', ['mar', 'causal'])
def test_every_head_on_both_backbones_with_known_tokens_and_guidance(backbone, head):
    model, (known, hidden) = make_model(backbone, head), some_known(6)
    out = draw(model, known=known, hidden=hidden, cfg_scale=1.5, guidance=(0.5, 0.9))
    assert out.dtype == torch.float32 and out.isfinite().all() and torch.equal(out[~hidden], known[~hidden])
    if head == 'cross-entropy':
        assert torch.cdist(out[hidden], model.head.codebook).amin(1).max() < 1e-5

# --- bad input --------------------------------------------------------------------------------------------------------

nan, inf, known_, hidden_ = float('nan'), float('inf'), *some_known(6)
unequal = hidden_.clone()
unequal[1] = True
@pytest.mark.parametrize('what, options', [
    ('temperature=-0.1', {'temperature': -0.1}), ('temperature=nan', {'temperature': nan}),
    ('temperature=inf', {'temperature': inf}),
    ('cfg_scale=nan', {'cfg_scale': nan}), ('cfg_scale=inf', {'cfg_scale': inf}),
    ('cfg_scale=-inf', {'cfg_scale': -inf}),
    ('ar_steps=0', {'ar_steps': 0}), ('ar_steps=17', {'ar_steps': 17}), ('ar_steps=2.5', {'ar_steps': 2.5}),
    ('ar_steps=3, but', {'ar_steps': 3, 'schedule': [8, 8]}),
    ('diff_steps=0', {'diff_steps': 0}), ('diff_steps=1001', {'diff_steps': 1001}),
    ('diff_steps=nan', {'diff_steps': nan}), ('diff_steps=2.5', {'diff_steps': 2.5}),
    ('diff_steps=100', {'diff_steps': '100'}),
    ("sampler='euler'", {'sampler': 'euler'}), ("guidance='cosine'", {'guidance': 'cosine'}),
    ("guidance='ab'", {'guidance': 'ab'}), ('guidance=', {'guidance': (0.5, 0.2)}),
    ('guidance=', {'guidance': (0.1, 1.5)}),
    ('guidance=', {'guidance': (-0.1, 0.5)}), ('guidance=', {'guidance': (nan, 0.5)}),
    ('guidance=', {'guidance': (0.1, 0.2, 0.3)}), ('guidance=', {'guidance': None}),
    ('guidance=', {'guidance': ('a', 1)}),
    ("no order 'spiral'", {'order': 'spiral'}),
    ('order of sequence 1 is not a permutation',
     {'order': torch.stack([torch.arange(N), torch.zeros(N).long(), torch.arange(N)])}),
    (r'order \(1, 3\)', {'order': torch.zeros(1, 3)}), ('order', {'order': torch.arange(N).float()}),
    ("no schedule 'square'", {'schedule': 'square'}),
    ('17 tokens in all', {'schedule': [16, 1]}), ('at least one', {'schedule': [16, 0]}),
    ('10 tokens in all, but there are 6', {'schedule': [5, 5], 'known': known_, 'hidden': hidden_}),
    ('ar_steps=7 must lie in 1..6', {'ar_steps': 7, 'known': known_, 'hidden': hidden_}),
    ('hidden is missing', {'known': known_}), ('known is missing', {'hidden': hidden_}),
    ('sequence 0 hides 6 tokens, sequence 1 hides 16', {'known': known_, 'hidden': unequal}),
    ('NaN or infinite', {'known': known_.masked_fill(~hidden_.unsqueeze(-1), nan), 'hidden': hidden_}),
    ('NaN or infinite', {'known': known_.masked_fill(~hidden_.unsqueeze(-1), inf), 'hidden': hidden_}),
    (r'known \(3, 16, 4\)', {'known': known_[..., :4], 'hidden': hidden_}),
    (r'known \(2, 16, 5\)', {'known': known_[:2], 'hidden': hidden_[:2]}),
    ('int64', {'known': known_.long(), 'hidden': hidden_}),
    (r'hidden \(3, 15\)', {'known': known_, 'hidden': hidden_[:, 1:]}),
    ('hidden', {'known': known_, 'hidden': hidden_.float()}),
    ('class 4 does not exist', {'labels': torch.tensor([0, 1, 4])}), ('class -1', {'labels': torch.tensor([0, 1, -1])}),
    (r'labels \(3, 1\)', {'labels': LABELS[:, None]})])
def test_bad_input_is_refused_before_any_work(models, monkeypatch, what, options):
    monkeypatch.setattr(torch.nn.Linear, 'forward', lambda *a: pytest.fail('work was done before the error'))
    with pytest.raises(ValueError, match=what):
        draw(models['mar'], **options)

def test_guidance_needs_a_null_class_that_was_learned():
    model = make_model(label_drop=0.0)
    with pytest.raises(ValueError, match='label_drop=0'):
        draw(model, cfg_scale=2.0)
    draw(model)

# --- fewer diffusion steps for late tokens ----------------------------------------------------------------------------

def test_annealing_is_a_straight_line():
    assert anneal_diff_steps((7, 7), 3) == [7, 7, 7]
    assert anneal_diff_steps((50, 5), 10) == [50, 45, 40, 35, 30, 25, 20, 15, 10, 5]
    assert anneal_diff_steps((3, 6), 4) == [3, 4, 5, 6]
    assert anneal_diff_steps((9, 2), 1) == [9] and anneal_diff_steps((9, 2), 0) == []

@pytest.mark.parametrize('backbone', ['mar', 'causal'])
def test_every_set_gets_its_diffusion_steps(models, backbone, monkeypatch):
    seen, sample = [], models[backbone].head.sample
    monkeypatch.setattr(models[backbone].head, 'sample',
                        lambda *a, **kw: seen.append(kw['diff_steps']) or sample(*a, **kw))
    draw(models[backbone], diff_steps=(9, 2))
    assert seen == anneal_diff_steps((9, 2), len(seen)) and seen[0] == 9 and seen[-1] == 2
    assert torch.equal(draw(models[backbone], diff_steps=(4, 4)), draw(models[backbone], diff_steps=4))

@pytest.mark.parametrize('diff_steps', [(5,), (5, 4, 3), (5, 0), (1001, 5), (5, 2.5), 'ab', ()])
def test_annealing_that_makes_no_sense(models, diff_steps):
    with pytest.raises(ValueError, match='diff_steps'):
        draw(models['mar'], diff_steps=diff_steps)

# --- precision --------------------------------------------------------------------------------------------------------

def test_half_precision_and_back():
    model = make_model('mar')
    full = draw(model)
    with torch.autocast('cpu', torch.bfloat16):
        half = draw(model)
    assert not torch.equal(half, full) and torch.equal(draw(model), full)
