"Sequences of unequal length: padding is seen by nobody, is nobody's target, and is never drawn"
from dataclasses import replace
import pytest, torch
from marlearn.generate import generate
from marlearn.heads import HeadConfig
from marlearn.mar import AutoregressiveModel, ModelConfig
from marlearn.orders import check_lengths, padding_last, random_order
from marlearn.train import TokenData, TrainConfig, held_out_loss, train_loop
from tools import randomise

N, P, B = 10, 3, 4
LENGTHS = torch.tensor([10, 7, 4, 1])
CONFIG = ModelConfig(n_tokens=N, token_dim=P, n_classes=2, width=16, encoder_blocks=1, decoder_blocks=2, heads=2,
                     class_slots=2, dropout=0.0, min_mask_ratio=0.3, head=HeadConfig(blocks=1, width=16))
WAYS = [('mar', 'random'), ('causal', 'raster'), ('causal', 'random')]

def make(backbone, order):
    torch.manual_seed(0)
    return randomise(AutoregressiveModel(replace(CONFIG, backbone=backbone, order=order)), 0).eval()

def padding(lengths=LENGTHS): return torch.arange(N) >= lengths.unsqueeze(1)

def some_tokens(): return torch.randn(B, N, P, generator=torch.Generator().manual_seed(0))

@pytest.mark.parametrize('backbone, order', WAYS)
def test_padding_does_not_touch_the_loss(backbone, order):
    model, labels = make(backbone, order), torch.tensor([0, 1, 0, 1])
    tokens = some_tokens().requires_grad_()
    def loss(x): return model.loss(x, labels, generator=torch.Generator().manual_seed(1), lengths=LENGTHS)['loss']
    value = loss(tokens)
    value.backward()
    assert not tokens.grad[padding()].any() and tokens.grad[~padding()].any()
    other = tokens.detach().masked_fill(padding().unsqueeze(-1), 50.0)
    torch.testing.assert_close(loss(other), value.detach())

@pytest.mark.parametrize('backbone, order', WAYS)
def test_full_lengths_change_nothing(backbone, order):
    model, labels, full = make(backbone, order), torch.tensor([0, 1, 0, 1]), torch.full((B,), N)
    def loss(lengths):
        return model.loss(some_tokens(), labels, generator=torch.Generator().manual_seed(1), lengths=lengths)['loss']
    torch.testing.assert_close(loss(full), loss(None))
    def draw(lengths):
        return generate(model, labels, diff_steps=4, cfg_scale=2.0, lengths=lengths,
                        generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(draw(full), draw(None), atol=1e-4, rtol=1e-4)

def test_loss_is_the_mean_over_real_tokens():
    model, labels = make('causal', 'raster'), torch.tensor([0, 1, 0, 1])
    model.config = replace(model.config, label_drop=0.0)
    model.head = torch.nn.Module()
    model.head.loss_parts = lambda z, target, generator: {'first': target[:, 0]} # a number that can be looked up
    loss = model.loss(some_tokens(), labels, lengths=LENGTHS, generator=torch.Generator())['loss']
    torch.testing.assert_close(loss, some_tokens()[..., 0][~padding()].mean())

@pytest.mark.parametrize('backbone, order', WAYS)
def test_what_stands_in_padding_is_not_seen_when_drawing(backbone, order):
    model, labels, known = make(backbone, order), torch.tensor([0, 1, 0, 1]), some_tokens()
    hidden = torch.ones(B, N, dtype=torch.bool)
    if backbone == 'mar': hidden[:, 1:] = False # all but one are known, padding among them
    order = random_order(1, N, torch.Generator().manual_seed(3)).expand(B, N) if order == 'random' else None
    def draw(x):
        return generate(model, labels, known=x, hidden=hidden, lengths=LENGTHS, order=order, diff_steps=3,
                        cfg_scale=1.5, generator=torch.Generator().manual_seed(1))
    a, b = draw(known), draw(known.masked_fill(padding().unsqueeze(-1), -30.0))
    torch.testing.assert_close(a, b)
    assert not a[padding()].any() and a[~padding()].all()

def test_causal_padding_must_be_drawn():
    model, labels = make('causal', 'raster'), torch.tensor([0, 1, 0, 1])
    hidden = torch.zeros(B, N, dtype=torch.bool)
    hidden[:, 5] = True
    with pytest.raises(ValueError, match='where padding stands'):
        generate(model, labels, known=some_tokens(), hidden=hidden, lengths=LENGTHS)

def test_orders_put_padding_last():
    order = random_order(B, N, torch.Generator().manual_seed(0))
    last = padding_last(order, LENGTHS)
    for row, old, n in zip(last.tolist(), order.tolist(), LENGTHS.tolist()):
        assert row[:n] == [i for i in old if i < n] and sorted(row) == list(range(N))

@pytest.mark.parametrize('lengths, words', [
    (torch.tensor([3, 3]), r'must be \(4,\)'), (torch.tensor([3., 3, 3, 3]), 'float32'),
    (torch.tensor([0, 1, 2, 3]), r'1\.\.10'), (torch.tensor([11, 1, 2, 3]), r'1\.\.10')])
def test_wrong_lengths(lengths, words):
    with pytest.raises(ValueError, match=words): check_lengths(lengths, B, N)
    with pytest.raises(ValueError, match=words):
        make('mar', 'random').loss(some_tokens(), torch.zeros(B, dtype=torch.long), lengths=lengths)

@pytest.mark.parametrize('backbone, order', WAYS)
def test_training_loop(backbone, order):
    g = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, N + 1, (64,), generator=g)
    tokens = torch.randn(64, N, P, generator=g)*.1 + 1
    tokens[torch.arange(N) >= lengths.unsqueeze(1)] = 0
    data = TokenData(tokens, None, torch.zeros(64, dtype=torch.long), lengths)
    config = TrainConfig(steps=30, batch_size=16, lr=3e-3, log_every=30, ema=.9)
    model = make(backbone, order)
    before = held_out_loss(model, data)
    ema, history = train_loop(model, data, config, data)
    assert history[-1]['held_out'] < before
    # what padding holds makes no difference to the weights
    changed = tokens.clone()
    changed[torch.arange(N) >= lengths.unsqueeze(1)] = 7
    other = make(backbone, order)
    train_loop(other, replace(data, mean=changed), config)
    for a, b in zip(model.parameters(), other.parameters()): torch.testing.assert_close(a, b)
