"""Does the library work with the versions that settings.ini promises? One new virtual environment for each Python and
torch below, the library installed with them, and its tests: a table, and benchmarks/results/versions.json.

    python scripts/try_versions.py                    # all whose Python is on the PATH (python3.10, ...)
    python scripts/try_versions.py --python 3.10      # this one; what is known of the others is kept

Takes about 10 minutes each and up to 10 GB of disk, which is freed again. Left out are tests of notebooks, benchmarks
and this repository, and the long ones with several processes."""
import argparse, json, os, platform, re, shutil, subprocess, sys, tempfile, time
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from settings import ROOT, lines, read_settings

@dataclass(frozen=True)
class Case:
    python:str
    torch:str='' # '': the newest
    torchvision:str='' # the one that belongs to it
    lowest:bool=False # everything else, too, as old as settings.ini allows

CASES = (Case('3.10', '2.6.0', '0.21.0', lowest=True), Case('3.11', '2.6.0', '0.21.0'),
         Case('3.12', '2.8.0', '0.23.0'), Case('3.13'))
LEFT_OUT = {'test_benchmarks', 'test_distributed', 'test_exercises', 'test_package', 'test_paper', 'test_project'}
FROM_DISTRIBUTED = ('test_two_processes_are_one_that_does_both_parts', 'test_refusals')
# of dev_requirements, what those tests use
TOOLS = ('fastcore', 'hypothesis', 'psutil', 'pytest', 'setuptools', 'torch-fidelity')
RESULT = ROOT/'benchmarks'/'results'/'versions.json'
NEEDED_GB = 12

def lowest(
    requirement:str, # 'numpy>=1.26'
)->str: # 'numpy==1.26'
    "The oldest version that a requirement allows"
    found = re.fullmatch(r'([\w-]+)>=([\w.]+)(,.*)?', requirement)
    if not found: raise ValueError(f'settings.ini: {requirement!r} must name its lowest version, as in name>=1.2')
    return f'{found[1]}=={found[2]}'

def pins(case:Case)->list[str]: # what pip is told beside the library itself
    "Versions that are asked for"
    if case.lowest: return [lowest(r) for r in lines('requirements')]
    if not case.torch: return []
    return [f'torch=={case.torch}', f'torchvision=={case.torchvision}']

def tests(root:Path)->list[str]:
    "What pytest is told to run"
    files = [p for p in sorted((root/'tests').glob('test_*.py')) if p.stem not in LEFT_OUT]
    return [*map(str, files), *(f"{root/'tests'/'test_distributed.py'}::{name}" for name in FROM_DISTRIBUTED)]

def copy_of_project(target:Path):
    "What git knows of: pip writes beside what it installs, and two Pythons would write into one cache"
    listed = subprocess.run(['git', 'ls-files', '-z'], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split('\0')):
        if not (ROOT/name).is_file(): continue # deleted, not yet committed
        (target/name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT/name, target/name)

def installed(python:Path)->dict[str, str]: # name -> version
    "What pip chose"
    names = [re.match(r'[\w-]+', r)[0] for r in lines('requirements')]
    code = 'import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))'
    found = subprocess.run([python, '-c', code, *names], check=True, capture_output=True, text=True).stdout.split()
    return dict(zip(names, found))

def counts(report:Path)->dict: # for the result file
    "What pytest's report says"
    cases = list(ElementTree.parse(report).getroot().iter('testcase'))
    bad = [f"{c.get('classname').removeprefix('tests.')}::{c.get('name')}" for c in cases
           if c.find('failure') is not None or c.find('error') is not None]
    skipped = sum(c.find('skipped') is not None for c in cases)
    return {'passed': len(cases) - skipped - len(bad), 'skipped': skipped, 'failed': bad}

def attempt(
    case:Case,
    home:Path, # an empty folder
)->dict: # a row of the result
    "One environment from nothing to the last test"
    project, python, report = home/'project', home/'venv'/'bin'/'python', home/'report.xml'
    copy_of_project(project)
    env = {k: v for k, v in os.environ.items() if k not in ('PYTHONPATH', 'VIRTUAL_ENV')} | {'MARLEARN_OFFLINE': '1'}
    subprocess.run([f'python{case.python}', '-m', 'venv', home/'venv'], check=True, env=env)
    tools = [r for r in lines('dev_requirements') if re.match(r'[\w-]+', r)[0] in TOOLS]
    pip = [python, '-m', 'pip', 'install', '--quiet', '--disable-pip-version-check']
    subprocess.run([*pip, '-e', project, *pins(case), *tools], check=True, env=env)
    start = time.perf_counter()
    line = [python, '-m', 'pytest', '-q', '--junitxml', report, *tests(project)]
    done = subprocess.run(line, cwd=project, env=env)
    if done.returncode not in (0, 1): sys.exit(f'pytest could not run: code {done.returncode}')
    seconds = round(time.perf_counter() - start)
    return {'python': case.python, 'lowest': case.lowest, 'date': str(date.today()), 'machine': machine(),
            'versions': installed(python), **counts(report), 'seconds': seconds}

def machine()->dict:
    return {'system': platform.system(), 'processor': platform.machine(), 'cores': os.cpu_count()}

def starts(python:str)->bool:
    "A name on the PATH may stand for nothing, as pyenv's do"
    return bool(shutil.which(python)) and subprocess.run([python, '--version'], capture_output=True).returncode == 0

def table(rows:list[dict])->str:
    "For people"
    out = [f"{'Python':8}{'torch':10}{'numpy':10}{'passed':>8}{'failed':>8}{'skipped':>9}"]
    for r in rows:
        v = r['versions']
        out.append(f"{r['python']:8}{v['torch']:10}{v['numpy']:10}{r['passed']:8}{len(r['failed']):8}{r['skipped']:9}")
        out += [f'        {name}' for name in r['failed']]
    return '\n'.join(out)

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--python', choices=[c.python for c in CASES], help='only the case with this one')
    parser.add_argument('--out', type=Path, default=RESULT, help='the result file')
    args = parser.parse_args()
    cases = [c for c in CASES if args.python in (None, c.python)]
    missing = [f'python{c.python}' for c in cases if not starts(f'python{c.python}')]
    if missing: sys.exit(f"not found, or does not start: {', '.join(missing)}; --python takes another one")
    for case in cases:
        free = shutil.disk_usage(tempfile.gettempdir()).free/1e9
        if free < NEEDED_GB: sys.exit(f'{tempfile.gettempdir()} has {free:.0f} GB, {NEEDED_GB} are needed: set TMPDIR')
        print(f"== Python {case.python}, torch {case.torch or 'as new as there is'}", flush=True)
        with tempfile.TemporaryDirectory() as home:
            row = attempt(case, Path(home))
        known = json.loads(args.out.read_text(encoding='utf-8'))['rows'] if args.out.exists() else []
        rows = {r['python']: r for r in known} | {case.python: row}
        result = {'command': 'python scripts/try_versions.py', 'library': read_settings()['version'],
                  'rows': sorted(rows.values(), key=lambda r: int(r['python'].split('.')[1]))}
        args.out.write_text(json.dumps(result, indent=1) + '\n', encoding='utf-8')
    print(table(result['rows']))
    sys.exit(any(rows[c.python]['failed'] for c in cases))

if __name__ == '__main__': main()
