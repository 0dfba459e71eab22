"The causal backbone, its cache, and the two simplest heads"
import copy, pytest, torch
from torch.nn import functional as F
from torch.testing import assert_close
from marlearn.ar import CausalAR, check_inputs, check_labels, check_order, CrossEntropyHead, Head, MSEHead, take

B, N, P, D, CLASSES, V = 3, 9, 5, 32, 4, 11

def stirred(module, seed=0, size=0.1):
    "Nothing left at its quiet start, so that every number matters"
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(size*torch.randn(p.shape, generator=noise))
    return module.eval()

def make_model(**changes):
    torch.manual_seed(0)
    sizes = {'n_tokens': N, 'token_dim': P, 'n_classes': CLASSES, 'width': D, 'blocks': 3, 'heads': 4}
    return stirred(CausalAR(**(sizes | changes)))

def raster(): return torch.arange(N).expand(B, N)

def shuffled(seed=1): return torch.rand(B, N, generator=torch.Generator().manual_seed(seed)).argsort(1)

@pytest.fixture
def tokens(g): return torch.randn(B, N, P, generator=g)

LABELS = torch.tensor([0, 3, CLASSES])                             # the last is the null class

# ---------------------------------------------------------------- backbone

def steps(model, tokens, labels, order, start, cache):
    return torch.cat([model.condition(tokens, labels, order, k, 1, cache) for k in range(start, N)], dim=1)

@pytest.mark.parametrize('slots', [1, 3])
@pytest.mark.parametrize('order', [raster(), shuffled()], ids=['raster', 'random'])
@pytest.mark.parametrize('start', [0, 1, 4, N - 1])
@torch.no_grad()
def test_cached_equals_uncached(tokens, slots, order, start):
    model = make_model(class_slots=slots)
    cached = steps(model, tokens, LABELS, order, start, model.make_cache(B))
    assert cached.shape == (B, N - start, D)
    assert_close(cached, steps(model, tokens, LABELS, order, start, None), rtol=1e-5, atol=1e-5)
    trained = take(model(tokens, LABELS, order), order[:, start:])
    assert_close(cached, trained, rtol=1e-5, atol=1e-5)            # training sees the same z

@torch.no_grad()
def test_cache_may_skip_ahead(tokens):
    "Several tokens may become known between two calls"
    model, order = make_model(class_slots=2), shuffled()
    cache, z = model.make_cache(B), model(tokens, LABELS, order)
    for k in (2, 3, 7, 8):
        found = model.condition(tokens, LABELS, order, k, 1, cache)
        assert_close(found, take(z, order[:, k:k+1]), rtol=1e-5, atol=1e-5)

@torch.no_grad()
def test_doubled_batch_for_guidance(tokens):
    "2B rows with one cache: conditional rows, then null rows, as two separate passes give them"
    model, order = make_model(), shuffled()
    nobody = torch.full_like(LABELS, CLASSES)
    labels = torch.cat([LABELS, nobody])
    both = steps(model, tokens.repeat(2, 1, 1), labels, order.repeat(2, 1), 2, model.make_cache(2*B))
    apart = torch.cat([steps(model, tokens, labels, order, 2, None) for labels in (LABELS, nobody)])
    assert_close(both, apart, rtol=1e-5, atol=1e-5)
    assert (both[0] - both[B]).abs().max() > 1e-2                  # the class matters

@pytest.mark.parametrize('order', [raster(), shuffled()], ids=['raster', 'random'])
@torch.no_grad()
def test_nothing_leaks(tokens, order):
    "Changing the token at place j of the order moves the z of all later places, and of no other"
    model = make_model()
    before = take(model(tokens, LABELS, order), order)
    for j in range(N):
        changed = tokens.scatter(1, order[:, j:j+1, None].expand(-1, -1, P), torch.full((B, 1, P), 7.0))
        moved = (take(model(changed, LABELS, order), order) - before).abs().amax(-1) > 0
        assert not moved[:, :j + 1].any() and moved[:, j + 1:].all(), j

