"Small things that many tests share"
import signal
import numpy as np
import pytest
import torch
from PIL import Image

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN: # as in a shell's background; then no run would hear a Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)

@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    "No test reads or writes the user's caches, or the network; compilers side by side would spoil a shared one"
    monkeypatch.setenv('MARLEARN_CACHE', str(tmp_path_factory.getbasetemp()/'cache'))
    monkeypatch.setenv('TORCHINDUCTOR_CACHE_DIR', str(tmp_path_factory.getbasetemp()/'compiled'))
    monkeypatch.setenv('MARLEARN_OFFLINE', '1')

@pytest.fixture
def g(): return torch.Generator().manual_seed(0)

@pytest.fixture(scope='session')
def folder(tmp_path_factory):
    "An image folder: 2 classes x 12 pictures of odd sizes"
    root, rng = tmp_path_factory.mktemp('pictures'), np.random.default_rng(0)
    for c, colour in (('blue things', (30, 60, 220)), ('red', (220, 40, 40))):
        (root/c).mkdir()
        for i in range(12):
            pixels = np.clip(np.array(colour) + rng.normal(0, 25, (40 + i, 52, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root/c/f'{i:02}.png')
    return root
