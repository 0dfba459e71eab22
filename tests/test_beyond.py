"Sequences that no lesson names, with the library alone: from data to drawn sequences in 50 lines"
import math
from pathlib import Path
import pytest, torch
from marlearn.engine.checkpoints import load_checkpoint, save_checkpoint
from marlearn.engine.run import fit, RunConfig
from marlearn.generate import generate
from marlearn.heads import HeadConfig
from marlearn.mar import AutoregressiveModel, ModelConfig
from marlearn.tokenizers import PixelTokenizer
from marlearn.train import TokenData, TrainConfig, train_loop
from tools import run

# The task begins here: a pen draws loops and eights of any size, in 10 to 16 moves
N, SCALE = 16, 3.0
KINDS = 'loop', 'eight'

def moves(n, seed):
    "Tokens (n, N, 2), the moves of a pen; what it draws (n,); how many moves each has (n,)"
    g = torch.Generator().manual_seed(seed)
    kinds, lengths = torch.arange(n) % 2, torch.randint(10, N + 1, (n,), generator=g)
    size, start = .6 + .8*torch.rand(n, 1, generator=g), 2*math.pi*torch.rand(n, 1, generator=g)
    angle = start + 2*math.pi*torch.arange(N + 1)/lengths.unsqueeze(1)
    down = torch.where(kinds.unsqueeze(1) == 0, angle.sin(), (2*angle).sin())
    points = size.unsqueeze(2)*torch.stack([angle.cos(), down], dim=2)
    tokens = SCALE*points.diff(dim=1) + .05*torch.randn(n, N, 2, generator=g)
    return tokens*(torch.arange(N) < lengths.unsqueeze(1)).unsqueeze(2), kinds, lengths

def turned(tokens, lengths):
    "(n,) how often the pen went round: a loop nearly once, an eight not at all"
    (x, y), (u, v) = tokens[:, :-1].unbind(2), tokens[:, 1:].unbind(2)
    real = torch.arange(1, N) < lengths.unsqueeze(1)
    return (torch.atan2(x*v - y*u, x*u + y*v)*real).sum(1)/(2*math.pi)

def trained(folder):
    tokens, kinds, lengths = moves(1000, seed=0)
    config = ModelConfig(n_tokens=N, token_dim=2, n_classes=2, backbone='causal', order='raster', width=32, heads=4,
                         encoder_blocks=1, decoder_blocks=1, class_slots=1, dropout=0.0,
                         head=HeadConfig(blocks=1, width=48, x0_limit=4.0))
    torch.manual_seed(0)
    model, settings = AutoregressiveModel(config), TrainConfig(steps=200, batch_size=64, lr=5e-3, ema=.97)
    ema, _ = train_loop(model, TokenData(tokens, None, kinds, lengths), settings)
    save_checkpoint(folder, model=model, ema=ema, config=settings, classes=KINDS, step=settings.steps)
    return load_checkpoint(folder).model

def test_a_pen(tmp_path):
    model, (tokens, kinds, lengths) = trained(tmp_path/'pen'), moves(200, seed=1)
    drawn = generate(model, kinds, lengths=lengths, diff_steps=25, generator=torch.Generator().manual_seed(0))
    right = (turned(drawn, lengths).abs() > .5) == (kinds == 0)
    assert right.float().mean() > .85                                          # half, if the class did not matter
    lost, way = drawn.sum(1).norm(dim=1), drawn.norm(dim=2).sum(1)
    assert (lost/way).median() < .15                                           # it comes back to where it began
    sizes, real_sizes = way/lengths, tokens.norm(dim=2).sum(1)/lengths
    assert .6 < sizes.std()/real_sizes.std() < 1.4                             # and every drawing is another one
# The task ends here

def test_the_task_has_50_lines():
    task = Path(__file__).read_text(encoding='utf-8').split('# The task ')[1]
    assert 20 < len([line for line in task.splitlines()[1:] if line.strip()]) <= 50

def tiny():
    return ModelConfig(n_tokens=6, token_dim=2, n_classes=2, width=16, encoder_blocks=1, decoder_blocks=1, heads=2,
                       class_slots=1, head=HeadConfig(blocks=1, width=16))

def test_a_long_run_without_a_tokenizer_goes_on_where_it_was(tmp_path):
    data = TokenData(torch.randn(20, 6, 2), None, torch.arange(20) % 2)
    config = RunConfig(model=tiny(), train=TrainConfig(steps=4, batch_size=8, save_every=2, sample_every=0, log_every=2,
                                                       compile=False))
    def train(out, **options):
        torch.manual_seed(0)
        model = AutoregressiveModel(config.model)
        fit(model, data, config, out, tokenizer=options.pop('tokenizer', None), classes=KINDS, **options)
        return model
    whole = train(tmp_path/'whole')
    train(tmp_path/'stopped', stop_at=2)
    half = tmp_path/'stopped'/'checkpoints'/'step-00000002'
    resumed = train(tmp_path/'stopped', resume_from=half)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True): assert torch.equal(a, b)
    with pytest.raises(ValueError, match='another run: tokenizer was None, is .*pixels'):
        train(tmp_path/'other', resume_from=half, tokenizer=PixelTokenizer(4))

def test_commands_say_that_such_a_model_draws_no_pictures(tmp_path, capsys):
    save_checkpoint(tmp_path/'c', model=AutoregressiveModel(tiny()), config=TrainConfig(), classes=KINDS, step=1)
    assert load_checkpoint(tmp_path/'c').tokenizer is None
    status, said = run(capsys, 'sample', '--checkpoint', tmp_path/'c', '--out', tmp_path/'page.png')
    assert status != 0 and 'has no tokenizer' in said and 'Traceback' not in said
