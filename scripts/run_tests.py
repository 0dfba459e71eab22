"""What `make test` runs: ruff, every notebook, every test, also when one of them fails; the last lines tell how each
went and how long it took.

    python scripts/run_tests.py"""
import importlib.util, os, subprocess, sys, time
from pathlib import Path

root, bin_folder = Path(__file__).resolve().parent.parent, Path(sys.executable).parent
PARTS = { # name -> what is run, from the root of the repository
    'ruff': ['ruff', 'check', '--quiet', '.'],
    # two notebooks or tests side by side, one thread each: faster on two cores than the other way round
    'notebooks': ['nbdev-test', '--n-workers', '2', '--do-print', '--timing'],
    'pytest': ['python', '-m', 'pytest', '-n', '2', '--dist', 'worksteal'],
}

def run(name:str)->tuple[bool, float]: # whether all is well, seconds
    "One part, with the tools that lie beside this Python"
    program, *options = PARTS[name]
    env = os.environ | {'PATH': f'{bin_folder}{os.pathsep}{os.environ.get("PATH", "")}'}
    if name != 'ruff': env['OMP_NUM_THREADS'] = '1'
    print(f'== {name}: {" ".join(PARTS[name])}', flush=True)
    start = time.perf_counter()
    done = subprocess.run([str(bin_folder/program), *options], cwd=root, env=env)
    return done.returncode == 0, time.perf_counter() - start

def duration(seconds:float)->str: return f'{seconds//60:.0f} min {seconds%60:02.0f} s'

if __name__ == '__main__':
    if not importlib.util.find_spec('playwright'):
        print('== no browser tools here: tests/browser is skipped; make test-browser installs them and runs it')
    results = {name: run(name) for name in PARTS}
    print()
    for name, (well, seconds) in results.items():
        print(f"== {name:10} {'passed' if well else 'FAILED':7} {duration(seconds):>12}")
    sys.exit(not all(well for well, _ in results.values()))
