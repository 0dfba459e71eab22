"What several test files use"
import multiprocessing, os, socket, tempfile
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

# The same commands in processes that need not begin with importing torch, the longest part of so short a run
FORKS = multiprocessing.get_context('forkserver')
ENGINE = ('commands', 'drawing', 'evaluation', 'latents', 'processes', 'run')
FORKS.set_forkserver_preload(['marlearn.cli', *(f'marlearn.engine.{name}' for name in ENGINE), 'torch._dynamo', 'tyro'])

def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return str(s.getsockname()[1])

def main_of_rank(args, log, env):
    "What torchrun would start"
    os.environ.update({'MARLEARN_OFFLINE': '1'} | env) # the server that forks began with another environment
    with open(log, 'a') as said:
        for stream in (1, 2): os.dup2(said.fileno(), stream)
    torch.set_num_threads(1) # as OMP_NUM_THREADS says to others: two threads add up in another order
    main(args)

def start_forked(processes, log, *args):
    "All ranks of one run; what they say goes to a file"
    usual = {name: value for name, value in os.environ.items() if name.startswith('MARLEARN_')}
    shared = {'WORLD_SIZE': str(processes), 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': free_port()}
    def env(rank): return usual | (shared | {'RANK': str(rank), 'LOCAL_RANK': str(rank)} if processes > 1 else {})
    ranks = [FORKS.Process(target=main_of_rank, args=([*map(str, args)], log, env(rank))) for rank in range(processes)]
    for rank in ranks: rank.start()
    return ranks

def kill(ranks):
    for rank in ranks: rank.kill()
    for rank in ranks: rank.join()

def run_forked(processes, *args):
    "To the end, which all reach; what they said"
    with tempfile.NamedTemporaryFile('r') as log:
        ranks = start_forked(processes, log.name, *args)
        for rank in ranks: rank.join(timeout=300)
        codes = [rank.exitcode for rank in ranks]
        kill(ranks)
        said = log.read()
    assert not any(codes), f'{codes}: {said[-3000:]}'
    return said
