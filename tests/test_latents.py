"Latent caches: the same numbers as in memory, whole or absent, and damage is noticed"
import os
import random
import shutil
import subprocess
import sys
import tarfile
import time
import pytest
import torch
from PIL import Image
from marlearn.data import load_shapes
from marlearn.engine.latents import LatentData, write_latents
from marlearn.engine.pictures import load_path
from marlearn.files import pretrained, process_mark
from marlearn.tokenizers import load_tokenizer, PixelTokenizer
from marlearn.train import encode_data, step_generator

ENV = os.environ | {'OMP_NUM_THREADS': '1', 'MARLEARN_OFFLINE': '1'}

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    home, shapes = tmp_path_factory.mktemp('pictures')/'many', load_shapes(n=40)
    for i in range(40):
        x, y = shapes.batch([i])
        pixels = ((x[0] + 1)*127.5).round().byte().permute(1, 2, 0).numpy()
        (home/shapes.classes[y]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).resize((40, 50)).save(home/shapes.classes[y]/f'{i:02d}.png')
    return home

def make(out, path, **kw):
    return write_latents(out, path, PixelTokenizer(8), **({'img_size': 32, 'shard_size': 7, 'quiet': True} | kw))

def all_tokens(folder): return LatentData(folder).batch(torch.arange(80), step_generator(0, 0))[0]

def test_equals_what_memory_gives_and_the_classes_agree(folder, tmp_path, monkeypatch):
    monkeypatch.setenv('MARLEARN_CACHE', str(tmp_path/'cache'))
    make(tmp_path/'out', folder)
    data, pictures = LatentData(tmp_path/'out'), load_path(folder)
    assert data.classes == pictures.classes and len(data) == 80
    memory = encode_data(PixelTokenizer(8), pictures, quiet=True)
    for flip in (0, 1):
        ours, y = data.batch(torch.arange(40)*2 + flip, step_generator(0, 0))
        theirs, y2 = memory.batch(torch.arange(40) + 40*flip, step_generator(0, 0))
        assert torch.equal(y, y2) and torch.equal(ours, theirs)

def test_a_tar_gives_the_same(folder, tmp_path):
    with tarfile.open(tmp_path/'many.tar', 'w') as tar:
        tar.add(folder, 'many')
    make(tmp_path/'a', folder)
    make(tmp_path/'b', tmp_path/'many.tar')
    assert torch.equal(all_tokens(tmp_path/'a'), all_tokens(tmp_path/'b'))
    with tarfile.open(tmp_path/'many.tar.gz', 'w:gz') as tar:
        tar.add(folder, 'many')
    with pytest.raises(ValueError, match='no uncompressed tar'):
        make(tmp_path/'c', tmp_path/'many.tar.gz')

def test_three_processes_share_the_shards(folder, tmp_path):
    assert [make(tmp_path/'out', folder, rank=r, world_size=3) is None for r in (2, 0, 1)] == [True, True, False]
    make(tmp_path/'alone', folder)
    for f in (tmp_path/'alone').glob('shard-*'):
        assert f.read_bytes() == (tmp_path/'out'/f.name).read_bytes()

def test_broken_pictures_are_skipped_counted_and_listed(folder, tmp_path):
    shutil.copytree(folder, tmp_path/'many')
    one = sorted((tmp_path/'many').rglob('*.png'))
    one[3].write_bytes(one[3].read_bytes()[:60])
    one[9].write_text('nothing')
    with pytest.warns(UserWarning, match='skipped 2 of 40'):
        index = make(tmp_path/'out', tmp_path/'many')
    assert len(index['broken']) == 2 and one[3].name in index['broken'][0] and len(LatentData(tmp_path/'out')) == 76
    for f in one:
        f.write_text('nothing')
    with pytest.raises(ValueError, match='none of the 40'):
        make(tmp_path/'none', tmp_path/'many')

def cut_short(f): f.write_bytes(f.read_bytes()[:-50])
def remove(f): f.unlink()
def empty(f): f.write_bytes(b'\x00'*500)

@pytest.mark.parametrize('harm', [cut_short, remove, empty])
def test_a_damaged_shard_is_named_when_opened_and_can_be_made_again(folder, tmp_path, harm):
    make(tmp_path/'out', folder)
    whole = all_tokens(tmp_path/'out')
    harm(tmp_path/'out/shard-00002.npy')
    with pytest.raises(ValueError, match='shard-00002.npy is damaged'):
        LatentData(tmp_path/'out')
    for f in ('npy', 'json'):
        (tmp_path/f'out/shard-00002.{f}').unlink(missing_ok=True)
    make(tmp_path/'out', folder)                                           # as the message says
    assert torch.equal(all_tokens(tmp_path/'out'), whole)

def test_every_flipped_bit_is_noticed(folder, tmp_path):
    make(tmp_path/'out', folder)
    f, chance = tmp_path/'out/shard-00001.npy', random.Random(0)
    good = f.read_bytes()
    for _ in range(20):
        bad = bytearray(good)
        bad[chance.randrange(128, len(good))] ^= 1 << chance.randrange(8)
        f.write_bytes(bytes(bad))
        with pytest.raises(ValueError, match='shard-00001.npy is damaged'):
            LatentData(tmp_path/'out').verify(quiet=True)