@torch.no_grad()
def test_hidden_tokens_are_never_read_in_generation(tokens):
    model, order, cache = make_model(), shuffled(), None
    cache = model.make_cache(B)
    for k in range(N):
        poisoned = tokens.scatter(1, order[:, k:, None].expand(-1, -1, P), float('nan'))
        found = model.condition(poisoned, LABELS, order, k, 1, cache)
        clean = model.condition(tokens, LABELS, order, k, 1)
        assert_close(found, clean, rtol=1e-5, atol=1e-5)

@torch.no_grad()
def test_images_do_not_see_each_other(tokens):
    model, order, other = make_model(), shuffled(), tokens.clone()
    other[1] += 1
    z, z_other = model(tokens, LABELS, order), model(other, LABELS, order)
    assert_close(z[::2], z_other[::2], rtol=0, atol=0)
    assert (z[1] - z_other[1]).abs().max() > 1e-3

@torch.no_grad()
def test_the_asked_position_matters(tokens):
    "Same class, same known tokens, another question: another z. Without the table of next positions, the same"
    model = make_model()
    one = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 7, 8]]*B)
    two = torch.tensor([[0, 1, 2, 8, 4, 5, 6, 7, 3]]*B)            # after 0, 1, 2 it asks for 8
    ask = lambda order: model.condition(tokens, LABELS, order, 3, 1)
    assert (ask(one) - ask(two)).abs().max() > 1e-2
    model.next_position.zero_()
    assert_close(ask(one), ask(two), rtol=0, atol=0)

@torch.no_grad()
def test_own_positions_matter(tokens):
    model, (one, two) = make_model(), (torch.tensor([[*known, 2, 3, 4, 5, 6, 7, 8]]*B) for known in ((0, 1), (1, 0)))
    same = tokens.clone()
    same[:, 1] = same[:, 0]                 # the two known tokens are equal: only their places differ
    assert (model.condition(same, LABELS, one, 2, 1) - model.condition(same, LABELS, two, 2, 1)).abs().max() > 1e-4

def test_n_known_has_no_effect_on_training(tokens):
    model, order = make_model(), shuffled()
    assert_close(model(tokens, LABELS, order, 5), model(tokens, LABELS, order), rtol=0, atol=0)

