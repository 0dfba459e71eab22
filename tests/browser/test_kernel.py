"Every notebook once in a real kernel, two at a time; `make test-browser` asks for it"
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted(p for pattern in ('*.ipynb', 'engine/*.ipynb', 'course/*.ipynb') for p in (ROOT/'nbs').glob(pattern))

def execute(path):
    import nbformat
    from nbclient import NotebookClient
    notebook = nbformat.read(path, 4)
    env = os.environ | {'OMP_NUM_THREADS': '1', 'MARLEARN_PROGRESS': os.devnull + '/none'}
    where = {'metadata': {'path': str(path.parent)}}
    NotebookClient(notebook, timeout=240, kernel_name='python3', resources=where).execute(env=env)

def run(path):
    "What went wrong, or None; where a kernel sits idle and its client waits, a message was lost: once more"
    from nbclient.exceptions import CellTimeoutError
    try:
        try: execute(path)
        except CellTimeoutError: execute(path)
    except Exception as e: return str(e)[-3000:]

@pytest.fixture(scope='session')
def results():
    if not os.environ.get('MARLEARN_KERNEL'):
        pytest.skip('runs with `make test-browser`')
    with ThreadPoolExecutor(2) as pool: return dict(zip(NOTEBOOKS, pool.map(run, NOTEBOOKS)))

@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: f'{p.parent.name}/{p.stem}')
def test_notebook_in_a_real_kernel(results, path): assert results[path] is None, results[path]
