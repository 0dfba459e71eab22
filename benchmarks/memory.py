"""Does a plan's memory agree with what a training step takes? python -m benchmarks.memory

Each case is a process of its own that makes a model, its optimizer and its average, and trains for two steps. The
most that it held beyond what it held before is compared with the plan's count: on a CPU resident memory and matrix
products in float32, on a GPU allocated memory and bf16 where the GPU has it."""
import argparse
from dataclasses import replace
from pathlib import Path
import torch
from marlearn.engine.flops import most_known
from marlearn.engine.hardware import pick_device, pick_precision
from marlearn.engine.plan import activation_bytes, n_weights, state_bytes
from marlearn.heads import HeadConfig
from marlearn.mar import AutoregressiveModel, ModelConfig
from marlearn.train import EMA, make_optimizer, step_generator, train_step, TrainConfig
from .common import MODELS, ROOT, commit, held_now, machine, peak_memory, report_memory, table, write

WIDE = ModelConfig(n_tokens=64, token_dim=16, n_classes=10, width=256, encoder_blocks=3, decoder_blocks=3, heads=4,
                   class_slots=16, dropout=0.0, head=HeadConfig(blocks=3, width=256))
CASES = { # name -> configuration, pictures at a time
    'wide': (WIDE, 16),
    'wide, few pictures': (replace(WIDE, width=512, heads=8), 2),
    'dropout': (replace(WIDE, dropout=0.1), 16),
    'deep': (replace(WIDE, width=128, encoder_blocks=8, decoder_blocks=8), 16),
    'large head': (replace(WIDE, width=128, head=HeadConfig(blocks=6, width=384)), 12),
    'causal': (replace(WIDE, backbone='causal'), 16),
    'many codes': (replace(WIDE, head=HeadConfig(kind='cross-entropy', codes=8000)), 16),
    'mar-b': (MODELS['mar-b'], 4),
}

def train(c:ModelConfig, B:int, n_known:int, device:str, steps:int=2):
    "From the second step on, Adam has its moments"
    dtype = torch.float32 if device == 'cpu' else pick_precision(device)[0]
    model = AutoregressiveModel(c).to(device).train()
    tokens = torch.randn(B, c.n_tokens, c.token_dim, device=device)
    if c.head.kind == 'cross-entropy':
        codes = torch.randn(c.head.codes, c.token_dim, device=device)
        model.head.set_codebook(codes)
        tokens = codes[:B*c.n_tokens].reshape(tokens.shape)
    opt, ema = make_optimizer(model, TrainConfig()), EMA(model)
    for step in range(steps):
        generator = step_generator(0, step, device)
        train_step(model, tokens, torch.arange(B, device=device) % c.n_classes, opt, generator=generator, dtype=dtype,
                   n_known=n_known)
        ema.update(model, step)

def remember(name:str, n_known:int, device:str):
    "In a process of its own, whose last line of output is what training took, in bytes"
    train(MODELS['tiny'], 2, 0, device)                                # what the libraries take when they begin
    before = held_now(device)
    train(*CASES[name], n_known, device)
    report_memory(device, before)

def measure(name:str, device:str, tries:int=1)->dict:
    "One row: the plan's count for the fullest step, and what was measured"
    c, B = CASES[name]
    size = 2 if device != 'cpu' and pick_precision(device)[0] == torch.bfloat16 else 4
    kept = {k: activation_bytes(c, B, k, size) for k in (0, most_known(c))}
    fullest = max(kept, key=kept.get)
    code = f'import benchmarks.memory as m; m.remember({name!r}, {fullest}, {device!r})'
    found = peak_memory(code, tries, in_use=True)
    state, activations = state_bytes(c, size=size)/1e9, kept[fullest]/1e9
    return {'case': name, 'pictures': B, 'parameters': n_weights(c), 'state': state, 'activations': activations,
            'plan': state + activations, 'measured': found, 'median': found['median'],
            'plan/measured': (state + activations)/found['median']}

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    usual = [name for name in CASES if name != 'mar-b']                # that one wants 8 GB, and minutes on a CPU
    parser.add_argument('--cases', nargs='+', default=usual, choices=list(CASES))
    parser.add_argument('--tries', type=int, default=3)
    parser.add_argument('--device', default=str(pick_device()))
    parser.add_argument('--out', type=Path, default=ROOT/'benchmarks'/'results'/'memory.json')
    args = parser.parse_args()
    rows = [measure(name, args.device, args.tries) for name in args.cases]
    print(table(rows, ['case', 'pictures', 'state', 'activations', 'plan', 'median', 'plan/measured']))
    about = {'machine': machine(args.device), 'commit': commit(), 'tries': args.tries, 'unit': 'GB'}
    write(about | {'rows': rows}, args.out)
