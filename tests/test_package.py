"What stands around the library: its address in one place, Colab, workflows, container, citation, metadata, versions"
import configparser, fnmatch, json, os, re, runpy, shutil, subprocess, sys
from email.parser import Parser
from pathlib import Path
import pytest

yaml = pytest.importorskip('yaml')
ROOT = Path(__file__).resolve().parent.parent
LESSONS = sorted((ROOT/'nbs').glob('[0-9]*.ipynb'))
WORKFLOWS = sorted((ROOT/'.github'/'workflows').glob('*.yml'))

def read_settings(root=ROOT):
    config = configparser.ConfigParser(delimiters=['='])
    config.read(root/'settings.ini', encoding='utf-8')
    return dict(config['DEFAULT'])

SETTINGS = read_settings()
def lines(key): return [line.strip() for line in SETTINGS[key].splitlines() if line.strip()]
PYTHONS = [c.rsplit(' ', 1)[1] for c in lines('classifiers') if re.search(r':: 3\.\d+$', c)]

def script(name, monkeypatch):
    "The names that a script defines"
    monkeypatch.syspath_prepend(str(ROOT/'scripts'))
    return runpy.run_path(str(ROOT/'scripts'/f'{name}.py'))

def copy_of(home, *names):
    "A part of the repository"
    for name in names:
        target = home/name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT/name).is_dir(): shutil.copytree(ROOT/name, target, ignore=shutil.ignore_patterns('__pycache__'))
        else: shutil.copy(ROOT/name, target)
    return home

# Colab

def colab(root, *options):
    line = [sys.executable, str(root/'scripts'/'colab.py'), *options]
    return subprocess.run(line, capture_output=True, text=True)

def test_every_lesson_opens_in_colab():
    done = colab(ROOT, '--check')
    assert done.returncode == 0, done.stderr
    repo = SETTINGS['repo_url'].removeprefix('https://github.com/')
    for path in LESSONS:
        first, second = json.loads(path.read_text(encoding='utf-8'))['cells'][:2]
        link = f"](https://colab.research.google.com/github/{repo}/blob/{SETTINGS['branch']}/nbs/{path.name})"
        assert ''.join(first['source']).count(link) == 1, path.name
        assert second['metadata'] == {'jupyter': {'source_hidden': True}} and second['outputs'] == []

def test_another_address_reaches_every_place(tmp_path):
    "And a second time changes nothing"
    copy = copy_of(tmp_path, 'settings.ini', 'scripts', 'nbs')
    text = (copy/'settings.ini').read_text(encoding='utf-8')
    text = text.replace(SETTINGS['repo_url'], 'https://github.com/somebody/mar')
    (copy/'settings.ini').write_text(text.replace('branch = main', 'branch = dev'), encoding='utf-8')
    assert colab(copy, '--check').returncode == 1
    assert colab(copy).returncode == 0 and colab(copy, '--check').returncode == 0
    for path in sorted((copy/'nbs').glob('[0-9]*.ipynb')):
        text = path.read_text(encoding='utf-8')
        assert SETTINGS['repo_url'] not in text and text.count('github/somebody/mar/blob/dev/nbs/') == 1
        assert text.count('git clone -q --depth 1 -b dev https://github.com/somebody/mar /content/marlearn') == 1

