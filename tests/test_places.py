"Wherever it runs: a clone of any name, line ends of another system, no home folder, half an environment"
import ast, os, pwd, shutil, subprocess, sys, threading, venv, warnings
from dataclasses import replace
from pathlib import Path
import pytest
import torch
from marlearn import cli
from marlearn.engine.checkpoints import load_checkpoint
from marlearn.engine.evaluation import folder_names
from marlearn.engine.hardware import launch
from marlearn.engine.tokenizers import get_tokenizer
from marlearn.files import cache_dir, pretrained
from tools import captured

ROOT = Path(__file__).resolve().parent.parent

def run(capsys, *argv):
    "Exit status, stdout and stderr of a command"
    status, said = captured(capsys, *argv)
    return status, said.out, said.err

def one_error(err):
    "The one line that a user reads"
    lines = [line for line in err.splitlines() if line.startswith('marlearn: error')]
    assert len(lines) == 1 and 'Traceback' not in err, err
    return lines[0]

# A clone is called marlearn

@pytest.fixture(scope='module')
def clone(tmp_path_factory):
    "An editable install, as pip makes it, of a clone called marlearn; and the Python that has it"
    above = tmp_path_factory.mktemp('above')
    clone, site = above/'marlearn', above/'site'
    unneeded = ('.git', '.*', '*venv*', 'runs', 'build', '*.egg-info', '__pycache__', 'nbs', '_*')
    shutil.copytree(ROOT, clone, ignore=lambda folder, names: {
        n for n in names if n not in ('__init__.py', '__main__.py') and any(Path(n).match(p) for p in unneeded)})
    build = f'import setuptools.build_meta as b; b.build_editable({str(above)!r})'
    subprocess.run([sys.executable, '-c', build], cwd=clone, check=True, capture_output=True)
    wheel, = above.glob('*.whl')
    venv.create(above/'venv', symlinks=True)
    python = above/'venv'/'bin'/'python'
    find = 'import sysconfig; print(sysconfig.get_path("purelib"))'
    site = Path(subprocess.run([python, '-c', find], check=True, capture_output=True, text=True).stdout.strip())
    shutil.unpack_archive(wheel, site, 'zip')
    others = [p for p in sys.path if p.endswith('-packages')]
    (site/'zz_requirements.pth').write_text('\n'.join(others), encoding='utf-8')
    return clone, python