@pytest.mark.parametrize('name', ['shard-00001.json', 'index.json', 'plan.json'])
def test_a_changed_character_in_what_describes_the_cache_is_noticed_and_can_be_mended(name, folder, tmp_path):
    make(tmp_path/'out', folder)
    labels, tokens = LatentData(tmp_path/'out').labels, all_tokens(tmp_path/'out')
    f, chance = tmp_path/'out'/name, random.Random(0)
    good = f.read_bytes()
    for _ in range(20):
        bad = bytearray(good)
        at = chance.randrange(len(good))
        bad[at] ^= 1 << chance.randrange(7)
        f.write_bytes(bytes(bad))
        if name == 'plan.json':
            (tmp_path/'out/index.json').unlink(missing_ok=True)
        with pytest.raises(ValueError, match=f'{name} (cannot be read|is not as written).*(delete|Delete) it'):
            make(tmp_path/'out', folder) if name == 'plan.json' else LatentData(tmp_path/'out')
    f.unlink()                                                             # as the message says
    if name.startswith('shard'):
        f.with_suffix('.npy').unlink()
    make(tmp_path/'out', folder)
    assert torch.equal(LatentData(tmp_path/'out').labels, labels)
    assert torch.equal(all_tokens(tmp_path/'out'), tokens)

def test_what_a_kill_left_of_another_processs_shard_is_not_touched(folder, tmp_path):
    make(tmp_path/'out', folder, rank=0, world_size=2)
    machine, pid, start = process_mark().split('-')
    def half(owner, k):
        file = tmp_path/f'out/shard-0000{k}.npy.unfinished-{owner}-x'
        file.write_bytes(b'half')
        return file
    elsewhere, alive = half('elsewhere-999999-1', 0), half(f'{machine}-{pid}-{start}', 0)
    dead, of_0_1, long_ago = half(f'{machine}-{pid}-1', 0), half('999999', 0), half('elsewhere-999999-2', 1)
    os.utime(long_ago, (time.time() - 2*3600,)*2)
    (tmp_path/'out/shard-00000.json').unlink()
    make(tmp_path/'out', folder, rank=0, world_size=2)
    left = set(tmp_path.glob('out/*unfinished*'))
    assert left == {elsewhere, alive, of_0_1} and not {dead, long_ago} & left

def test_no_room_is_said_before_anything_is_written(folder, tmp_path, monkeypatch):
    monkeypatch.setattr('shutil.disk_usage', lambda p: type('Usage', (), {'free': 1000})())
    with pytest.raises(OSError, match='nothing was written'):
        make(tmp_path/'out', folder)
    assert not list((tmp_path/'out').iterdir())

def test_another_tokenizer_or_other_pictures_are_refused(folder, tmp_path):
    make(tmp_path/'out', folder)
    with pytest.raises(ValueError, match='something else: tokenizer'):
        write_latents(tmp_path/'out', folder, load_tokenizer(pretrained('tokenizer')), img_size=32, shard_size=7,
                      quiet=True)
    with pytest.raises(ValueError, match='shard_size was 7, is 8'):
        make(tmp_path/'out', folder, shard_size=8)
    with pytest.raises(FileNotFoundError, match='there are no latents'):
        LatentData(folder)

def cli(*args, code=0, **kw):
    done = subprocess.run([sys.executable, '-m', 'marlearn', *map(str, args)], capture_output=True, text=True, env=ENV,
                          timeout=200, **kw)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr

def test_from_folder_to_training_by_command_line_with_kills(folder, tmp_path):
    args = ['cache', '--data', folder, '--tokenizer', 'shipped', '--img-size', 32, '--shard-size', 2, '--batch-size', 1]
    cli(*args, '--out', tmp_path/'whole')
    chance = random.Random()
    for _ in range(10):
        before = len(list((tmp_path/'killed').glob('shard-*.json')))
        going = subprocess.Popen([sys.executable, '-m', 'marlearn', *map(str, args), '--out', str(tmp_path/'killed')],
                                 env=ENV, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while going.poll() is None and len(list((tmp_path/'killed').glob('shard-*.json'))) <= before:
            time.sleep(.002)
        time.sleep(chance.uniform(0, .02))
        going.kill()
        going.wait()
    assert 'train with: marlearn train --data' in cli(*args, '--out', tmp_path/'killed')
    for f in (tmp_path/'whole').glob('shard-*'):
        assert f.read_bytes() == (tmp_path/'killed'/f.name).read_bytes()
    assert '80 rows' in cli('cache', '--data', folder, '--tokenizer', 'shipped', '--out', tmp_path/'killed', '--verify')
    assert 'latents in' in cli('train', '--preset', 'tiny', '--data', tmp_path/'whole', '--train.steps', 4,
                               '--train.sample-every', 0, '--out', tmp_path/'run')
    assert 'are of pictures of 32 pixels' in cli('train', '--preset', 'tiny', '--data', tmp_path/'whole', '--img-size',
                                                 64, '--out', tmp_path/'other', code=2)
    assert 'pictures with' in cli('sample', '--checkpoint', tmp_path/'run', '--per-class', 1, '--diff-steps', 5,
                                  '--out', tmp_path/'s.png')