def test_the_address_is_written_by_hand_only_once():
    "Notebooks and README have it from scripts; what a citation says is compared below"
    listed = subprocess.run(['git', 'ls-files'], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode: pytest.skip('no repository here')
    repo = SETTINGS['repo_url'].removeprefix('https://')
    derived = {'README.md', 'CITATION.cff', 'nbs/index.ipynb', *(f'nbs/{p.name}' for p in LESSONS)}
    names = [n for n in listed.stdout.splitlines() if (ROOT/n).is_file()]
    found = {n for n in names if repo.encode() in (ROOT/n).read_bytes()}
    assert found - derived == {'settings.ini'}

class Shell:
    "An IPython that only writes down what it is told"
    def __init__(self, name): self.name, self.told = name, []
    def __str__(self): return self.name
    def system(self, line): self.told.append(line)
    def run_line_magic(self, name, line): self.told.append(f'%{name} {line}')

@pytest.mark.parametrize('shell, n', [
    ('<google.colab._shell.Shell object at 0x7f>', 3), ('<ipykernel.zmqshell.ZMQInteractiveShell object>', 0),
    ('<IPython.terminal.interactiveshell.TerminalInteractiveShell object>', 0)])
def test_the_install_cell_does_nothing_outside_colab(shell, n):
    transform = pytest.importorskip('IPython.core.inputtransformer2').TransformerManager().transform_cell
    cell, shell = json.loads(LESSONS[0].read_text(encoding='utf-8'))['cells'][1], Shell(shell)
    exec(transform(''.join(cell['source'])), {'get_ipython': lambda: shell})
    assert len(shell.told) == n
    if n: assert shell.told[0].startswith('git clone') and shell.told[2] == '%cd -q /content/marlearn/nbs'

# Workflows

def steps(workflow):
    return [s for job in yaml.safe_load(workflow.read_text(encoding='utf-8'))['jobs'].values() for s in job['steps']]

def exists(command):
    "Whether a line of a workflow names what the repository has"
    program, *words = command.split()
    if program == 'make': return re.search(rf'^{words[0]}:', (ROOT/'Makefile').read_text(encoding='utf-8'), re.M)
    if program == 'python': return (ROOT/words[0]).is_file() and words[0].startswith('scripts/')
    return False

@pytest.mark.parametrize('workflow', WORKFLOWS, ids=lambda p: p.stem)
def test_workflow_runs_what_is_there(workflow):
    text = workflow.read_text(encoding='utf-8')
    runs = [s['run'] for s in steps(workflow) if 'run' in s]
    assert runs and all(map(exists, runs)), runs
    assert not exists('make coffee') and not exists('python scripts/coffee.py') and not exists('curl x')
    assert 'secrets.' not in text and 'shared/' not in text
    for use in (s['uses'] for s in steps(workflow) if 'uses' in s):
        assert re.fullmatch(r'actions/[\w-]+@v\d+', use), use
    for s in steps(workflow):
        if 'cache' in s.get('with', {}): assert (ROOT/s['with']['cache-dependency-path']).is_file()
    content = yaml.safe_load(text)
    assert content['concurrency']['group'] and all(job['timeout-minutes'] for job in content['jobs'].values())
    assert content[True], 'YAML reads `on` as True'

def test_workflows_cover_systems_and_versions():
    jobs = yaml.safe_load((ROOT/'.github'/'workflows'/'test.yml').read_text(encoding='utf-8'))['jobs']
    matrix = jobs['test']['strategy']['matrix']
    assert {os.partition('-')[0] for os in matrix['os']} == {'ubuntu', 'macos'}
    assert matrix['python'] == [SETTINGS['min_python'], PYTHONS[-1]]
    assert jobs['versions']['strategy']['matrix']['python'] == PYTHONS

def test_the_book_is_published_from_where_it_is_built():
    upload, = (s for s in steps(ROOT/'.github'/'workflows'/'book.yml') if 'upload-pages' in s.get('uses', ''))
    assert upload['with']['path'] == 'book/_build/html'
    assert "work/'html'" in (ROOT/'scripts'/'build_book.py').read_text(encoding='utf-8')

# Metadata

@pytest.fixture(scope='module')
def metadata(tmp_path_factory):
    "What pip would read"
    home = copy_of(tmp_path_factory.mktemp('package'), 'settings.ini', 'setup.py', 'pyproject.toml', 'README.md',
                   'LICENSE', 'marlearn/__init__.py', 'data/pretrained/mar')
    code = "from setuptools.build_meta import *; print('made', prepare_metadata_for_build_wheel('out'))"
    (home/'out').mkdir()
    done = subprocess.run([sys.executable, '-c', code], cwd=home, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 'DeprecationWarning' not in done.stderr, done.stderr
    folder = home/'out'/done.stdout.rsplit('made ', 1)[1].strip()
    return Parser().parsestr((folder/'METADATA').read_text(encoding='utf-8'))

def test_metadata(metadata):
    assert metadata['License-Expression'] == 'Apache-2.0' and metadata['License'] is None
    assert metadata['License-File'] == 'LICENSE'
    assert metadata['Requires-Python'] == f">={SETTINGS['min_python']}"
    urls = dict(u.split(', ') for u in metadata.get_all('Project-URL'))
    assert urls['Source'] == SETTINGS['repo_url'] and urls['Issues'] == f"{SETTINGS['repo_url']}/issues"
    classifiers = metadata.get_all('Classifier')
    assert classifiers == lines('classifiers') and not [c for c in classifiers if c.startswith('License')]
    assert PYTHONS[0] == SETTINGS['min_python']
    assert (ROOT/'marlearn'/'py.typed').is_file()

def test_citation():
    cited = yaml.safe_load((ROOT/'CITATION.cff').read_text(encoding='utf-8'))
    assert cited['cff-version'] == '1.2.0' and cited['type'] == 'software'
    assert (cited['version'], cited['license']) == (SETTINGS['version'], SETTINGS['license'])
    assert cited['repository-code'] == SETTINGS['repo_url']
    assert cited['authors'] == [{'name': SETTINGS['author']}]
    paper, = cited['references']
    names = [f"{a['family-names']}, {a['given-names']}" for a in paper['authors']]
    readme = (ROOT/'README.md').read_text(encoding='utf-8')
    assert f"author={{{' and '.join(names)}}}" in readme and f"title={{{paper['title']}}}" in readme
    assert paper['journal'].endswith(paper['url'].rpartition('/')[2])

# Container

INSTRUCTIONS = re.sub(r'\\\n', ' ', (ROOT/'Dockerfile').read_text(encoding='utf-8'))
COPIED = [name for line in re.findall(r'^COPY (.+) \S+$', INSTRUCTIONS, re.M) for name in line.split()]

def ignored(name):
    "By .dockerignore: the last pattern that fits decides"
    out = False
    for pattern in (ROOT/'.dockerignore').read_text(encoding='utf-8').splitlines():
        keep, pattern = pattern.startswith('!'), pattern.removeprefix('!')
        if pattern and pattern[0] != '#' and (fnmatch.fnmatch(name, pattern) or f'{name}/'.startswith(f'{pattern}/')):
            out = not keep
    return out

def test_container_has_what_it_copies_and_starts():
    assert {'setup.py', 'settings.ini', 'marlearn', 'data/pretrained'} <= set(COPIED)
    assert not [n for n in COPIED if not (ROOT/n).exists() or ignored(n)]
    assert ignored('runs/checkpoint') and ignored('.venv/bin/python') and ignored('data/cifar10.tar.gz')
    paths = re.findall(r"HERE((?:/'[\w.]+')+)", (ROOT/'setup.py').read_text(encoding='utf-8'))
    needed = [path.replace("'", '').removeprefix('/') for path in paths]
    assert needed and set(needed) <= set(COPIED)
    start, = re.findall(r'^ENTRYPOINT \["(\w+)"\]$', INSTRUCTIONS, re.M)
    assert start in {s.partition(' = ')[0] for s in lines('console_scripts')}
    extra, = re.findall(r"'/build\[(\w+)\]'", INSTRUCTIONS)
    assert f'{extra}_requirements' in SETTINGS
    image, = re.findall(r'^FROM python:(3\.\d+)-slim$', INSTRUCTIONS, re.M)
    assert image in PYTHONS
    users = re.findall(r'^USER (\w+)$', INSTRUCTIONS, re.M)
    assert users and users[-1] != 'root' and INSTRUCTIONS.index('USER') < INSTRUCTIONS.index('ENTRYPOINT')

def engine_runs():
    docker = shutil.which('docker')
    return bool(docker) and subprocess.run([docker, 'info'], capture_output=True, timeout=60).returncode == 0

def test_container_builds_and_draws():
    "Gigabytes and minutes: only where it is asked for, and a Docker engine runs"
    if 'MARLEARN_DOCKER' not in os.environ: pytest.skip('MARLEARN_DOCKER=1 builds the container')
    if not engine_runs(): pytest.skip('no Docker engine here')
    subprocess.run(['docker', 'build', '-t', 'marlearn-test', str(ROOT)], check=True)
    said = subprocess.run(['docker', 'run', '--rm', 'marlearn-test', 'sample', '--per-class', '1', '--diff-steps', '5'],
                          check=True, capture_output=True, text=True)
    assert 'samples.png' in said.stdout + said.stderr

# Versions

def test_versions_that_readme_names_were_tried(monkeypatch):
    "README names the rows of the result and no others; the oldest has the oldest of everything"
    cases = script('try_versions', monkeypatch)['CASES']
    assert [c.python for c in cases] == PYTHONS
    result = ROOT/'benchmarks'/'results'/'versions.json'
    rows = json.loads(result.read_text(encoding='utf-8'))['rows'] if result.exists() else []
    assert {r['python'] for r in rows} <= set(PYTHONS)
    assert not [name for r in rows for name in r['failed']] and all(r['passed'] > 300 for r in rows)
    named = re.findall(r'Python (3\.\d+) with torch', (ROOT/'README.md').read_text(encoding='utf-8'))
    assert named == [r['python'] for r in rows]
    if not rows or not rows[0]['lowest']: return # not tried yet, and README does not say so
    oldest = dict(re.match(r'([\w-]+)>=([\w.]+)', r).groups() for r in lines('requirements'))
    def number(version): return [int(n) for n in re.findall(r'\d+', version.split('+')[0])]
    for name, version in oldest.items():
        tried = number(rows[0]['versions'][name])
        assert rows[0]['lowest'] and tried == number(version) + [0]*(len(tried) - len(number(version))), name

def test_lowest_versions(monkeypatch):
    lowest = script('try_versions', monkeypatch)['lowest']
    assert [lowest(r) for r in ('numpy>=1.26', 'tyro>=0.9.2,<2')] == ['numpy==1.26', 'tyro==0.9.2']
    with pytest.raises(ValueError, match='must name its lowest version'): lowest('numpy<2')

# make test

def test_a_part_that_fails_is_named_at_the_end(tmp_path):
    "ruff and nbdev-test pretended; pytest is told to fail"
    copy = copy_of(tmp_path, 'scripts/run_tests.py')
    tools = tmp_path/'bin'
    tools.mkdir()
    for name, code in (('ruff', 0), ('nbdev-test', 0), ('python', 1)):
        (tools/name).write_text(f'#!/bin/sh\nexit {code}\n')
        (tools/name).chmod(0o755)
    def parts(): return subprocess.run([sys.executable, '-c', RUN, str(copy/'scripts'/'run_tests.py'), str(tools/'x')],
                                       capture_output=True, text=True)
    done = parts()
    last = done.stdout.splitlines()[-3:]
    assert done.returncode == 1
    assert [line.split()[1:3] for line in last] == [['ruff', 'passed'], ['notebooks', 'passed'], ['pytest', 'FAILED']]
    assert all(re.search(r'\d+ min \d\d s$', line) for line in last)
    (tools/'python').write_text('#!/bin/sh\nexit 0\n')
    assert parts().returncode == 0

RUN = "import runpy, sys; sys.executable = sys.argv[2]; runpy.run_path(sys.argv[1], run_name='__main__')"