@pytest.mark.parametrize('place', ['..', '.', 'marlearn', 'tests', 'data', 'scripts', 'benchmarks'])
def test_imports_work_from_anywhere(clone, place):
    folder, python = clone
    env = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
    code = ('import marlearn.files; from marlearn.data import SHAPES; from marlearn.files import pretrained;'
            'print(marlearn.__file__, pretrained("mar"))')
    ran = subprocess.run([python, '-c', code], cwd=folder/place, env=env, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == [str(folder/'marlearn'/'__init__.py'), str(folder/'data'/'pretrained'/'mar')]
    command = [python, '-m', 'marlearn', '--version']
    assert subprocess.run(command, cwd=folder/place, env=env, capture_output=True).returncode == 0

# Line ends and encodings

def test_a_clone_with_windows_line_ends_can_draw(tmp_path):
    if not shutil.which('git'): pytest.skip('git is not installed')
    def git(*argv, cwd): subprocess.run(['git', *map(str, argv)], cwd=cwd, check=True, capture_output=True)
    origin, shipped = tmp_path/'origin', Path('data')/'pretrained'/'mar'
    shutil.copytree(ROOT/shipped, origin/shipped)
    shutil.copy(ROOT/'.gitattributes', origin)
    shutil.copy(ROOT/'setup.py', origin)
    git('init', '-q', cwd=origin)
    git('add', '.', cwd=origin)
    git('-c', 'user.name=a', '-c', 'user.email=a@b', 'commit', '-q', '-m', 'all', cwd=origin)
    git('clone', '-q', '-c', 'core.autocrlf=true', origin, tmp_path/'clone', cwd=tmp_path)
    for path in (p for p in origin.rglob('*') if p.is_file() and '.git' not in p.parts):
        assert (tmp_path/'clone'/path.relative_to(origin)).read_bytes() == path.read_bytes(), path
    assert load_checkpoint(tmp_path/'clone'/shipped).step > 0

def test_other_line_ends_are_no_damage_but_other_content_is(tmp_path):
    shutil.copytree(pretrained('mar'), tmp_path/'mar')
    for path in tmp_path.rglob('*.json'):
        path.write_bytes(path.read_bytes().replace(b'\n', b'\r\n'))
    assert load_checkpoint(tmp_path/'mar').step > 0
    config = tmp_path/'mar'/'config.json'
    config.write_bytes(config.read_bytes().replace(b'"seed": 0', b'"seed": 1'))
    with pytest.raises(ValueError, match='damaged: config.json'):
        load_checkpoint(tmp_path/'mar')

def text_without_encoding(path):
    "Lines that read or write text in whatever encoding the system prefers"
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if not isinstance(node, ast.Call): continue
        is_method, name = isinstance(node.func, ast.Attribute), getattr(node.func, 'attr', getattr(node.func, 'id', ''))
        texts = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        reads = name in ('read_text', 'write_text') or name == 'fdopen' or name == 'open' and not is_method
        if reads and not any('b' in t for t in texts[-1:] if name in ('open', 'fdopen')):
            if 'encoding' not in [k.arg for k in node.keywords]:
                yield f'{path.relative_to(ROOT) if path.is_relative_to(ROOT) else path.name}, line {node.lineno}'

def test_text_is_utf8_on_every_system():
    paths = [ROOT/'setup.py', *(p for f in ('marlearn', 'scripts', 'benchmarks') for p in (ROOT/f).rglob('*.py')),
             *(ROOT/'book').glob('*.py')]
    assert len(paths) > 60
    found = [where for path in paths for where in text_without_encoding(path)]
    assert not found, "say encoding='utf-8':\n" + '\n'.join(found)

@pytest.mark.parametrize('line, wrong', [
    ("open('x')", True), ("open('x', 'w')", True), ("open('x', 'rb')", False), ("p.read_text()", True),
    ("p.write_text('b')", True), ("p.write_text('b', encoding='utf-8')", False), ("tarfile.open('x')", False),
    ("os.fdopen(1, 'w')", True), ("open(p/'bag')", True)])
def test_what_counts_as_text_without_encoding(line, wrong, tmp_path):
    (tmp_path/'x.py').write_text(line, encoding='utf-8')
    assert bool(list(text_without_encoding(tmp_path/'x.py'))) == wrong

def test_a_terminal_that_cannot_show_a_name(tmp_path):
    env = os.environ | {'PYTHONIOENCODING': 'ascii'}
    code = "import sys; from marlearn import cli; cli.dispatch = lambda argv: print('chat \u2026'); cli.main([])"
    ran = subprocess.run([sys.executable, '-c', code], env=env, capture_output=True)
    assert ran.returncode == 0 and ran.stdout == b'chat \\u2026\n', ran.stderr

# No home, no cache

@pytest.fixture
def no_home(monkeypatch, tmp_path):
    "A user that the system does not know, as in many containers"
    def unknown(uid): raise KeyError(uid)
    for name in ('HOME', 'USERPROFILE', 'MARLEARN_CACHE', 'MARLEARN_DATA', 'MARLEARN_PROGRESS', 'XDG_CACHE_HOME',
                 'XDG_DATA_HOME'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, 'getpwuid', unknown)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RuntimeError): Path.home()

def test_info_and_progress_without_a_home(no_home, capsys):
    status, out, _ = run(capsys, 'info')
    assert status == 0 and 'none: this user has no home folder: set MARLEARN_CACHE' in out
    with pytest.warns(UserWarning, match='set MARLEARN_PROGRESS') as notes:
        from marlearn.course.progress import progress, record
        assert 'passed' in str(progress(15))
    assert len(notes) == 1
    record('15.1', True)
    assert 'set MARLEARN_PROGRESS' in capsys.readouterr().out

@pytest.mark.parametrize('argv', [['train', '--preset', 'tiny', '--data', 'shapes'], ['demo', '--data', 'shapes'],
                                  ['reconstruct', '--data', 'shapes']], ids=lambda argv: argv[0])
def test_what_needs_a_cache_names_its_variable(argv, no_home, capsys):
    status, _, err = run(capsys, *argv)
    assert status == 2 and 'set MARLEARN_CACHE' in one_error(err)

def test_drawing_needs_no_home(no_home, capsys):
    status, _, err = run(capsys, 'sample', '--per-class', 1, '--classes', 0, '--diff-steps', 1, '--ar-steps', 1)
    assert status == 0 and Path('samples.png').exists(), err