def test_gradient_reaches_every_parameter(tokens):
    model, head = make_model(class_slots=2).train(), MSEHead(P, D, 16)
    labels = torch.arange(CLASSES + 1)
    tokens = tokens.repeat(2, 1, 1)[:len(labels)]
    order = torch.rand(len(labels), N, generator=torch.Generator().manual_seed(2)).argsort(1)
    head.loss(model(tokens, labels, order).flatten(0, 1), tokens.flatten(0, 1)).mean().backward()
    silent = [n for m in (model, head) for n, p in m.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent
    for table in (model.class_embedding.weight, model.next_position, model.position):
        assert table.grad.any(-1).all()

def test_works_in_bf16(tokens):
    model, order = make_model(), shuffled()
    with torch.no_grad():
        exact = model(tokens, LABELS, order)
        with torch.autocast('cpu', torch.bfloat16):
            z, cached = model(tokens, LABELS, order), steps(model, tokens, LABELS, order, 0, model.make_cache(B))
    assert z.dtype == torch.float32 and (z - exact).abs().max() < 0.1*exact.abs().max()
    assert (take(z, order) - cached).abs().max() < 0.1*exact.abs().max()

def test_backbone_says_what_is_wrong(tokens):
    model, order = make_model(), shuffled()
    twice = order.clone()
    twice[1, 0] = twice[1, 1]
    for ask in (model, lambda *args: model.condition(*args, 2, 1)):
        with pytest.raises(ValueError, match=r'tokens \(3, 9, 2\) must be \(B, 9, 5\)'):
            ask(tokens[..., :2], LABELS, order)
        with pytest.raises(ValueError, match='one class per sequence'):
            ask(tokens, LABELS[:1], order)
        with pytest.raises(ValueError, match='class 5 does not exist'):
            ask(tokens, LABELS + 1, order)
        with pytest.raises(ValueError, match='order of sequence 1 is not a permutation of 0..8'):
            ask(tokens, LABELS, twice)
        with pytest.raises(ValueError, match=r'order \(3, 4\) must be \(3, 9\)'):
            ask(tokens, LABELS, order[:, :4])
    with pytest.raises(ValueError, match='n_new=2: a causal backbone draws one token a step'):
        model.condition(tokens, LABELS, order, 0, 2)
    for n_known in (-1, N):
        with pytest.raises(ValueError, match=f'n_known={n_known} must lie in 0..8'):
            model.condition(tokens, LABELS, order, n_known, 1)
    cache = model.make_cache(B)
    with torch.no_grad():
        model.condition(tokens, LABELS, order, 4, 1, cache)
    with pytest.raises(ValueError, match='make a new cache'):
        model.condition(tokens, LABELS, order, 4, 1, cache)
    with pytest.raises(ValueError, match='made for 3 sequences'):
        model.condition(tokens[:2], LABELS[:2], order[:2], 5, 1, cache)
    with pytest.raises(ValueError, match='blocks=0'):
        make_model(blocks=0)
    with pytest.raises(ValueError, match='not a multiple of heads=5'):
        make_model(heads=5)

def test_checks():
    check_order(shuffled(), B, N)
    for wrong in (torch.zeros(B, N, dtype=torch.int64), shuffled() + 1, shuffled() - 1):
        with pytest.raises(ValueError, match='not a permutation'):
            check_order(wrong, B, N)
    with pytest.raises(ValueError, match='int64'):
        check_order(shuffled().float(), B, N)
    with pytest.raises(ValueError, match='class -1 does not exist'):
        check_labels(torch.tensor([0, -1]), CLASSES)
    check_labels(LABELS, CLASSES)
    with pytest.raises(ValueError, match='must be'):
        check_inputs(torch.zeros(B, N), LABELS, N, P, CLASSES)

# ---------------------------------------------------------------- heads

@pytest.fixture
def codebook(g): return torch.randn(V, P, generator=g)

def make_cross_entropy(codebook):
    torch.manual_seed(0)
    head = CrossEntropyHead(P, D, V)
    head.set_codebook(codebook)
    return stirred(head)

def test_cross_entropy_is_that_of_the_indices(g, codebook):
    head, index, z = make_cross_entropy(codebook), torch.randint(V, (50,), generator=g), torch.randn(50, D, generator=g)
    want = F.cross_entropy(head.to_logits(z), index, reduction='none')
    assert_close(head.indices(codebook[index]), index)
    assert_close(head.loss(z, codebook[index]), want)
    assert_close(head.loss_parts(z, codebook[index]), {'ce': want})
    for dtype in (torch.float16, torch.bfloat16):
        assert_close(head.loss(z, codebook[index].to(dtype).float()), want)      # as a latent cache may keep them

def test_matching_in_pieces_and_under_autocast(g):
    "Many rows against many codes, also where matrix products are rounded to bf16"
    codes = torch.randn(4096, 4, generator=g)
    head = CrossEntropyHead(4, D, 4096)
    head.set_codebook(codes)
    index = torch.randint(4096, (5000,), generator=g)
    with torch.autocast('cpu', torch.bfloat16):
        assert_close(head.indices(codes[index]), index)

def test_twins_in_the_codebook_are_no_trouble(g, codebook):
    "Codes that were never used may all be equal"
    twins = codebook.clone()
    twins[5:] = twins[5]
    head, index = make_cross_entropy(twins), torch.randint(5, (20,), generator=g)
    assert_close(head.indices(twins[index]), index)

def test_cross_entropy_refuses_what_is_no_code(g, codebook):
    head, z = make_cross_entropy(codebook), torch.randn(50, D, generator=g)
    good = codebook[torch.randint(V, (50,), generator=g)]
    for moved in (torch.randn(50, P, generator=g), good + 0.2*torch.randn(50, P, generator=g)):
        with pytest.raises(ValueError, match='needs a tokenizer with a codebook'):
            head.loss(z, moved)
    bad = good.clone()
    bad[7, 2] = float('nan')
    with pytest.raises(ValueError, match='1 of 250 numbers in the tokens are NaN'):
        head.loss(z, bad)
    with pytest.raises(ValueError, match='needs a tokenizer with a codebook'):
        head.indices(bad)
    with pytest.raises(ValueError, match=r'tokens of 5 numbers, target \(50, 4\)'):
        head.loss(z, good[:, :4])
    with pytest.raises(ValueError, match='same number of rows'):
        head.loss(z[:3], good)

def test_cross_entropy_without_codebook(g, codebook):
    head, z = CrossEntropyHead(P, D, V), torch.randn(3, D, generator=g)
    with pytest.raises(ValueError, match='codebook is empty'):
        head.loss(z, codebook[:3])
    with pytest.raises(ValueError, match='codebook is empty'):
        head.sample(z)
    with pytest.raises(ValueError, match='this one has none'):
        head.set_codebook(None)
    with pytest.raises(ValueError, match=r'codebook \(3, 5\) must be \(11, 5\)'):
        head.set_codebook(codebook[:3])
    with pytest.raises(ValueError, match='NaN'):
        head.set_codebook(codebook*float('nan'))
    with pytest.raises(ValueError, match='codes=0: cross-entropy needs a tokenizer with a codebook'):
        CrossEntropyHead(P, D, 0)

def test_codebook_travels_with_the_weights(g, codebook):
    head, index, z = make_cross_entropy(codebook), torch.randint(V, (9,), generator=g), torch.randn(9, D, generator=g)
    fresh = CrossEntropyHead(P, D, V)
    fresh.load_state_dict(head.state_dict())
    assert_close(fresh.loss(z, codebook[index]), head.loss(z, codebook[index]))
    assert_close(copy.deepcopy(head).loss(z, codebook[index]), head.loss(z, codebook[index]))
    fresh.load_state_dict({**head.state_dict(), 'codebook': 1000*codebook})
    assert_close(fresh.indices(1000*codebook[index] + .1), index)  # room for rounding grows with the codes ...
    with pytest.raises(ValueError, match='needs a tokenizer with a codebook'):
        fresh.indices(codebook[index])
    with pytest.raises(ValueError, match='needs a tokenizer with a codebook'):
        head.indices(codebook[index] + .1)                         # ... and is small where they are
    assert 'codebook' not in dict(head.named_parameters())

def test_draws_follow_the_softmax(g, codebook):
    head, z = make_cross_entropy(codebook), torch.randn(1, D, generator=g)
    for temperature in (1.0, 0.5):
        drawn = head.sample(z.expand(20_000, -1), temperature=temperature, generator=g)
        share = F.one_hot(head.indices(drawn), V).float().mean(0)
        want = (head.to_logits(z)[0]/temperature).softmax(0)
        assert (share - want).abs().max() < 5*0.5/20_000**.5
    best = head.sample(z.expand(50, -1), temperature=0.0)
    assert_close(best, codebook[head.to_logits(z).argmax()].expand(50, -1))

def test_guidance_acts_on_the_scores(g, codebook):
    head, (z, z_uncond) = make_cross_entropy(codebook), torch.randn(2, 40, D, generator=g)
    c, u = head.to_logits(z), head.to_logits(z_uncond)
    assert_close(head.sample(z, z_uncond=z_uncond, cfg_scale=3.0, temperature=0.0), codebook[(u + 3*(c - u)).argmax(1)])
    draw = lambda **kw: head.sample(z, generator=torch.Generator().manual_seed(0), **kw)
    assert_close(draw(z_uncond=z_uncond, cfg_scale=1.0), draw())
    assert (draw(z_uncond=z_uncond, cfg_scale=4.0) != draw()).any()

def test_mse_head(g):
    head, (z, z_uncond) = stirred(MSEHead(P, D, 24)), torch.randn(2, 40, D, generator=g)
    target = torch.randn(40, P, generator=g)
    guess, blank = head.net(z), head.net(z_uncond)
    assert_close(head.loss(z, target), (guess - target).square().mean(1))
    assert_close(head.loss_parts(z, target), {'mse': head.loss(z, target)})
    for temperature in (0.0, 1.0):
        assert_close(head.sample(z, temperature=temperature), guess)
    assert_close(head.sample(z, z_uncond=z_uncond, cfg_scale=3.0), blank + 3*(guess - blank))
    with pytest.raises(ValueError, match=r'tokens of 5 numbers, target \(40, 6\)'):
        head.loss(z, torch.zeros(40, 6))
    with pytest.raises(ValueError, match='NaN or infinite'):
        head.loss(z, target/0)

@pytest.mark.parametrize('kind', ['cross-entropy', 'mse'])
def test_heads_keep_the_protocol(g, codebook, kind):
    head = make_cross_entropy(codebook) if kind == 'cross-entropy' else stirred(MSEHead(P, D, 16))
    z = torch.randn(6, D, generator=g)
    assert isinstance(head, Head) and head.token_dim == P and head.sample_options == ()
    assert head.continuous == (kind == 'mse')
    with pytest.raises(ValueError, match='cfg_scale=2.0 needs z_uncond'):
        head.sample(z, cfg_scale=2.0)
    with pytest.raises(ValueError, match='z_uncond'):
        head.sample(z, z_uncond=z[:2], cfg_scale=2.0)
    with pytest.raises(ValueError, match='temperature=-1'):
        head.sample(z, temperature=-1.0)
    draw = lambda seed, **kw: head.sample(z, generator=torch.Generator().manual_seed(seed), **kw)
    torch.manual_seed(1)
    first = draw(5)
    torch.manual_seed(2)
    second = draw(5)                         # the global state has no say
    assert first.shape == (6, P) and first.dtype == torch.float32 and not first.requires_grad
    assert_close(first, second, rtol=0, atol=0)
    seen = []
    assert_close(draw(5, callback=lambda t, xt, x0: seen.append((t, xt, x0))), first, rtol=0, atol=0)
    assert len(seen) == 1 and seen[0][0] == 0
    with torch.autocast('cpu', torch.bfloat16):
        assert draw(5).dtype == torch.float32
    with pytest.raises(NotImplementedError):
        Head().sample(z)

def test_training_learns_a_rule(g):
    "One model end to end: the second half of a sequence repeats the first, in random order"
    codes = torch.randn(3, 2, generator=g)
    torch.manual_seed(0)
    model = CausalAR(n_tokens=6, token_dim=2, n_classes=1, width=32, blocks=2, heads=4)
    head = CrossEntropyHead(2, 32, 3)
    head.set_codebook(codes)
    with torch.no_grad():
        model.position.mul_(10), model.next_position.mul_(10)    # louder places: a short training is enough
    opt = torch.optim.AdamW([*model.parameters(), *head.parameters()], lr=3e-3)
    def batch(n):
        half = torch.randint(3, (n, 3), generator=g)
        return codes[half.repeat(1, 2)], torch.zeros(n, dtype=torch.int64), torch.rand(n, 6, generator=g).argsort(1)
    for _ in range(300):
        tokens, labels, order = batch(64)
        loss = head.loss(model(tokens, labels, order).flatten(0, 1), tokens.flatten(0, 1)).mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
    assert abs(loss.item() - 0.5*torch.tensor(3.).log().item()) < 0.05         # half cannot be known: log 3 each
    model.eval()
    tokens, labels, order = batch(100)
    drawn, cache = torch.zeros(100, 6, 2), model.make_cache(100)
    with torch.no_grad():
        for k in range(6):
            z = model.condition(drawn, labels, order, k, 1, cache)[:, 0]
            drawn[torch.arange(100), order[:, k]] = head.sample(z, generator=g)
    index = head.indices(drawn.flatten(0, 1)).view(100, 6)
    assert (index[:, :3] == index[:, 3:]).float().mean() > 0.97
