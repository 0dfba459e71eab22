"Latent caches: the same numbers as in memory, whole or absent, and damage is noticed"
import os
import random
import shutil
import subprocess
import sys
import tarfile
import time
import warnings
from pathlib import Path
import pytest
import torch
from PIL import Image
from marlearn.data import load_shapes
from marlearn.engine.latents import check_sources, compare_sources, LatentData, write_latents
from marlearn.engine.pictures import load_path
from marlearn.files import pretrained, process_mark, read_json, write_json
from marlearn.tokenizers import load_tokenizer, PixelTokenizer
from marlearn.train import encode_data, step_generator
from tools import kill, start_forked

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

# --- the pictures and the tokenizer that the latents belong to ---

@pytest.fixture
def own(folder, tmp_path):
    "A copy of the pictures, and their latents: 40 pictures in 6 shards"
    shutil.copytree(folder, tmp_path/'many')
    make(tmp_path/'out', tmp_path/'many')
    return tmp_path/'many'

def files(folder): return sorted(folder.rglob('*.png'))

def made_again(out, *args, **kw):
    "Names of the shards that `make` wrote, and what was said"
    before = {f: f.stat().st_mtime_ns for f in out.glob('shard-*.npy')}
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter('always')
        make(out, *args, **kw)
    heard = [str(w.message) for w in heard if w.category is UserWarning]
    return sorted(f.name for f in out.glob('shard-*.npy') if before.get(f) != f.stat().st_mtime_ns), heard

def paint(file, grey, size=(40, 50)): Image.new('RGB', size, (grey,)*3).save(file)

def pack(folder, tar, inside='many'):
    with tarfile.open(tar, 'w') as t: t.add(folder, inside)
    return tar

def test_a_picture_that_changed_is_encoded_again_with_its_shard_alone(own, tmp_path):
    paint(files(own)[9], 7)
    paint(files(own)[10], 8)
    shards, heard = made_again(tmp_path/'out', own)
    assert shards == ['shard-00001.npy'] and len(heard) == 1
    assert heard[0].startswith('2 pictures in ') and files(own)[9].name in heard[0]
    make(tmp_path/'fresh', own)
    assert torch.equal(all_tokens(tmp_path/'out'), all_tokens(tmp_path/'fresh'))
    assert made_again(tmp_path/'out', own) == ([], [])

def test_a_change_that_keeps_the_size_is_noticed(own, tmp_path):
    one, before = files(own)[20], all_tokens(tmp_path/'out')
    content = one.read_bytes()
    other = files(own)[21].read_bytes()
    one.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))            # as long as before
    assert made_again(tmp_path/'out', own)[0] == ['shard-00002.npy']
    one.write_bytes(other)
    assert made_again(tmp_path/'out', own)[0] == ['shard-00002.npy']
    after = all_tokens(tmp_path/'out')
    assert torch.equal(after[40:42], before[42:44]) and torch.equal(after[:40], before[:40])

def test_other_dates_of_the_same_pictures_change_nothing(own, tmp_path, monkeypatch):
    for f in files(own):
        os.utime(f, ns=(1, 1))
    assert made_again(tmp_path/'out', own) == ([], [])
    monkeypatch.setattr(Path, 'read_bytes', lambda f: pytest.fail('read again'))
    assert made_again(tmp_path/'out', own) == ([], [])                  # the new dates are known now

def test_a_copy_and_a_tar_of_the_same_pictures_are_the_same_pictures(own, tmp_path):
    shutil.copytree(own, tmp_path/'elsewhere'/'many', copy_function=shutil.copyfile)
    for path in (tmp_path/'elsewhere'/'many', pack(own, tmp_path/'many.tar', '.'), own):
        assert made_again(tmp_path/'out', path) == ([], [])

def test_a_tar_that_was_replaced_is_noticed(own, tmp_path):
    make(tmp_path/'tar', pack(own, tmp_path/'many.tar'))
    paint(files(own)[30], 7)
    pack(own, tmp_path/'many.tar')
    assert made_again(tmp_path/'tar', tmp_path/'many.tar')[0] == ['shard-00004.npy']

