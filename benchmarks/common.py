"The models that are timed, the machine's peak, timing side by side, and where results go"
import gc, json, platform, resource, statistics, subprocess, sys, time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
import torch
from torch.nn import functional as F
from marlearn.heads import HeadConfig
from marlearn.mar import ModelConfig
from marlearn.presets import mar_base, mar_huge, mar_large
from marlearn.train import pick_precision

ROOT = Path(__file__).resolve().parents[1]
TOY = ModelConfig(n_tokens=64, token_dim=4, n_classes=10, width=256, encoder_blocks=4, decoder_blocks=4, heads=4, class_slots=16, dropout=0.1, head=HeadConfig(blocks=3, width=256))
TINY = ModelConfig(n_tokens=16, token_dim=4, n_classes=10, width=32, encoder_blocks=1, decoder_blocks=1, heads=2, class_slots=2, head=HeadConfig(blocks=2, width=32))
MODELS = {'tiny': TINY, 'toy': TOY} | {name: replace(run().model, mask_multiple=1) for name, run in (('mar-b', mar_base), ('mar-l', mar_large), ('mar-h', mar_huge))}      # hidden tokens as in the paper, for both modes; 'tiny' is for the tests

def processor()->str:
    "The processor's name, as the system gives it"
    try: return next(l.split(':', 1)[1].strip() for l in Path('/proc/cpuinfo').read_text().splitlines() if l.startswith('model name'))
    except (OSError, StopIteration): return platform.processor() or platform.machine()

def commit()->str:
    "Which version was timed; '+' where files have changed since"
    def git(*args): return subprocess.run(['git', '-C', str(ROOT), *args], capture_output=True, text=True).stdout.strip()
    return git('rev-parse', '--short', 'HEAD') + ('+' if git('status', '--porcelain', '--untracked-files=no') else '')

def machine(device)->dict:
    "What the numbers were measured on"
    dtype, why = pick_precision(device)
    return {'system': platform.system(), 'processor': processor(), 'threads': torch.get_num_threads(), 'gpu': torch.cuda.get_device_name(device) if torch.device(device).type == 'cuda' else None,
            'python': platform.python_version(), 'torch': torch.__version__, 'precision': str(dtype).removeprefix('torch.'), 'why': why}

def wait_for(device):
    "A GPU works on while Python runs ahead; timing must wait for it"
    if torch.device(device).type == 'cuda': torch.cuda.synchronize(device)

def timed(work:Callable, device)->float:
    "Seconds of one call"
    wait_for(device); start = time.perf_counter(); work(); wait_for(device)
    return time.perf_counter() - start

def side_by_side(
    cases:dict[str, Callable], # name -> work
    repeats:int, # of every case
    device,
    before:int=0, # calls of the same case just before each one that is timed: what the case before it left behind in memory and caches is not its fault
)->dict[str, list[float]]: # seconds of every repeat
    "Time all cases in turn, round after round: whatever disturbs the machine disturbs all of them"
    for work in cases.values(): timed(work, device)                        # warm up
    gc.collect()
    seconds = {name: [] for name in cases}
    for _ in range(repeats):
        for name, work in cases.items():
            for _ in range(before): work()
            seconds[name].append(timed(work, device))
    return seconds

def spread(seconds:list[float])->dict:
    return {'median': statistics.median(seconds), 'min': min(seconds), 'max': max(seconds)}

def peak(
    dtype:torch.dtype,
    device,
    sizes:tuple|None=None, # of square matrices; None: large enough to keep the device busy
    seconds:float=1.0, # for every size
)->float: # FLOP/s, the best that was seen
    "What a matrix product reaches here: the measure for everything else"
    best = 0.0
    for n in sizes or ((4096, 8192) if torch.device(device).type == 'cuda' else (1024, 2048)):
        a, w = torch.randn(n, n, device=device, dtype=dtype), torch.randn(n, n, device=device, dtype=dtype)
        F.linear(a, w)
        stop = time.perf_counter() + seconds
        while time.perf_counter() < stop: best = max(best, 2*n**3/timed(lambda: F.linear(a, w), device))
    return best

def peaks(
    device,
    before:dict|None=None, # from an earlier call: the higher counts, for a machine's speed changes by the minute
)->dict: # FLOP/s by the name of the type
    "`peak` in float32 and in the type that the fast way uses; said aloud"
    dtype, _ = pick_precision(device)
    found = {k: max(peak(d, device), (before or {}).get(k, 0.0)) for k, d in {'fp32': torch.float32, str(dtype).removeprefix('torch.'): dtype}.items()}
    print(f"matrix products reach {', '.join(f'{v/1e9:.0f} GFLOP/s in {k}' for k, v in found.items())}")
    return found

def set_shares(rows:list[dict], highest:dict):
    "What of the highest peak each row reaches, where its operations are counted"
    for r in rows: r['share_of_peak'] = None if r['gflops_per_second'] is None else 1e9*r['gflops_per_second']/max(highest.values())

def peak_memory(
    code:str, # Python, run in a process of its own, whose last line of output is a number of bytes: see `report_memory`
    tries:int=3, # a processor's resident memory varies by some percent with where the system puts the process
)->dict: # GB: median, min, max
    run = lambda: subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    return spread([float(run().split()[-1])/1e9 for _ in range(tries)])

def report_memory(device):
    "Print the most that this process has held so far (on a processor: resident; on a GPU: allocated)"
    if torch.device(device).type == 'cuda': print(torch.cuda.max_memory_allocated(device))
    elif (status := Path('/proc/self/status')).exists():                   # of this process alone; getrusage would remember the parent's
        print(1024*int(next(l for l in status.read_text().splitlines() if l.startswith('VmHWM')).split()[1]))
    else: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*(1 if sys.platform == 'darwin' else 1024))

def table(rows:list[dict], columns:list[str])->str:
    "Rows as aligned text"
    cells = [columns] + [[f'{r[c]:.3g}' if isinstance(r[c], float) else str(r[c]) for c in columns] for r in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    return '\n'.join('  '.join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths))) for row in cells)

def write(result:dict, path:Path):
    "Save a result, and say where"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + '\n')
    print(f'written to {path}')
