"A browser, a JupyterLab over copies of the notebooks, and the built book on a local port; skipped without a browser"
import http.server, json, os, shutil, socket, subprocess, sys, threading, time, urllib.request
from functools import partial
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
# no sandbox: tests may run as root; no background traffic: nothing but the pages under test is to be asked for
OPTIONS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
           '--disable-component-update', '--disable-sync', '--disable-dev-shm-usage']
OWN = 'http://127.0.0.1', 'ws://127.0.0.1', 'data:', 'blob:', 'about:' # addresses that a page under test may ask for

def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]

@pytest.fixture(scope='session')
def browser():
    sync_api = pytest.importorskip('playwright.sync_api', reason='no playwright here: `make test-browser` installs it')
    if not CHROMIUM:
        pytest.skip('no Chromium here: `make test-browser` installs it')
    with sync_api.sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield chromium
        chromium.close()

@pytest.fixture(scope='session')
def pictures():
    "Where screenshots go: MARLEARN_SCREENSHOTS, else runs/screenshots (which git ignores)"
    folder = Path(os.environ.get('MARLEARN_SCREENSHOTS') or ROOT/'runs'/'screenshots')
    folder.mkdir(parents=True, exist_ok=True)
    return folder

@pytest.fixture
def page(browser):
    "A page that fails its test when it asks another machine for anything"
    context = browser.new_context(viewport={'width': 1300, 'height': 1000})
    page, elsewhere = context.new_page(), []
    page.on('request', lambda r: None if r.url.startswith(OWN) else elsewhere.append(r.url))
    yield page
    context.close()
    assert not elsewhere, f'asked for {elsewhere[:5]}'

@pytest.fixture(scope='session')
def lab(tmp_path_factory):
    "The address of a JupyterLab whose notebooks are copies"
    place = tmp_path_factory.mktemp('lab')
    shutil.copytree(ROOT/'nbs', place/'nbs', ignore=shutil.ignore_patterns('.ipynb_checkpoints'))
    for name in ('data', 'tests'):
        (place/name).symlink_to(ROOT/name)
    settings = { # all cells are in the page, also those out of sight; nothing pops up
        'notebook-extension/tracker': {'windowingMode': 'none'},
        'apputils-extension/notification': {'fetchNews': 'false', 'checkForUpdates': False, 'doNotDisturbMode': True},
    }
    for name, value in settings.items():
        path = place/'settings'/'@jupyterlab'/f'{name}.jupyterlab-settings'
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(value))
    port = free_port()
    env = os.environ | {'JUPYTERLAB_SETTINGS_DIR': str(place/'settings'), 'JUPYTER_CONFIG_DIR': str(place/'config'),
                        'MARLEARN_PROGRESS': str(place/'progress.json'), 'MARLEARN_OFFLINE': '1',
                        'OMP_NUM_THREADS': '1'}
    env.pop('MARLEARN_DATA', None)
    command = [sys.executable, '-m', 'jupyter', 'lab', '--no-browser', '--allow-root', f'--port={port}',
               '--ServerApp.port_retries=0', '--IdentityProvider.token=', f'--notebook-dir={place}/nbs',
               '--LabApp.news_url=']
    server = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=open(place/'log', 'w'))
    address = f'http://127.0.0.1:{port}'
    for _ in range(240):
        try:
            urllib.request.urlopen(f'{address}/api', timeout=1)
            break
        except OSError:
            assert server.poll() is None, (place/'log').read_text()[-2000:]
            time.sleep(.25)
    else:
        pytest.fail('JupyterLab did not start within a minute')
    yield address
    server.terminate()
    server.wait(20)

@pytest.fixture(scope='session')
def book():
    "The address of the book, built now"
    subprocess.run([sys.executable, str(ROOT/'scripts'/'build_book.py')], check=True)
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_): pass
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), partial(Quiet, directory=ROOT/'book'/'_build'/'html'))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_address[1]}'
    server.shutdown()
