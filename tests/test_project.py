"The repository keeps its promises: notebooks and library agree, imports point down, code is plain, outputs are ours"
import ast, graphlib, json, os, re, shutil, subprocess, sys
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parent.parent
NBS, LIB = ROOT/'nbs', ROOT/'marlearn'
NOTEBOOKS = sorted(p for pattern in ('*.ipynb', 'engine/*.ipynb', 'course/*.ipynb') for p in NBS.glob(pattern))
LESSONS = {p.stem[3:]: int(p.stem[:2]) for p in NOTEBOOKS if re.match(r'\d\d_', p.stem)}      # name -> number
GROUND, FACES = 'files', ('cli', 'demo')

def name_of(path):
    "marlearn/engine/run.py -> 'engine.run'"
    return '.'.join(path.relative_to(LIB).with_suffix('').parts)

MODULES = sorted(name_of(p) for p in LIB.rglob('*.py') if not p.stem.startswith('_'))
CHECKS = [m for m in MODULES if m.startswith('course.checks.')]
PUBLIC = [m for m in MODULES if m not in CHECKS]

def cells(path): return json.loads(path.read_text(encoding='utf-8'))['cells']

def sources(path, kind): return [''.join(c['source']) for c in cells(path) if c['cell_type'] == kind]

def code_files():
    "Name and text of everything in which code stands: code cells, and Python files that people write or read"
    for nb in NOTEBOOKS:
        for i, text in enumerate(sources(nb, 'code')):
            yield f'{nb.relative_to(ROOT)}, code cell {i}', text
    for folder in ('marlearn', 'tests', 'scripts', 'benchmarks', 'book'):
        for path in sorted((ROOT/folder).rglob('*.py')):
            generated = '_build' in path.parts or path.name == '_modidx.py'
            if not generated:
                yield str(path.relative_to(ROOT)), path.read_text(encoding='utf-8')
    yield 'setup.py', (ROOT/'setup.py').read_text(encoding='utf-8')

# The house

def test_one_notebook_one_module():
    homes = {}
    for nb in NOTEBOOKS:
        for text in sources(nb, 'code'):
            if m := re.search(r'^#\|\s*default_exp\s+([\w.]+)', text, re.M):
                homes[m[1]] = nb
    assert sorted(homes) == PUBLIC
    for module, nb in homes.items():
        place = nb.relative_to(NBS).with_suffix('')
        if module in (GROUND, *FACES): assert str(place) == f'engine/{module}'
        elif '.' in module: assert str(place) == module.replace('.', '/')
        else:
            assert place.name[3:] == module and module in LESSONS

def test_checks_are_those_of_the_lessons():
    exported = {nb.stem[3:]: set(re.findall(r'^#\|[ \t]*export[ \t]+(\S+)', '\n'.join(sources(nb, 'code')), re.M))
                for nb in NOTEBOOKS if nb.stem[3:] in LESSONS}
    for lesson, targets in exported.items():
        assert targets <= {f'course.checks.{lesson}'}, lesson
    assert {f'course.checks.{lesson}' for lesson, targets in exported.items() if targets} == set(CHECKS)

def test_lessons_are_those_of_the_table():
    from marlearn.course.map import LESSONS as table
    assert [l.number for l in table] == list(range(len(table)))
    assert {nb.stem for nb in NBS.glob('*.ipynb')} == {l.notebook for l in table} | {'index'}

# Arrows

