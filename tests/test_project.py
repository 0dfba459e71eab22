"The repository keeps its promises: notebooks and library agree, imports point down, outputs are ours"
import ast, json, os, re, shutil, subprocess, sys
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT/'nbs').glob('*.ipynb'))
MODULES = sorted(p.stem for p in (ROOT/'marlearn').glob('*.py') if not p.stem.startswith('_'))

def cells(path): return json.loads(path.read_text(encoding='utf-8'))['cells']

def number_of_module():
    "module -> lesson number, from the `default_exp` of each notebook"
    found = {}
    for nb in NOTEBOOKS:
        for c in cells(nb):
            if m := re.search(r'^#\|\s*default_exp\s+(\w+)', ''.join(c['source']), re.M): found[m[1]] = int(nb.stem[:2]), nb.stem
    return found

def test_one_notebook_one_module():
    numbers = number_of_module()
    assert sorted(numbers) == MODULES
    for module, (_, stem) in numbers.items(): assert stem[3:] == module, f'{stem} exports {module}'

def arrows(module):
    tree = ast.parse((ROOT/'marlearn'/f"{module.replace('.', '/')}.py").read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):                       # nbdev writes `from marlearn.data import x` as `from .data import x`
            full = 'marlearn.'*(node.level == 1 + module.count('.')) + (node.module or '')
            if full.startswith('marlearn.') and full != 'marlearn.': yield full.split('.')[1]
            elif full.strip('.') == 'marlearn': yield from (a.name for a in node.names)
        if isinstance(node, ast.Import): yield from (a.name.split('.')[1] for a in node.names if a.name.startswith('marlearn.'))

def test_imports_point_to_lower_lessons():
    numbers, seen = number_of_module(), 0
    for module in MODULES:
        for imported in arrows(module):
            seen += 1
            assert numbers[imported][0] < numbers[module][0], f'{module} imports {imported}, which comes later'
    assert seen > 20                                              # the search itself works

def test_exercises_need_nothing_from_later_lessons():
    numbers, seen = number_of_module(), 0
    lessons = {nb.stem[3:]: int(nb.stem[:2]) for nb in NOTEBOOKS if nb.stem[:2].isdigit()}
    for path in (ROOT/'marlearn'/'exercises').glob('[a-z]*.py'):
        for imported in arrows(f'exercises.{path.stem}'):
            seen += 1
            assert numbers[imported][0] <= lessons[path.stem], f'{path} imports {imported}, which comes later'
    assert seen > 10

def test_lessons_are_those_of_the_table():
    from marlearn.course import LESSONS
    assert {nb.stem for nb in NOTEBOOKS if nb.stem not in ('index', '00_course')} == {l.notebook for l in LESSONS}

@pytest.fixture(scope='module')
def rebuilt(tmp_path_factory):
    "A copy of the project after nbdev-export and nbdev-clean"
    copy = tmp_path_factory.mktemp('rebuilt')/'marlearn'
    for name in ('nbs', 'marlearn'): shutil.copytree(ROOT/name, copy/name, ignore=shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints'))
    for name in ('pyproject.toml', 'settings.ini', 'setup.py', 'README.md'): shutil.copy(ROOT/name, copy/name)
    for command in ('nbdev-export', 'nbdev-clean'): subprocess.run([str(Path(sys.executable).parent/command)], cwd=copy, check=True, capture_output=True)
    return copy

@pytest.mark.parametrize('pattern, how', [('marlearn/*.py', 'nbdev-export'), ('marlearn/exercises/*.py', 'nbdev-export'), ('nbs/*.ipynb', 'nbdev-clean')])
def test_generated_files_are_up_to_date(rebuilt, pattern, how):
    names = {p.relative_to(ROOT).as_posix() for p in ROOT.glob(pattern)}
    assert names == {p.relative_to(rebuilt).as_posix() for p in rebuilt.glob(pattern)}, f'run {how}'
    stale = [n for n in sorted(names) if (ROOT/n).read_bytes() != (rebuilt/n).read_bytes()]
    assert not stale, f'run {how}: {stale}'

def test_readme_is_up_to_date():
    subprocess.run([sys.executable, str(ROOT/'scripts'/'readme.py'), '--check'], check=True)

@pytest.mark.parametrize('notebook', NOTEBOOKS, ids=lambda p: p.stem)
def test_lesson_has_clean_outputs(notebook):
    code = [c for c in cells(notebook) if c['cell_type'] == 'code']
    outputs = [o for c in code for o in c['outputs']]
    if notebook.stem != 'index': assert outputs, 'readers on the web see nothing'
    assert not [o for o in outputs if o['output_type'] == 'error']
    text = json.dumps([{k: v for k, v in o.get('data', {}).items() if not k.startswith('image/')} | {'text': o.get('text')} for o in outputs])
    assert not re.search(r'/(home|root|tmp|work|Users)/', text), 'a path of somebody\'s machine'
    assert notebook.stat().st_size < 400_000

@pytest.mark.parametrize('module', MODULES)
def test_module_works_without_notebook_tools(module):
    "Each module imports in a fresh process in which nbdev, fastcore and Jupyter do not exist"
    hide = "import sys\nfor m in ('nbdev', 'fastcore', 'IPython', 'jupyterlab', 'ipykernel', 'notebook'): sys.modules[m] = None\n"
    subprocess.run([sys.executable, '-c', hide + f'import marlearn.{module}'], check=True, cwd=ROOT.parent)

def test_no_device_is_hard_wired():
    for module in MODULES: assert '.cuda()' not in (ROOT/'marlearn'/f'{module}.py').read_text()

def test_wheel_draws_in_an_empty_folder(tmp_path):
    "What pip installs is enough for `marlearn sample`: the repository is not around"
    source = tmp_path/'source'
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns('.git', '.venv', '*venv*', 'runs', 'build', '*.egg-info', '__pycache__', 'nbs'))
    pip = [sys.executable, '-m', 'pip', '--quiet', '--disable-pip-version-check']
    subprocess.run(pip + ['wheel', '--no-deps', '--no-build-isolation', '-w', str(tmp_path/'wheel'), str(source)], check=True, capture_output=True)
    subprocess.run(pip + ['install', '--no-deps', '--target', str(tmp_path/'site'), *map(str, (tmp_path/'wheel').glob('*.whl'))], check=True, capture_output=True)
    shutil.rmtree(source)
    empty = tmp_path/'empty'; empty.mkdir()
    env = os.environ | {'PYTHONPATH': str(tmp_path/'site')}
    where = subprocess.run([sys.executable, '-c', 'import marlearn; print(marlearn.__file__)'], cwd=empty, env=env, check=True, capture_output=True, text=True).stdout
    assert where.startswith(str(tmp_path/'site'))
    subprocess.run([sys.executable, '-m', 'marlearn', 'sample', '--per-class', '1', '--diff-steps', '5'], cwd=empty, env=env, check=True)
    assert (empty/'samples.png').stat().st_size > 10_000
