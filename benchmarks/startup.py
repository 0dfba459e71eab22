"""How long until something happens? python -m benchmarks.startup

A fresh process each time, in turns: imports, and the command line's help."""
import argparse
import subprocess
import sys
from pathlib import Path
import time
from .common import ROOT, commit, machine, spread, table, write

TRAINING = 'import torch, marlearn.train, marlearn.generate, marlearn.engine.run, marlearn.engine.presets'
WAYS = { # name -> what follows `python`
    'import torch': ['-c', 'import torch'],
    'import torch, marlearn.mar': ['-c', 'import torch, marlearn.mar'],
    'import all that trains and draws': ['-c', TRAINING],
    'marlearn --help': ['-m', 'marlearn', '--help'],
    'marlearn train --help': ['-m', 'marlearn', 'train', '--help'],
    'marlearn sample --help': ['-m', 'marlearn', 'sample', '--help'],
}

def seconds(arguments:list[str])->float:
    "Of a whole process"
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
    return time.perf_counter() - start

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--repeats', type=int, default=9)
    parser.add_argument('--out', type=Path, default=ROOT/'benchmarks'/'results'/'startup.json')
    args = parser.parse_args()
    found = {name: [] for name in WAYS}
    for k in range(args.repeats + 1): # the first round fills the disk's cache
        for name, arguments in WAYS.items():
            s = seconds(arguments)
            if k: found[name].append(s)
    torch_alone = spread(found['import torch'])['median']
    rows = [{'what': name, 'seconds': spread(s), 'median': spread(s)['median'],
             'of torch': spread(s)['median']/torch_alone}
            for name, s in found.items()]
    print(table(rows, ['what', 'median', 'of torch']))
    write({'machine': machine('cpu'), 'commit': commit(), 'repeats': args.repeats, 'rows': rows}, args.out)