def imports(module):
    "Modules of the library that a module imports, anywhere in its code"
    path = LIB/f"{module.replace('.', '/')}.py"
    package = ['marlearn', *module.split('.')[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[:len(package) - node.level + 1] if node.level else []
            base = '.'.join(base + (node.module.split('.') if node.module else []))
            names = [f'{base}.{a.name}' for a in node.names]        # of a package: its modules; of a module: its names
        else:
            continue
        for name in names:
            parts = name.split('.')[1:] if name.split('.')[0] == 'marlearn' else []
            known = ['.'.join(parts[:n]) for n in range(len(parts), 0, -1) if '.'.join(parts[:n]) in MODULES]
            if known:
                yield known[0]

ABOUT_COMMANDS = 'course.checks.scale', 'course.checks.by_hand'               # they give answers to the real parser

def allowed(module, imported):
    "Whether an arrow may be drawn"
    if imported in FACES:                                                     # the command line starts the demo
        return module in FACES or module in ABOUT_COMMANDS
    if module in FACES: return True
    if module in CHECKS:                                                      # what is known by the end of the lesson
        if imported in LESSONS: return LESSONS[imported] <= LESSONS[module.rpartition('.')[2]]
        return True
    if module.startswith('course.'): return imported.startswith('course.') and imported not in CHECKS
    if imported.startswith('course.'): return False
    if module.startswith('engine.'): return True
    if module == GROUND: return False
    return imported == GROUND or (imported in LESSONS and LESSONS[imported] < LESSONS[module])

def test_arrows_point_down():
    arrows = [(m, i) for m in MODULES for i in imports(m)]
    assert len(arrows) > 60                                                   # the search itself works
    wrong = sorted({f'{m} imports {i}' for m, i in arrows if not allowed(m, i)})
    assert not wrong, '\n'.join(wrong)

def test_engine_has_no_circles():
    graph = {m: set(imports(m)) for m in PUBLIC if not m.startswith('course.')}
    assert list(graphlib.TopologicalSorter(graph).static_order())

@pytest.mark.parametrize('module, imported', [
    ('mar', 'generate'), ('mar', 'engine.run'), ('mar', 'course.map'), ('mar', 'cli'), ('files', 'mar'),
    ('engine.run', 'course.map'), ('engine.run', 'demo'), ('course.map', 'mar'), ('course.progress', 'engine.run'),
    ('course.exercises', 'course.checks.mar'), ('course.checks.mar', 'generate'),
    ('course.checks.mar', 'cli')])
def test_wrong_arrows_are_refused(module, imported, monkeypatch):
    monkeypatch.setitem(globals(), 'CHECKS', ['course.checks.mar'])
    assert not allowed(module, imported)

def test_every_module_imports_without_notebook_tools():
    "One process, in which nbdev, fastcore and Jupyter do not exist; the library is forgotten before each module"
    code = '''
import importlib, sys
for tool in ('nbdev', 'fastcore', 'IPython', 'jupyterlab', 'ipykernel', 'notebook'): sys.modules[tool] = None
for module in sys.argv[1:]:
    for name in [n for n in sys.modules if n.partition('.')[0] == 'marlearn']: del sys.modules[name]
    try: importlib.import_module(f'marlearn.{module}')
    except Exception as e: sys.exit(f'marlearn.{module}: {type(e).__name__}: {e}')
'''
    ran = subprocess.run([sys.executable, '-c', code, *MODULES], cwd=ROOT.parent, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr

# Plain code

def test_no_line_is_longer_than_120_columns():
    "Code only; a figure's description must stand on one line"
    lines = ((f'{name}, line {n}', line) for name, text in code_files() for n, line in enumerate(text.splitlines(), 1))
    code = ((where, line) for where, line in lines if not line.startswith('#| fig-alt:'))
    too_long = [f'{where}: {len(line)}' for where, line in code if len(line) > 120]
    assert not too_long, f'{len(too_long)} lines:\n' + '\n'.join(too_long[:200])

NATIVE = 'ctypes', 'torch.ops.', 'torch.library', 'cpp_extension', 'load_inline', 'mallopt', '/proc/cpuinfo'

def test_no_native_code_of_our_own():
    suffixes = {'.c', '.cc', '.cpp', '.cu', '.cuh', '.h', '.hpp', '.so', '.pyx'}
    ours = [p for folder in ('marlearn', 'nbs', 'tests', 'scripts', 'benchmarks') for p in (ROOT/folder).rglob('*')]
    assert not [str(p.relative_to(ROOT)) for p in ours if p.suffix in suffixes]
    here = str(Path(__file__).relative_to(ROOT))
    found = [f'{name}: {word}' for name, text in code_files() for word in NATIVE if word in text and name != here]
    assert not found, '\n'.join(found)

def test_no_device_is_hard_wired():
    wired = [m for m in MODULES if '.cuda()' in (LIB/f"{m.replace('.', '/')}.py").read_text(encoding='utf-8')]
    assert not wired

# Notebooks as they are stored

@pytest.fixture(scope='module')
def rebuilt(tmp_path_factory):
    "A copy of the project after nbdev-export and nbdev-clean"
    copy = tmp_path_factory.mktemp('rebuilt')/'marlearn'
    ignore = shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints')
    for name in ('nbs', 'marlearn'):
        shutil.copytree(ROOT/name, copy/name, ignore=ignore)
    for name in ('pyproject.toml', 'settings.ini', 'setup.py', 'README.md'):
        shutil.copy(ROOT/name, copy/name)
    for command in ('nbdev-export', 'nbdev-clean'):
        subprocess.run([str(Path(sys.executable).parent/command)], cwd=copy, check=True, capture_output=True)
    return copy

def files(root, pattern):
    paths = (p.relative_to(root) for p in root.glob(pattern))
    return {p.as_posix() for p in paths if not any(part.startswith('.') for part in p.parts)}

@pytest.mark.parametrize('pattern, how', [('marlearn/**/*.py', 'nbdev-export'), ('nbs/**/*.ipynb', 'nbdev-clean')])
def test_generated_files_are_up_to_date(rebuilt, pattern, how):
    names = files(ROOT, pattern)
    assert names == files(rebuilt, pattern), f'run {how}'
    stale = [n for n in sorted(names) if (ROOT/n).read_bytes() != (rebuilt/n).read_bytes()]
    assert not stale, f'run {how}: {stale}'

def test_readme_is_up_to_date():
    subprocess.run([sys.executable, str(ROOT/'scripts'/'readme.py'), '--check'], check=True)

@pytest.mark.parametrize('notebook', NOTEBOOKS, ids=lambda p: p.relative_to(NBS).with_suffix('').as_posix())
def test_notebook_has_clean_outputs(notebook):
    outputs = [o for c in cells(notebook) if c['cell_type'] == 'code' for o in c['outputs']]
    if notebook.stem != 'index': assert outputs, 'readers on the web see nothing'
    assert not [o for o in outputs if o['output_type'] == 'error']
    shown = [{k: v for k, v in o.get('data', {}).items() if not k.startswith('image/')} for o in outputs]
    text = json.dumps([shown, [o.get('text') for o in outputs]])
    assert not re.search(r'/(home|root|tmp|work|Users)/', text), 'a path of somebody\'s machine'
    assert notebook.stat().st_size < 400_000

def lesson_numbers(text):
    "Numbers of the lessons that a text names: a notebook, 'lesson 12', 'lessons 3 and 5'"
    numbers = re.findall(r'(\d\d)_\w+\.ipynb', text)
    for group in re.findall(r'[Ll]essons? ((?:\d+(?:, | and | to )?)+)', text):
        numbers += re.findall(r'\d+', group)
    return {int(n) for n in numbers}

def pointers(path):
    "The last paragraph of a lesson that begins with 'Next'"
    found = re.findall(r'^\W*Next\b.*(?:\n.+)*', '\n\n'.join(sources(path, 'markdown')), re.M)
    return found[-1] if found else ''

@pytest.mark.parametrize('number', sorted(LESSONS.values())[:-1])
def test_lesson_points_to_the_next(number):
    nb, = (p for p in NOTEBOOKS if p.stem.startswith(f'{number:02d}_'))
    assert pointers(nb), 'say what comes next'
    assert number + 1 in lesson_numbers(pointers(nb)), pointers(nb)

def test_notebooks_that_are_named_exist():
    "In prose, links and programs: no pointer to a notebook that has moved"
    texts = {str(nb.relative_to(ROOT)): '\n'.join(sources(nb, 'markdown')) for nb in NOTEBOOKS}
    texts |= dict(code_files())
    for name in ('README.md', 'CONTRIBUTING.md', 'Makefile'):
        texts[name] = (ROOT/name).read_text(encoding='utf-8')
    known = {nb.name for nb in NOTEBOOKS}
    named = [(where, n) for where, text in texts.items() for n in re.findall(r'\b\d\d_\w+\.ipynb', text)]
    assert len(named) > 40
    missing = sorted({f'{where} names {n}' for where, n in named if n not in known})
    assert not missing, '\n'.join(missing)

# What is installed

def test_wheel_draws_in_an_empty_folder(tmp_path):
    "What pip installs is enough for `marlearn sample`: the repository is not around"
    source = tmp_path/'source'
    unneeded = ('.git', '.venv', '*venv*', 'runs', 'build', '*.egg-info', '__pycache__', 'nbs')
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(*unneeded))
    pip = [sys.executable, '-m', 'pip', '--quiet', '--disable-pip-version-check']
    wheel = ['wheel', '--no-deps', '--no-build-isolation', '-w', str(tmp_path/'wheel'), str(source)]
    subprocess.run(pip + wheel, check=True, capture_output=True)
    wheels = [str(p) for p in (tmp_path/'wheel').glob('*.whl')]
    install = ['install', '--no-deps', '--target', str(tmp_path/'site'), *wheels]
    subprocess.run(pip + install, check=True, capture_output=True)
    shutil.rmtree(source)
    installed = {name for name in files(tmp_path/'site', 'marlearn/**/*.py')}
    assert installed >= files(ROOT, 'marlearn/**/*.py'), 'setup.py leaves out a package'
    empty = tmp_path/'empty'
    empty.mkdir()
    env = os.environ | {'PYTHONPATH': str(tmp_path/'site')}
    where = subprocess.run([sys.executable, '-c', 'import marlearn; print(marlearn.__file__)'], cwd=empty, env=env,
                           check=True, capture_output=True, text=True).stdout
    assert where.startswith(str(tmp_path/'site'))
    command = [sys.executable, '-m', 'marlearn', 'sample', '--per-class', '1', '--diff-steps', '5']
    subprocess.run(command, cwd=empty, env=env, check=True)
    assert (empty/'samples.png').stat().st_size > 10_000

def test_minutes_of_the_lessons_are_measured():
    script = ROOT/'scripts'/'lesson_times.py'
    done = subprocess.run([sys.executable, script, '--check'], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + 'run scripts/lesson_times.py --write'