def test_links_in_a_tar_are_as_old_as_the_tar(own, tmp_path):
    first, linked = files(own)[0], own/'zebra'/'linked.png'
    linked.parent.mkdir()
    os.link(first, linked)
    (own/'zebra'/'soft.png').symlink_to(first)                          # tar keeps an absolute name: it leads nowhere
    (own/'zebra'/'relative.png').symlink_to(os.path.relpath(first, own/'zebra'))
    with pytest.warns(UserWarning, match='skipped 1 of 43 .*soft.png'):
        index = make(tmp_path/'tar', pack(own, tmp_path/'many.tar'))
    data = LatentData(tmp_path/'tar')
    assert sum(index['rows']) == 42 and index['classes'][-1] == 'zebra'
    tokens = data.batch(torch.arange(84), step_generator(0, 0))[0]
    assert torch.equal(tokens[80], tokens[0]) and torch.equal(tokens[82], tokens[0])
    content = first.read_bytes()
    first.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    shards, heard = made_again(tmp_path/'tar', pack(own, tmp_path/'many.tar'))
    assert shards == ['shard-00000.npy', 'shard-00005.npy'] and '3 pictures in' in heard[0]

def test_a_broken_picture_that_was_mended_is_encoded(folder, tmp_path):
    shutil.copytree(folder, tmp_path/'many')
    one = files(tmp_path/'many')[3]
    whole = one.read_bytes()
    one.write_bytes(b'?')
    with pytest.warns(UserWarning, match='skipped 1 of 40'): make(tmp_path/'out', tmp_path/'many')
    one.write_bytes(whole)
    assert made_again(tmp_path/'out', tmp_path/'many')[0] == ['shard-00000.npy']
    assert len(LatentData(tmp_path/'out')) == 80 and LatentData(tmp_path/'out').index['broken'] == []

def test_a_picture_that_could_not_be_read_is_tried_again():
    "Rights that were given later change no date"
    sources, names, versions = [[5, 1, None], [None, None, None]], ['a', 'gone'], [[5, 1], [None, None]]
    def refuse(name): raise PermissionError(name)
    def only_a(name): return b'12345' if name == 'a' else refuse(name)
    assert compare_sources(sources, names, versions, refuse) == []
    assert compare_sources(sources, names, versions, only_a) == ['a']

def test_a_kill_while_a_shard_is_made_again_leaves_no_mixture(own, tmp_path, monkeypatch):
    paint(files(own)[9], 7)
    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr('marlearn.engine.latents.encode_shard', lambda *args, **kw: (_ for _ in ()).throw(KeyboardInterrupt))
        make(tmp_path/'out', own)
    with pytest.raises(FileNotFoundError, match='not complete.*run the same'): LatentData(tmp_path/'out')
    assert made_again(tmp_path/'out', own)[0] == ['shard-00001.npy']
    make(tmp_path/'fresh', own)
    assert torch.equal(all_tokens(tmp_path/'out'), all_tokens(tmp_path/'fresh'))

def test_processes_wait_for_one_whose_pictures_changed(own, tmp_path):
    paint(files(own)[9], 7)                                             # of shard 1, which rank 1 makes
    assert make(tmp_path/'out', own, rank=0, world_size=2) is None
    assert made_again(tmp_path/'out', own, rank=1, world_size=2)[0] == ['shard-00001.npy']
    assert make(tmp_path/'out', own, rank=0, world_size=2)['rows'] == [7]*5 + [5]

def add(own): paint(own/files(own)[0].parent.name/'new.png', 1)
def rename(own): files(own)[0].rename(files(own)[0].with_name('other.png'))
def rename_class(own): files(own)[0].parent.rename(own/'zebra')

@pytest.mark.parametrize('change', [add, rename, rename_class, lambda own: files(own)[0].unlink()])
def test_other_names_are_refused_in_words(own, tmp_path, change):
    before = {f: f.read_bytes() for f in (tmp_path/'out').glob('*.*')}
    change(own)
    with pytest.raises(ValueError, match='pictures were added, removed or renamed'): make(tmp_path/'out', own)
    with pytest.raises(ValueError, match='does not hold the pictures of .*added, removed or renamed'):
        check_sources(tmp_path/'out', own)
    assert {f: f.read_bytes() for f in (tmp_path/'out').glob('*.*')} == before

def other_weights():
    tokenizer = load_tokenizer(pretrained('tokenizer'))
    next(tokenizer.parameters()).data += .01
    return tokenizer

