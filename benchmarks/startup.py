"""How long does an import take? python -m benchmarks.startup

A fresh process each time, in turns: torch alone, torch and marlearn, torch and every module of the library that training, drawing and measuring need."""
import argparse, subprocess, sys
from pathlib import Path
from benchmarks.common import ROOT, commit, machine, spread, table, write

WAYS = {'torch': 'import torch', 'torch, marlearn': 'import torch, marlearn',
        'torch, all that trains and draws': 'import torch, marlearn.train, marlearn.generate, marlearn.presets, marlearn.tokenizers', 'torch, all that measures too': 'import torch, marlearn.train, marlearn.generate, marlearn.presets, marlearn.metrics'}

def seconds(statement:str)->float:
    "Of the import alone: the start of Python is not counted"
    done = subprocess.run([sys.executable, '-c', f'import time; start = time.perf_counter(); {statement}; print(time.perf_counter() - start)'], capture_output=True, text=True, check=True)
    return float(done.stdout)

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--repeats', type=int, default=9)
    parser.add_argument('--out', type=Path, default=ROOT/'benchmarks'/'results'/'startup.json')
    args = parser.parse_args()
    found = {name: [] for name in WAYS}
    for k in range(args.repeats + 1):                          # the first round fills the disk's cache
        for name, statement in WAYS.items():
            s = seconds(statement)
            if k: found[name].append(s)
    alone = spread(found['torch'])['median']
    rows = [{'imports': name, 'seconds': spread(s), 'median': spread(s)['median'], 'on top of torch': spread(s)['median'] - alone} for name, s in found.items()]
    print(table(rows, ['imports', 'median', 'on top of torch']))
    write({'machine': machine('cpu'), 'commit': commit(), 'repeats': args.repeats, 'rows': rows}, args.out)