@pytest.mark.parametrize('value', ['a file', '~nobody-here/x', 'a file/below'])
def test_a_cache_that_cannot_be(value, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path('a file').write_text('', encoding='utf-8')
    monkeypatch.setenv('MARLEARN_CACHE', value)
    status, _, err = run(capsys, 'reconstruct', '--data', 'shapes')
    assert status == 2 and 'MARLEARN_CACHE' in one_error(err)

def test_a_relative_xdg_folder_is_ignored(monkeypatch, tmp_path):
    monkeypatch.delenv('MARLEARN_CACHE')
    monkeypatch.setenv('HOME', str(tmp_path))
    for value, want in (('here', tmp_path/'.cache'/'marlearn'), ('', tmp_path/'.cache'/'marlearn'),
                        (str(tmp_path/'c'), tmp_path/'c'/'marlearn')):
        monkeypatch.setenv('XDG_CACHE_HOME', value)
        assert cache_dir() == want

def test_home_is_written_out_in_every_path(monkeypatch, tmp_path):
    monkeypatch.setenv('HOME', str(tmp_path))
    for command, options in {'train': ['out', 'data', 'tokenizer'], 'sample': ['checkpoint', 'out'],
                             'evaluate': ['checkpoint', 'data', 'weights', 'pictures', 'out'],
                             'measure-tokenizer': ['tokenizer', 'data', 'weights', 'out'], 'demo': ['data', 'out'],
                             'reconstruct': ['data', 'tokenizer', 'out'], 'train-tokenizer': ['data', 'out'],
                             'cache': ['data', 'tokenizer', 'out']}.items():
        found = cli.parse(command, [f'--{option}=~/{option}' for option in options])
        for option in options:
            assert str(getattr(found, option)) == str(tmp_path/option), (command, option)
    assert cli.parse('demo', ['--run.data=~/pictures']).run.data == str(tmp_path/'pictures')
    assert str(cli.parse('sample', ['--out', 'a~b']).out) == 'a~b'

def test_a_home_that_nobody_has(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, err = run(capsys, 'train', '--out=~nobody-here/r')
    assert status == 2 and '--out=~nobody-here/r' in one_error(err) and not list(tmp_path.iterdir())

# Half an environment

@pytest.mark.parametrize('env, said', [
    ({}, (0, 1, 0)), ({'LOCAL_RANK': '3'}, (0, 1, 0)), ({'LOCAL_RANK': 'x'}, (0, 1, 0)), ({'RANK': '0'}, (0, 1, 0)),
    ({'RANK': '', 'WORLD_SIZE': ''}, (0, 1, 0)), ({'RANK': '1', 'WORLD_SIZE': '2', 'LOCAL_RANK': '1'}, (1, 2, 1)),
    ({'WORLD_SIZE': '2'}, 'WORLD_SIZE=2 .* not RANK'), ({'RANK': 'x'}, "RANK='x'"), ({'RANK': '1'}, 'RANK=1'),
    ({'RANK': '2', 'WORLD_SIZE': '2'}, 'RANK=2'), ({'RANK': '-1', 'WORLD_SIZE': '2'}, "RANK='-1'"),
    ({'WORLD_SIZE': '0'}, 'WORLD_SIZE=0'), ({'WORLD_SIZE': '2.0', 'RANK': '0'}, "WORLD_SIZE='2.0'")])
def test_what_the_environment_says_of_processes(env, said, monkeypatch):
    for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK'): monkeypatch.delenv(name, raising=False)
    for name, value in env.items(): monkeypatch.setenv(name, value)
    if isinstance(said, tuple):
        monkeypatch.setattr('torch.cuda.is_available', lambda: False)
        assert launch() == said
    else:
        with pytest.raises(ValueError, match=f'{said}.*unset it.*torchrun'): launch()

@pytest.mark.parametrize('command', ['train', 'sample', 'evaluate', 'cache'])
def test_a_left_over_world_size_is_one_line(command, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('WORLD_SIZE', '2')
    monkeypatch.delenv('RANK', raising=False)
    more = ['--data', 'x', '--tokenizer', 'pixels'] if command == 'cache' else []
    status, _, err = run(capsys, command, *more)
    assert status == 2 and 'WORLD_SIZE=2' in one_error(err) and not list(tmp_path.rglob('*.*'))

def test_processes_that_cannot_meet(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name, value in {'WORLD_SIZE': '2', 'RANK': '1', 'LOCAL_RANK': '0', 'MASTER_ADDR': '127.0.0.1',
                        'MASTER_PORT': '1'}.items(): monkeypatch.setenv(name, value)
    status, _, err = run(capsys, 'train', '--preset', 'tiny', '--data', 'shapes', '--timeout', 1)
    assert status == 2 and '127.0.0.1:1 (MASTER_ADDR, MASTER_PORT)' in one_error(err)

def test_main_in_a_thread(tmp_path):
    "Only the main thread may handle signals"
    argv = ['train', '--preset', 'tiny', '--data', 'shapes', '--out', str(tmp_path/'run'), '--train.steps', '2']
    thread = threading.Thread(target=cli.main, args=(argv,))
    thread.start()
    thread.join()
    assert list((tmp_path/'run'/'checkpoints').iterdir())

# Names of classes

@pytest.mark.parametrize('names, want', [
    (['cat', 'great white shark, white shark'], ['cat', 'great white shark, white shark']),
    (['a/b', 'a:b'], ['a_b', '1_a_b']), (['Cat', 'cat'], ['Cat', '1_cat']), (['', ' ', '.'], ['_', '1__', '2__']),
    (['..', '.git'], ['__', '_git']), (['end.', 'CON', 'aux.png'], ['end_', '1_CON', '2_aux.png']),
    (['2_a', 'a', 'A'], ['2_a', 'a', '2_2_A']), (['x\ny\0', '\u00e9', 'e\u0301'], ['x_y_', '\u00e9', '2_e\u0301']),
    (['\udcff'], ['_'])])
def test_class_names_as_folders(names, want):
    assert folder_names(names) == want

def test_long_class_names_as_folders(tmp_path):
    names = folder_names(['\U0001f986'*300, '\U0001f986'*301])
    assert len(set(names)) == 2
    for name in names: (tmp_path/name).mkdir()

NAMES = ('$1_$5', r'$\frac{$', '_hidden', '50% & {x}', 'two\nlines', '\u05e9\u05dc\u05d5\u05dd',
         '\U0001f986 duck', 'long'*99, '', '\udcff')

def test_class_names_are_text_in_every_figure(tmp_path):

    from marlearn.engine.drawing import save_class_grid, save_figure
    from marlearn.plot import show_curves, show_images
    which = torch.arange(len(NAMES))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        save_class_grid(torch.zeros(2*len(NAMES), 3, 8, 8), which, NAMES, tmp_path/'grid.png', title=NAMES[0])
        assert (tmp_path/'grid.png').stat().st_size > 2000
        names = [name for name in NAMES[:-1] if len(name) < 50]
        fig = show_curves({name: [1, 2] for name in names}, xlabel='$', ylabel='$_$', title=r'$\frac{$')
        assert [text.get_text() for text in fig.axes[0].get_legend().get_texts()] == list(names)
        save_figure(fig, tmp_path/'curves.png')
        fig = show_images(torch.zeros(1, 3, 8, 8), title='$1_$5', row_names=['$1_$5'])
        save_figure(fig, tmp_path/'page.png')

@pytest.mark.parametrize('name', ['$1_$5', '..', 'a:b', 'two\nlines'])
def test_a_class_of_any_name_is_drawn_to_a_folder(name, tmp_path):
    from marlearn.engine.evaluation import PictureFolder
    shipped = load_checkpoint(pretrained('mar'))
    folder = PictureFolder(tmp_path/'out', shipped.model, shipped.tokenizer, torch.tensor([0, 1]), ar_steps=1,
                           diff_steps=1, classes=[name, *shipped.classes[1:]])
    folder.fill(quiet=True)
    found = sorted(p.relative_to(tmp_path).parts for p in tmp_path.rglob('*.png'))
    assert len(found) == 2 and all(len(parts) == 3 for parts in found)

def test_a_grid_that_fails_costs_no_training(tmp_path):
    from marlearn.engine.checkpoints import latest_checkpoint
    from marlearn.engine.presets import tiny
    from marlearn.engine.run import fit
    from marlearn.train import new_model, TokenData
    saved = []
    def draw(step, model, averaged):
        model.eval()
        saved.append(latest_checkpoint(tmp_path) is not None)
        raise RuntimeError('no such font')
    config = tiny()
    config = replace(config, train=replace(config.train, steps=4, batch_size=4, sample_every=2, save_every=2))
    tokenizer, data = get_tokenizer('shipped'), TokenData(torch.zeros(8, 16, 40), None, torch.zeros(8).long())
    model = new_model(config.model, tokenizer)
    with pytest.warns(UserWarning, match='nothing was drawn after step 2 .*no such font.*training goes on'):
        _, log = fit(model, data, config, tmp_path, tokenizer=tokenizer, classes=tuple('abcdefghij'), on_sample=draw)
    assert saved == [True] and latest_checkpoint(tmp_path).name == 'step-00000004'