def earlier(out):
    "As 0.1 wrote it: without a record of sources and weights"
    for f in out.glob('*.json'):
        write_json(f, {k: v for k, v in read_json(f).items() if k not in ('sources', 'unusual', 'weights')})

@pytest.mark.parametrize('record', ['ours', 'of an earlier version'])
def test_other_weights_of_the_same_settings_are_refused(folder, tmp_path, record):
    shipped = load_tokenizer(pretrained('tokenizer'))
    def write(tokenizer): write_latents(tmp_path/'out', folder, tokenizer, img_size=32, shard_size=20, quiet=True)
    write(shipped)
    if record != 'ours': earlier(tmp_path/'out')
    write(load_tokenizer(tmp_path/'out'/'tokenizer'))                   # the same, in half precision
    with pytest.raises(ValueError, match="something else: the tokenizer's weights are others"): write(other_weights())

def test_latents_of_earlier_versions_load_and_go_on(own, tmp_path):
    before = all_tokens(tmp_path/'out')
    earlier(tmp_path/'out')
    assert torch.equal(all_tokens(tmp_path/'out'), before)
    for name in ('index.json', 'shard-00002.json', 'shard-00002.npy'):
        (tmp_path/'out'/name).unlink()
    assert made_again(tmp_path/'out', own) == (['shard-00002.npy'], [])
    assert torch.equal(all_tokens(tmp_path/'out'), before)
    assert '5 shards in' in check_sources(tmp_path/'out', own)
    paint(files(own)[14], 7)                                            # in the shard that has a record
    assert made_again(tmp_path/'out', own)[0] == ['shard-00002.npy']

def test_verifying_compares_the_pictures_too(own, tmp_path):
    assert 'did not change' in check_sources(tmp_path/'out', own)
    assert 'were not compared' in check_sources(tmp_path/'out', tmp_path/'nowhere')
    before = {f: f.read_bytes() for f in (tmp_path/'out').glob('*.*')}
    os.utime(files(own)[0], ns=(1, 1))
    assert 'did not change' in check_sources(tmp_path/'out', own)
    paint(files(own)[9], 7)
    with pytest.raises(ValueError, match=f'1 pictures in .*{files(own)[9].name}.*without --verify'):
        check_sources(tmp_path/'out', own)
    assert {f: f.read_bytes() for f in (tmp_path/'out').glob('*.*')} == before

def test_unusual_pictures_are_counted_here_too(own, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for f in files(own)[2:12]:
        Image.open(f).copy().save(f, exif=exif)
    for again in range(2):
        with pytest.warns(UserWarning, match='10 of 40 pictures in .*: turned, as their EXIF'):
            make(tmp_path/'new', own)

def test_names_that_are_no_utf8(own, tmp_path):
    try:
        os.rename(own/files(own)[0].parent.name, os.fsencode(own) + b'/caf\xe9')
    except OSError:
        pytest.skip('this disk refuses such names')
    make(tmp_path/'new', own)
    assert 'caf\udce9' in LatentData(tmp_path/'new').classes

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
        going, = start_forked(1, tmp_path/'log', *args, '--out', tmp_path/'killed')
        while going.is_alive() and len(list((tmp_path/'killed').glob('shard-*.json'))) <= before:
            time.sleep(.002)
        time.sleep(chance.uniform(0, .02))
        kill([going])
    assert 'train with: marlearn train --data' in cli(*args, '--out', tmp_path/'killed')
    for f in (tmp_path/'whole').glob('shard-*'):
        assert f.read_bytes() == (tmp_path/'killed'/f.name).read_bytes()
    verified = cli('cache', '--data', folder, '--tokenizer', 'shipped', '--out', tmp_path/'killed', '--verify')
    assert '80 rows' in verified and 'did not change' in verified
    assert 'latents in' in cli('train', '--preset', 'tiny', '--data', tmp_path/'whole', '--train.steps', 4,
                               '--train.sample-every', 0, '--out', tmp_path/'run')
    assert 'are of pictures of 32 pixels' in cli('train', '--preset', 'tiny', '--data', tmp_path/'whole', '--img-size',
                                                 64, '--out', tmp_path/'other', code=2)
    assert 'pictures with' in cli('sample', '--checkpoint', tmp_path/'run', '--per-class', 1, '--diff-steps', 5,
                                  '--out', tmp_path/'s.png')
