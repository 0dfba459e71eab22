"What several test files use"
import torch
from marlearn.cli import main

def captured(capsys, *argv):
    "Run a command: its exit status, and what it printed"
    status = 0
    try: main([str(a) for a in argv])
    except SystemExit as e: status = e.code
    return status, capsys.readouterr()

def run(capsys, *argv):
    "Exit status and what stood on stderr"
    status, said = captured(capsys, *argv)
    return status, said.err

def randomise(module, seed=0):
    "No layer stays at zero: each number matters"
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(0.3*torch.randn(p.shape, generator=g))
    return module.eval()
