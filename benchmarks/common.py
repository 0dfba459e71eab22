"The models that are timed, timing side by side, memory, and where results go"
import gc
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
import torch
from marlearn.engine.hardware import machine as hardware
from marlearn.engine.hardware import pick_precision
from marlearn.engine.presets import mar_base, mar_huge, mar_large
from marlearn.heads import HeadConfig
from marlearn.mar import ModelConfig

ROOT = Path(__file__).resolve().parents[1]
TOY = ModelConfig(n_tokens=64, token_dim=4, n_classes=10, width=256, encoder_blocks=4, decoder_blocks=4, heads=4,
                  class_slots=16,
                  dropout=0.0, head=HeadConfig(blocks=3, width=256))
TINY = ModelConfig(n_tokens=16, token_dim=4, n_classes=10, width=32, encoder_blocks=1, decoder_blocks=1, heads=2,
                   class_slots=2,
                   dropout=0.0, head=HeadConfig(blocks=2, width=32)) # for the tests
PAPER = {'mar-b': mar_base, 'mar-l': mar_large, 'mar-h': mar_huge}
# hidden tokens as in the paper, for all modes
MODELS = {'tiny': TINY, 'toy': TOY} | {name: replace(run().model, mask_multiple=1) for name, run in PAPER.items()}

def commit()->str:
    "Which version was timed; '+' where files have changed since"
    def git(*args):
        return subprocess.run(['git', '-C', str(ROOT), *args], capture_output=True, text=True).stdout.strip()
    return git('rev-parse', '--short', 'HEAD') + ('+' if git('status', '--porcelain', '--untracked-files=no') else '')

def machine(device:str)->dict:
    "What the numbers were measured on"
    dtype, why = pick_precision(device)
    return hardware() | {'device': str(device), 'precision': str(dtype).removeprefix('torch.'), 'why': why}

def timed(work:Callable, device:str)->float:
    "Seconds of one call; a GPU works on while Python runs ahead, so timing waits for it"
    def wait():
        if torch.device(device).type == 'cuda': torch.cuda.synchronize(device)
    wait()
    start = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - start

def side_by_side(
    cases:dict[str, Callable], # name -> work
    repeats:int, # of every case
    device:str,
    # untimed calls of the same case before each timed one: what another case left in memory is not its fault
    before:int=0,
)->tuple[dict[str, list[float]], dict[str, float]]: # seconds of every repeat, and of the first call of each
    "Time all cases in turn, round after round: whatever disturbs the machine disturbs all of them"
    first = {name: timed(work, device) for name, work in cases.items()}
    gc.collect()
    seconds = {name: [] for name in cases}
    for _ in range(repeats):
        for name, work in cases.items():
            for _ in range(before): work()
            seconds[name].append(timed(work, device))
    return seconds, first

def spread(seconds:list[float])->dict:
    return {'median': statistics.median(seconds), 'min': min(seconds), 'max': max(seconds)}

def as_rows(
    seconds:dict[str, list[float]], first:dict[str, float], # from `side_by_side`
    batch:int, # pictures
    **about, # what was timed
)->list[dict]: # one per mode
    "Rows of a result file: ratios are to the mode 'plain'"
    plain, rows = statistics.median(seconds['plain']), []
    for mode, every in seconds.items():
        s = spread(every)
        rows.append(about | {'mode': mode, 'batch': batch, 'seconds': s, 'ratio': plain/s['median'],
                             'first_call': first[mode],
                             'images_per_second': batch/s['median'], 'all_seconds': every})
    return rows

def peak_memory(
    code:str, # Python, run in a process of its own, whose last line of output is a number of bytes: see `report_memory`
    tries:int=3, # a process's resident memory varies by some percent
    # count what is in use only: glibc is told to give back what is freed, else it keeps up to half as much again
    in_use:bool=False,
)->dict: # GB: median, min, max
    sizes, env = [], os.environ | ({'MALLOC_MMAP_THRESHOLD_': '65536'} if in_use else {})
    for _ in range(tries):
        done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True, cwd=ROOT,
                              env=env)
        sizes.append(float(done.stdout.split()[-1])/1e9)
    return spread(sizes)

def _own_memory(line:str)->int:
    "In bytes, VmRSS (resident now) or VmHWM (at most so far) of this process; getrusage would remember a parent's"
    status = Path('/proc/self/status')
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*(1 if sys.platform == 'darwin' else 1024)
    lines = status.read_text(encoding='utf-8').splitlines()
    return 1024*int(next(found for found in lines if found.startswith(line)).split()[1])

def held_now(device:str)->int:
    "Bytes that this process holds (on a CPU: resident; on a GPU: allocated)"
    return torch.cuda.memory_allocated(device) if torch.device(device).type == 'cuda' else _own_memory('VmRSS')

def report_memory(device:str, before:int=0):
    "Print the most that this process has held so far, beyond `before`"
    most = torch.cuda.max_memory_allocated(device) if torch.device(device).type == 'cuda' else _own_memory('VmHWM')
    print(most - before)

def table(rows:list[dict], columns:list[str])->str:
    "Rows as aligned text"
    def cell(value): return f'{value:.3g}' if isinstance(value, float) else str(value)
    cells = [columns] + [[cell(row[c]) for c in columns] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    def line(row): return '  '.join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths)))
    return '\n'.join(map(line, cells))

def write(result:dict, path:Path):
    "Save a result, and say where"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + '\n', encoding='utf-8')
    print(f'written to {path}')
