"What may go wrong between a folder of pictures and a batch, and what must happen then"
import io, json, os, pickle, stat, struct, sys, tarfile, types, warnings, zlib
from collections import Counter
from pathlib import Path
import numpy as np, pytest
import marlearn
from PIL import EpsImagePlugin, Image
from marlearn.data import centre_crop, ImageData, join_data, load_shapes, shape_distance, SHAPES
from marlearn.engine import pictures as engine
from marlearn.engine.pictures import (
    cached_shapes, CIFAR10, class_of_each, find_cifar10, load_data, load_path, open_picture, PICTURE_ENDINGS,
    PICTURE_FORMATS, read_cache, write_cache)
from marlearn.files import atomic_folder, cache_dir, read_json, write_json

@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    "Every test has its own cache and repository, finds nothing, and reaches no network"
    monkeypatch.setenv('MARLEARN_CACHE', str(tmp_path/'cache'))
    monkeypatch.setenv('MARLEARN_OFFLINE', '1')
    monkeypatch.delenv('MARLEARN_DATA', raising=False)
    monkeypatch.setattr(marlearn, '__file__', str(tmp_path/'repository'/'marlearn'/'__init__.py'))

def make(root, pictures, size=(8, 8)):
    "Pictures of one grey each: {name: grey}; a text in place of a grey is written as it is"
    for name, grey in pictures.items():
        path = root/name
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = {'.pgm': 'PPM', '.dib': 'DIB'}.get(path.suffix.lower())
        if isinstance(grey, int): Image.new('RGB', size, (grey,)*3).save(path, kind)
        else: path.write_bytes(grey)
    return root

def pack(root, path, mode='w', inside='set'):
    with tarfile.open(path, mode) as tar: tar.add(root, arcname=inside)
    return path

def greys(pictures, size=8):
    "{class: greys of its pictures}, read through the cache"
    images, labels = np.asarray(pictures.images), pictures.labels
    assert images.shape[1:] == (3, size, size) and (images == images[:, :1, :1, :1]).all()
    return {c: sorted(images[labels == i, 0, 0, 0].tolist()) for i, c in enumerate(pictures.classes)}

def load(path, split='train'): return load_path(path, split, img_size=8)

def cached_folder(): return next(f for f in cache_dir().iterdir() if f.is_dir())

# --- folders and tars ---

LAYOUTS = {
    'classes in the root': ({'red fox/a.png': 1, 'red fox/b.png': 2, 'owl/a.png': 3}, {'red fox': [1, 2], 'owl': [3]},
                            None),
    'splits, then classes': ({'train/a/x.png': 1, 'val/a/x.png': 2, 'val/b/x.png': 3}, {'a': [1], 'b': []},
                             {'a': [2], 'b': [3]}),
    'a class of one split only': ({'train/b/x.png': 1, 'train/a/x.png': 2, 'Test/b/x.png': 3}, {'a': [2], 'b': [1]},
                                  {'a': [], 'b': [3]}),
    'a class called train': ({'train/bus/x.png': 1, 'train/train/x.png': 2, 'test/train/x.png': 3},
                             {'bus': [1], 'train': [2]}, {'bus': [], 'train': [3]}),
    'train beside other classes': ({'bus/x.png': 1, 'car/x.png': 2, 'train/x.png': 3},
                                   {'bus': [1], 'car': [2], 'train': [3]}, None),
    'classes, then splits': ({'a/train/x.png': 1, 'a/test/x.png': 2, 'b/train/x.png': 3}, {'a': [1], 'b': [3]},
                             {'a': [2], 'b': []}),
    'no class folders': ({'x.png': 1, 'y.PNG': 2}, {'set': [1, 2]}, None),
    'a folder in each class': ({'train/n1/images/x.png': 1, 'train/n2/images/x.png': 2, 'val/n2/images/x.png': 3},
                               {'n1': [1], 'n2': [2]}, {'n1': [], 'n2': [3]}),
    'classes of classes with the same names': ({'birds/crane/x.png': 1, 'machines/crane/x.png': 2},
                                               {'birds': [1], 'machines': [2]}, None),
    'many endings': ({f'a/{i}{e}': i for i, e in enumerate('.jfif .JPE .png .apng .TIF .bmp .dib .pgm'.split())},
                     {'a': list(range(8))}, None),
    'hidden and other files': ({'a/x.png': 1, '.trash/x.png': 2, 'a/.y.png': 3, 'a/._x.png': b'junk',
                                'a/notes.txt': b'text'}, {'a': [1]}, None),
    'what a Mac or a Synology adds': ({'a/x.png': 1, 'b/y.png': 2, '__MACOSX/a/._x.png': b'', '__MACOSX/c/x.png': 3,
                                       'a/@eaDir/x.png/THUMB.png': 4, 'a/Thumbs.db': b''}, {'a': [1], 'b': [2]}, None),
    'splits in capitals': ({'Training/a/x.PNG': 1, 'Training/b/x.png': 2, 'TESTING/b/x.png': 3}, {'a': [1], 'b': [2]},
                           {'a': [], 'b': [3]}),
    'numbers as classes': ({'train/0/1.png': 1, 'train/1/0.png': 2, 'train/10/4.png': 3},
                           {'0': [1], '1': [2], '10': [3]}, None),
    'one class': ({'train/a/x.png': 1, 'val/a/x.png': 2}, {'a': [1]}, {'a': [2]}),
    'validation sorted later, tests not': ({'train/a/images/x.png': 1, 'train/b/images/x.png': 2, 'val/a/x.png': 3,
                                            'val/b/x.png': 4}, {'a': [1], 'b': [2]}, {'a': [3], 'b': [4]}),
}

@pytest.mark.parametrize('name', LAYOUTS)
@pytest.mark.parametrize('kind', ['folder', 'tar', 'tar.gz, with ./'])
def test_layout(tmp_path, name, kind):
    files, train, test = LAYOUTS[name]
    path = make(tmp_path/'set', files)
    if kind == 'tar': path = pack(path, tmp_path/'set.tar')
    if kind.startswith('tar.gz'): path = pack(path, tmp_path/'set.tar.gz', 'w:gz', '.')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert greys(load(path)) == train
    if test is not None:
        assert greys(load(path, 'test')) == test
        assert load(path).classes == load(path, 'test').classes

def test_same_pictures_from_folder_and_tar(tmp_path):
    root = make(tmp_path/'set', {f'{c}/{i}.png': 10*i + j for i in range(5) for j, c in enumerate('cab')})
    with tarfile.open(tmp_path/'set.tar.gz', 'w:gz') as tar:            # packed backwards
        for f in sorted(root.rglob('*.png'), reverse=True): tar.add(f, f.relative_to(tmp_path))
    a, b = load(root), load(tmp_path/'set.tar.gz')
    assert np.array_equal(a.images, b.images) and np.array_equal(a.labels, b.labels)
    assert a.classes == b.classes == ('a', 'b', 'c')

def test_linked_class_folder_counts(tmp_path):
    make(tmp_path, {'elsewhere/x.png': 7, 'set/a/x.png': 1})
    (tmp_path/'set'/'b').symlink_to(tmp_path/'elsewhere')
    assert greys(load(tmp_path/'set')) == {'a': [1], 'b': [7]}

def test_hard_links_in_a_tar_count(tmp_path):
    root = make(tmp_path/'set', {'a/x.png': 1, 'b/y.png': 2})
    for new in ('b/hard.png', 'c/z.png'):
        (root/new).parent.mkdir(exist_ok=True)
        os.link(root/'a'/'x.png', root/new)
    (root/'b'/'soft.png').symlink_to('../a/x.png')
    for path in (root, pack(root, tmp_path/'set.tar'), pack(root, tmp_path/'set.tar.gz', 'w:gz')):
        assert greys(load(path)) == {'a': [1], 'b': [1, 1, 2], 'c': [1]}

def test_each_real_folder_counts_once(tmp_path):
    root = make(tmp_path/'set', {'a/x.png': 1, 'b/y.png': 2})
    (root/'a'/'up').symlink_to('..')
    (root/'a'/'b again').symlink_to('../b')
    with pytest.warns(UserWarning, match='a/up leads back to .*set: its pictures are counted once'):
        pictures = load(root)
    assert greys(pictures) == {'a': [1], 'b': [2]}

KAGGLE = {'CLS/train/n1/x.png': 1, 'CLS/train/n2/x.png': 2, 'CLS/val/x.png': 3, 'CLS/test/x.png': 4}
TINY = {'train/n1/images/x.png': 1, 'train/n2/images/x.png': 2, 'val/images/x.png': 3, 'test/images/x.png': 4}

@pytest.mark.parametrize('files', [KAGGLE, TINY, {'n1/x.png': 1, 'n2/x.png': 2, 'y.png': 3, 'z.png': 4}],
                         ids=['Kaggle', 'tiny-imagenet', 'beside classes'])
def test_pictures_without_a_class_are_left_out_and_counted(tmp_path, files):
    root = make(tmp_path/'set', files)
    for path in (root, pack(root, tmp_path/'set.tar')):
        with pytest.warns(UserWarning, match='left out 2 of 4 pictures, in no class folder'):
            assert greys(load(path)) == {'n1': [1], 'n2': [2]}
        with pytest.warns(UserWarning, match='its training pictures serve instead'):
            assert greys(load(path, 'test')) == {'n1': [1], 'n2': [2]}

LEFT_OUT = {
    'tests without classes, beside sorted validation': (
        {'train/n1/images/x.png': 1, 'train/n2/images/x.png': 2, 'val/n1/x.png': 3, 'test/images/x.png': 4},
        'left out 1 of 4 pictures, in no class folder: test/images/x.png', {'n1': [1], 'n2': [2]}),
    'pictures beside the splits': (
        {'train/a/x.png': 1, 'train/b/x.png': 2, 'test/a/x.png': 3, 'figures/x.png': 4, 'y.png': 5},
        'left out 2 of 5 pictures, in no class folder: figures/x.png, y.png', {'a': [1], 'b': [2]}),
    'a split of another name': (
        {'train/a/x.png': 1, 'train/b/x.png': 2, 'Test set/a/x.png': 3, 'Test set/b/x.png': 4},
        'left out 2 of 4 pictures, in no class folder: Test set/a', {'a': [1], 'b': [2]}),
    'classes without pictures': (
        {'train/a/x.png': 1, 'train/b/notes.txt': b'', 'train/c/subject.happy': b'', 'docs/notes.txt': b''},
        'set: no pictures, so no classes: train/b, train/c$', {'a': [1]}),
    'endings that nobody knows': (
        {'a/x.png': 1, 'a/y.jpg_large': b'', 'a/z': b'', 'a/w.crdownload': b'', 'b/x.png': 2},
        'not read: 1 .crdownload, 1 .jpg_large, 1 without ending$', {'a': [1], 'b': [2]}),
    'archives': ({'a/x.png': 1, 'b/x.png': 2, 'more.tar': b''}, 'not read: 1 .tar$', {'a': [1], 'b': [2]}),
    'labels in a table': ({'x.png': 1, 'labels.csv': b''},
                          'all 1 pictures are of one class: .* labels.csv is not read', {'set': [1]}),
    'other capitals': ({'Cat/x.png': 1, 'cat/x.png': 2, 'dog/x.png': 3}, 'by capitals only: Cat, cat$',
                       {'Cat': [1], 'cat': [2], 'dog': [3]}),
}

@pytest.mark.parametrize('name', LEFT_OUT)
@pytest.mark.parametrize('kind', ['folder', 'tar'])
def test_what_does_not_count_is_said_once(tmp_path, name, kind):
    files, note, found = LEFT_OUT[name]
    path = make(tmp_path/'set', files)
    if kind == 'tar':
        path, note = pack(path, tmp_path/'set.tar', inside='.'), note.replace('set: ', '')
    with pytest.warns(UserWarning, match=note) as heard:
        assert greys(load(path)) == found
    assert len(heard) == 1

def test_an_empty_folder_of_a_class_is_named(tmp_path):
    root = make(tmp_path/'set', {'a/x.png': 1, 'elsewhere/x.png': 2})
    (root/'b').mkdir()
    (root/'elsewhere').rename(tmp_path/'elsewhere')
    for path in (root, pack(root, tmp_path/'set.tar')):
        with pytest.warns(UserWarning, match='no pictures, so no classes: (set/)?b$'):
            assert greys(load(path)) == {'a': [1]}
    (root/'b').rmdir()
    (root/'b').symlink_to('../elsewhere')                               # a tar holds the link, but not what it leads to
    with pytest.warns(UserWarning, match='no pictures, so no classes: set/b$'): load(pack(root, tmp_path/'link.tar'))

@pytest.mark.parametrize('first', ['./', '././', '/', '/data/', '../', 'a/../', './/'])
def test_a_tar_of_other_paths_is_the_same(tmp_path, first):
    root = make(tmp_path/'set', {'a/x.png': 1, 'b/x.png': 2})
    with tarfile.open(tmp_path/'set.tar', 'w') as tar:
        for f in root.rglob('*.png'):
            member = tar.gettarinfo(f)
            member.name = first + f.relative_to(root).as_posix()
            with open(f, 'rb') as content: tar.addfile(member, content)
    assert greys(load(tmp_path/'set.tar')) == {'a': [1], 'b': [2]}

@pytest.mark.parametrize('names,readings', [(['animals/cat/x.png', 'animals/dog/x.png', 'cars/van/x.png'],
                                             'animals, cars, or else cat, dog, van'),
                                            (['train/a/x.png', 'train/a/more/y.png', 'train/b/x.png'],
                                             'a, b, or else a, b, more'),
                                            (['birds/train/crane/x.png', 'machines/train/crane/x.png'],
                                             'several train folders, in birds, machines'),
                                            (['0/0/x.webp', '0/1/x.webp', '1/0/x.webp', '1/1/x.webp'],
                                             'folders lie in folders'),
                                            (['cat/day/x.png', 'cat/night/x.png', 'dog/day/x.png', 'dog/night/x.png'],
                                             'cat, dog, or else day, night'),
                                            (['seg_train/cat/x.png', 'seg_train/dog/x.png', 'seg_test/cat/x.png'],
                                             'seg_test, seg_train look like splits'),
                                            (['train2017/x.png', 'val2017/x.png'], 'train2017, val2017 look like'),
                                            (['Train set/x.png', 'Test set/x.png'], 'call them train and test'),
                                            (['00000/00000.png', '00000/00001.png', '01000/01000.png'],
                                             '00000, 01000 are called like the first picture in them'),
                                            (['caf\u00e9/x.png', 'cafe\u0301/x.png'], 'look alike'),
                                            (['train/cat/x.png', 'train/cat /x.png'], "'cat' and 'cat ' look alike")])
def test_a_tree_with_two_readings_is_refused(tmp_path, names, readings):
    with pytest.raises(ValueError, match=f'set: .*{readings}'): load(make(tmp_path/'set', dict.fromkeys(names, 1)))

def test_class_of_each_knows_nested_splits():
    classes = class_of_each(['a/train/0.png', 'a/test/1.png'], 'root')
    one = class_of_each(['train/0', 'test/1'], 'root')
    assert classes == {'a/train/0.png': ('train', 'a'), 'a/test/1.png': ('test', 'a')}
    assert one == {'train/0': ('train', 'root'), 'test/1': ('test', 'root')}
    assert class_of_each([], 'root') == {}

def test_formats_that_are_not_read_are_counted(tmp_path):
    root = make(tmp_path/'set', {'a/x.png': 1, 'a/y.heic': b'', 'b/z.heic': b'', 'b/z.svg': b'', 'notes.txt': b''})
    with pytest.warns(UserWarning, match='formats that are not read: 2 .heic, 1 .svg; nothing else is in b$'):
        assert greys(load(root)) == {'a': [1]}

def test_endings_are_all_that_pillow_knows_of_these_formats():
    assert PICTURE_ENDINGS >= {e for e, kind in Image.registered_extensions().items() if kind in PICTURE_FORMATS}

def test_current_folder_has_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(make(tmp_path/'set', {'x.png': 1}))
    assert load('.').name == 'set' and load('.').classes == ('set',)

@pytest.mark.parametrize('again', [False, True])
def test_missing_test_split_is_said_each_time(tmp_path, again):
    root = make(tmp_path/'set', {'a/x.png': 1})
    if again:
        with pytest.warns(UserWarning): load(root, 'test')
    with pytest.warns(UserWarning, match='no test or val folder'): assert greys(load(root, 'test')) == {'a': [1]}

def test_missing_train_split(tmp_path):
    with pytest.raises(FileNotFoundError, match="no pictures for the split 'train'"):
        load(make(tmp_path/'set', {'test/a/x.png': 1}))

def test_unknown_split(tmp_path):
    root = make(tmp_path/'set', {'a/x.png': 1})
    for call in (lambda: load(root, 'val'), lambda: load_shapes('val', n=4), lambda: cached_shapes('val', n=4)):
        with pytest.raises(ValueError, match="'val' must be"): call()

# --- what cannot be read ---

def no_pictures(tmp_path, kind):
    if kind == 'missing': return tmp_path/'nowhere'
    if kind == 'empty folder':
        (tmp_path/'set').mkdir()
        return tmp_path/'set'
    if kind == 'only texts': return make(tmp_path/'set', {'a/x.txt': b'text'})
    if kind == 'tar of folders':
        (tmp_path/'set'/'a').mkdir(parents=True)
        return pack(tmp_path/'set', tmp_path/'set.tar')
    if kind == 'not a tar': return make(tmp_path, {'set.tar': b'PK\3\4 and so on'})/'set.tar'
    if kind == 'empty file': return make(tmp_path, {'set.tar': b''})/'set.tar'

@pytest.mark.parametrize('kind,error,text', [('missing', FileNotFoundError, 'there is no .*nowhere'),
                                             ('empty folder', FileNotFoundError, 'set holds no pictures'),
                                             ('only texts', FileNotFoundError, 'set holds no pictures'),
                                             ('tar of folders', FileNotFoundError, 'set.tar holds no pictures'),
                                             ('not a tar', ValueError, 'set.tar could not be read'),
                                             ('empty file', ValueError, 'set.tar could not be read')])
def test_a_named_path_never_falls_back(tmp_path, monkeypatch, kind, error, text):
    monkeypatch.setattr(engine, 'cached_shapes', lambda *args: pytest.fail('fell back to shapes'))
    with pytest.raises(error, match=text): load_data(str(no_pictures(tmp_path, kind)))
    assert not cache_dir().exists() or not list(cache_dir().iterdir())

@pytest.mark.parametrize('mode', ['w', 'w:gz'])
@pytest.mark.parametrize('keep', [0.02, 0.5, 0.85])
def test_truncated_tar(tmp_path, mode, keep):
    rng = np.random.default_rng(0)
    noise = lambda: Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8))
    (tmp_path/'set'/'a').mkdir(parents=True)
    for i in range(20): noise().save(tmp_path/'set'/'a'/f'{i}.png')
    path = pack(tmp_path/'set', tmp_path/'set.tar', mode)
    assert len(load(path)) == 20
    path.write_bytes(path.read_bytes()[:int(keep*path.stat().st_size)])
    with pytest.raises(ValueError, match='could not be read'): load(path)

@pytest.mark.parametrize('damage', ['flip', 'cut before', 'cut within'])
def test_damaged_tar_header_does_not_hide_the_rest(tmp_path, damage):
    "tarfile itself takes each of these for the end of the archive"
    path, root = tmp_path/'set.tar', make(tmp_path/'set', {f'a/{i}.png': i for i in range(8)})
    with tarfile.open(path, 'w', format=tarfile.USTAR_FORMAT) as tar: tar.add(root, 'set')
    content = bytearray(path.read_bytes())
    header = content.index(b'set/a/5.png')
    if damage == 'flip': content[header] ^= 1
    path.write_bytes(content[:{'flip': None, 'cut before': header, 'cut within': header + 99}[damage]])
    with tarfile.open(path) as tar: assert len(tar.getmembers()) == 2 + 5
    with pytest.raises(ValueError, match='it is damaged or cut short'): load(path)

def test_broken_pictures_are_skipped_counted_and_named(tmp_path):
    root = make(tmp_path/'set', {f'{c}/{i}.png': 10*i + j for i in range(3) for j, c in enumerate('abc')})
    make(root, {'b/0.png': b'no picture', 'c/2.png': (root/'c'/'2.png').read_bytes()[:40]})
    (root/'a'/'gone.png').symlink_to(root/'nowhere')
    for attempt in range(2):                                            # decoded, then from the cache
        with pytest.warns(UserWarning, match='skipped 3 of 10.*a/gone.png.*b/0.png.*c/2.png'): pictures = load(root)
        assert greys(pictures) == {'a': [0, 10, 20], 'b': [11, 21], 'c': [2, 12]}

def test_only_broken_pictures(tmp_path):
    with pytest.raises(ValueError, match='none of the 2 pictures'):
        load(make(tmp_path/'set', {'a/x.png': b'?', 'a/y.jpg': b'?'}))

def test_no_other_program_is_run_for_a_picture(tmp_path, monkeypatch):
    monkeypatch.setattr(EpsImagePlugin, 'Ghostscript', lambda *args, **kw: pytest.fail('Ghostscript was called'))
    eps = b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n%%EOF\n'
    with pytest.warns(UserWarning, match='skipped 1 of 2'): load(make(tmp_path/'set', {'a/x.jpg': eps, 'a/y.png': 1}))

# --- pixels ---

@pytest.mark.parametrize('mode,suffix,want', [('L', 'png', (100, 100, 100)), ('1', 'png', (255, 255, 255)),
                                              ('P', 'png', (200, 100, 50)), ('RGBA', 'png', (200, 100, 50)),
                                              ('CMYK', 'jpg', (200, 100, 50)), ('I;16', 'png', (100, 100, 100)),
                                              ('I;16', 'tif', (100, 100, 100))])
def test_modes(tmp_path, mode, suffix, want):
    if mode == 'L': picture = Image.new('L', (9, 8), 100)
    elif mode == 'I;16': picture = Image.fromarray(np.full((8, 9), 100*256 + 17, np.uint16))
    elif mode == '1': picture = Image.new('1', (9, 8), 1)
    elif mode == 'P': picture = Image.new('RGB', (9, 8), (200, 100, 50)).quantize()
    else: picture = Image.new('RGB', (9, 8), (200, 100, 50)).convert(mode)
    (tmp_path/'set').mkdir()
    picture.save(tmp_path/'set'/f'x.{suffix}')
    got = np.asarray(load(tmp_path/'set').images[0], int)
    assert got.shape == (3, 8, 8) and np.abs(got - np.array(want)[:, None, None]).max() <= 4

@pytest.mark.parametrize('orientation', range(1, 9))
def test_pictures_are_turned_as_their_notes_say(tmp_path, orientation):
    "A picture that is dark at the top, as a camera that was held otherwise stores it"
    upright = np.repeat(np.array([[0]*4 + [255]*4], np.uint8).T, 8, 1)
    lying = upright.T
    stored = [upright, upright, upright[::-1], upright[::-1], lying, lying, lying[:, ::-1], lying[:, ::-1]]
    stored = stored[orientation - 1]
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path/'set').mkdir()
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path/'set'/'x.png', exif=exif)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter('always')
        got = load(tmp_path/'set').images[0, 0]
    assert np.array_equal(got, upright)
    notes = [str(w.message).split(' pictures in ')[0] for w in heard if ': turned' in str(w.message)]
    assert notes == ['1 of 1']*(orientation > 1) and len(heard) == len(notes)

@pytest.mark.parametrize('mode', ['RGBA', 'LA', 'P'])
def test_transparent_is_white(tmp_path, mode):
    logo = Image.new('RGBA', (8, 8), (0, 0, 0, 0))
    logo.paste((0, 0, 0, 255), (0, 0, 4, 8))
    (tmp_path/'set').mkdir()
    if mode == 'P':                                                     # one colour of the palette is transparent
        picture = Image.fromarray(np.repeat(np.array([[0]*4 + [1]*4], np.uint8), 8, 0)).convert('P')
        picture.putpalette([0, 0, 0]*256)
        picture.save(tmp_path/'set'/'x.png', transparency=1)
    else: logo.convert(mode).save(tmp_path/'set'/'x.png')
    with pytest.warns(UserWarning, match='1 of 1 pictures in .*: laid on white'):
        got = load(tmp_path/'set').images[0, 0]
    assert got[:, :4].max() == 0 and got[:, 4:].min() == 255

def as_file(picture, kind, **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()

def deep_png(levels, kind):
    "A PNG of 8 x 8 such pixels, 16 bits a channel, which Pillow cannot write; kind 2 is RGB, 4 grey and alpha, 6 RGBA"
    row = b'\0' + struct.pack(f'>{len(levels)}H', *levels)*8
    parts = {b'IHDR': struct.pack('>IIBBBBB', 8, 8, 16, kind, 0, 0, 0), b'IDAT': zlib.compress(row*8), b'IEND': b''}
    part = lambda t, c: struct.pack('>I', len(c)) + t + c + struct.pack('>I', zlib.crc32(t + c))
    return b'\x89PNG\r\n\x1a\n' + b''.join(part(*p) for p in parts.items())

def grey16(level, kind='<u2'): return Image.fromarray(np.full((8, 8), level, kind))

KINDS = (('PNG', '<u2'), ('TIFF', '<u2'), ('TIFF', '>u2'))
DEEP = {**{f'{level}, {kind}, {order}': (as_file(grey16(level, order), kind), [round(level/257)]*3)
           for level in (0, 4096, 4346, 25700, 65535) for kind, order in KINDS},
        '32 bits that hold 16': (as_file(grey16(25700, np.int32), 'TIFF'), [100]*3),
        'PGM': (b'P5\n8 8\n65535\n' + struct.pack('>H', 25700)*64, [100]*3),
        'PGM that says 12 bits': (b'P5\n8 8\n4095\n' + struct.pack('>H', 2048)*64, [128]*3),
        'RGB': (deep_png((51400, 25700, 12850), 2), [200, 100, 50]),
        'RGBA': (deep_png((51400, 25700, 12850, 65535), 6), [200, 100, 50]),
        'dark and transparent': (deep_png((0, 0), 4), [255]*3)}

@pytest.mark.parametrize('name', DEEP)
def test_sixteen_bits_become_eight(name):
    content, want = DEEP[name]
    assert np.array_equal(centre_crop(open_picture(content), 8), np.array(want).repeat(64).reshape(3, 8, 8))

NO_RANGE = {'twelve bits': (as_file(grey16(4095), 'PNG'), 'nearly black: 16 bits .* save it with 8 bits'),
            'twelve bits, TIFF': (as_file(grey16(1, '>u2'), 'TIFF'), 'nearly black'),
            'twelve bits, RGB': (deep_png((4000, 200, 10), 2), 'nearly black'),
            'twelve bits, alpha': (deep_png((4000, 65535), 4), 'nearly black'),
            'floats': (as_file(grey16(0.5, np.float32), 'TIFF'), 'floating-point numbers'),
            'PFM': (as_file(grey16(0.5, np.float32), 'PPM'), 'floating-point numbers'),
            '32 bits': (as_file(grey16(1 << 20, np.int32), 'TIFF'), 'numbers from 1048576 to 1048576'),
            'Lab': (as_file(Image.new('LAB', (8, 8), (100, 10, 10)), 'TIFF'), 'CIELAB'),
            'long': (as_file(Image.new('L', (1, 5000)), 'PNG'), '1 x 5000 pixels'),
            'empty': (b'', 'no picture .* it is empty'),
            'a page of the web': (b'<!DOCTYPE html><html>', "no picture .* begins with b'<!DOCTYPE"),
            'a pointer': (b'version https://git-lfs.github.com/spec/v1', "begins with b'version http'")}

@pytest.mark.parametrize('name', NO_RANGE)
def test_pictures_that_could_only_be_guessed_are_refused_in_words(tmp_path, name):
    content, words = NO_RANGE[name]
    with pytest.raises(ValueError, match=words): open_picture(content)
    root = make(tmp_path/'set', {'a/x.png': content, 'a/y.png': 1})
    with pytest.warns(UserWarning, match=f'skipped 1 of 2 .*{words}'): assert greys(load(root)) == {'a': [1]}

@pytest.mark.parametrize('kind', ['GIF', 'PNG', 'WEBP', 'TIFF', 'MPO'])
def test_the_first_frame_counts(kind):
    frames, count = [Image.new('RGB', (8, 8), (g,)*3) for g in (80, 160, 240)], Counter()
    content = as_file(frames[0], kind, save_all=True, append_images=frames[1:])
    assert np.abs(centre_crop(open_picture(content, count), 8).astype(int) - 80).max() <= 2
    assert count == ({} if kind == 'MPO' else {'have several frames or pages: the first is taken': 1})
    count.clear()
    open_picture(as_file(frames[0], kind), count)
    assert not count

@pytest.mark.parametrize('kind,options', [('WEBP', {'lossless': True}), ('TIFF', {}), ('JPEG', {'quality': 100}),
                                          ('TIFF', {'compression': 'tiff_lzw'})])
def test_pictures_of_all_kinds_are_turned_once(kind, options):
    lying, exif = np.repeat(np.array([[0]*4 + [255]*4], np.uint8), 8, 0), Image.Exif()
    exif[0x0112] = 8
    count, stored = Counter(), Image.fromarray(np.ascontiguousarray(lying[:, ::-1]))
    got = centre_crop(open_picture(as_file(stored, kind, exif=exif, **options), count), 8)
    assert np.abs(got[0].astype(int) - lying.T).max() < 8 and count == {'turned, as their EXIF data says': 1}

def test_pictures_that_are_enlarged_are_counted(tmp_path):
    root = make(tmp_path/'set', {'a/x.png': 1, 'a/y.png': 2})
    Image.new('RGB', (40, 15), (3, 3, 3)).save(root/'a'/'z.png')
    Image.new('RGB', (16, 16), (4, 4, 4)).save(root/'a'/'16.png')
    with pytest.warns(UserWarning, match='3 of 4 pictures in .*: smaller than 16 pixels, so enlarged'):
        assert greys(load_path(root, img_size=16), 16) == {'a': [1, 2, 3, 4]}
    path = make(tmp_path/'batches', {'data_batch_1': batch(10)})
    with pytest.warns(UserWarning, match='32 pixels are enlarged to 40'): load_path(path, img_size=40)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert len(load_path(path, img_size=32)) == len(load_path(path, img_size=16)) == 3

def adm_crop(picture, size):
    "`center_crop_arr` of openai/guided-diffusion, as it was published"
    while min(*picture.size) >= 2*size: picture = picture.resize(tuple(x//2 for x in picture.size), resample=Image.BOX)
    scale = size/min(*picture.size)
    picture = picture.resize(tuple(round(x*scale) for x in picture.size), resample=Image.BICUBIC)
    a = np.array(picture)
    y, x = (a.shape[0] - size)//2, (a.shape[1] - size)//2
    return a[y:y+size, x:x+size].transpose(2, 0, 1)

@pytest.mark.parametrize('size', [(16, 16), (33, 47), (71, 64), (130, 35), (16, 40), (9, 12)])
def test_crop_is_that_of_adm(size):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8))
    assert np.array_equal(centre_crop(picture, 16), adm_crop(picture, 16))

def small(n=6):
    images = np.arange(n*3*2*2, dtype=np.uint8).reshape(n, 3, 2, 2)
    return ImageData(images, np.arange(n) % 2, ('a', 'b'), 'small', 'here')

def test_batch():
    d = small()
    images, labels = d.batch([5, 0, 1], flip=[False, True, False])
    raw = (images + 1)*127.5
    assert images.min() == -1 and labels.tolist() == [1, 0, 1]
    wanted = np.stack([d.images[5], d.images[0][..., ::-1], d.images[1]])
    assert np.allclose(raw, wanted, atol=1e-4)
    assert ImageData(np.full((1, 3, 2, 2), 255, np.uint8), np.zeros(1, int), ('a',), '', '').batch([0])[0].min() == 1

@pytest.mark.parametrize('index,culprit', [([-1, 3], -1), ([0, 6], 6)])
def test_batch_names_the_missing_picture(index, culprit):
    with pytest.raises(IndexError, match=f'picture {culprit} does not exist'): small().batch(index)

def test_join():
    both = join_data(small(), small(4))
    assert len(both) == 10 and both.labels.max() == 3 and both.classes == ('small/a', 'small/b', 'small/a', 'small/b')
    assert np.array_equal(both.images[6:], small(4).images) and both.labels[6:].tolist() == [2, 3, 2, 3]
    with pytest.raises(ValueError, match='sizes differ'):
        join_data(small(), ImageData(np.zeros((1, 3, 4, 4), np.uint8), np.zeros(1, int), ('a',), '', ''))

def test_shapes():
    a, other, test = load_shapes(n=20, img_size=16), load_shapes(n=20, img_size=16, seed=1), load_shapes('test', 16, 20)
    assert a.classes == SHAPES and np.bincount(a.labels).tolist() == [2]*10
    assert np.array_equal(a.images, load_shapes(n=20, img_size=16).images)
    assert not any(np.array_equal(p, q) for p in a.images for q in [*other.images, *test.images])
    assert not cache_dir().exists()                                     # drawn into memory

def test_an_unknown_shape_is_refused():
    with pytest.raises(ValueError, match='no shape is called .square-ish.; there are circle'):
        shape_distance('square-ish', np.zeros(1), np.zeros(1))

def test_cached_shapes_are_those_of_load_shapes():
    drawn = load_shapes('test', img_size=8, n=1100, seed=2)
    for attempt in range(2):                                            # drawn, then from the cache
        kept = cached_shapes('test', img_size=8, n=1100, seed=2)
        assert np.array_equal(kept.images, drawn.images) and np.array_equal(kept.labels, drawn.labels)
        assert (kept.classes, kept.name, kept.source) == (drawn.classes, drawn.name, drawn.source)
    assert [f.name for f in cache_dir().iterdir()] == ['shapes-test-8-1100-2-2']

# --- the cache ---

def test_unwritable_cache_names_the_variable(tmp_path, monkeypatch):
    (tmp_path/'file').write_text('in the way')
    monkeypatch.setenv('MARLEARN_CACHE', str(tmp_path/'file'))
    for call in (lambda: load(make(tmp_path/'set', {'a/x.png': 1})), lambda: cached_shapes(n=2)):
        with pytest.raises(OSError, match='set MARLEARN_CACHE'): call()

def test_full_disk_names_the_variable(tmp_path, monkeypatch):
    monkeypatch.setattr(engine.shutil, 'disk_usage', lambda path: types.SimpleNamespace(free=100))
    with pytest.raises(OSError, match='are needed, and .* are free.*MARLEARN_CACHE'):
        load(make(tmp_path/'set', {'a/x.png': 1}))

def test_intact_cache_needs_no_writing(tmp_path, monkeypatch):
    root = make(tmp_path/'set', {'a/x.png': 1})
    load(root)
    cached_shapes(n=2)
    def refuse(*args, **kw): raise PermissionError('read-only')
    for name in ('mkdir', 'replace', 'rename'): monkeypatch.setattr(os, name, refuse)
    assert len(load(root)) == 1 and len(cached_shapes(n=2)) == 2

def flip_byte(name):
    def damage(folder):
        content = bytearray((folder/name).read_bytes())
        content[len(content)//2] ^= 1
        (folder/name).write_bytes(content)
    return damage

DAMAGES = {'a byte of the pictures': flip_byte('images.npy'), 'a byte of the labels': flip_byte('labels.npy'),
           'a byte of meta.json': flip_byte('meta.json'),
           'a file is gone': lambda f: (f/'labels.npy').unlink(),
           'pictures cut short': lambda f: os.truncate(f/'images.npy', 100),
           **{f'{name} holds {text!r}': lambda f, name=name, text=text: (f/name).write_text(text)
              for name in ('meta.json', 'checksums.json')
              for text in ('', '{', '[1]', '3', '"x"', '{}', '{"images.npy": 1}')}}

@pytest.mark.parametrize('damage', DAMAGES)
def test_damaged_cache_is_reported_and_made_again(tmp_path, damage):
    root = make(tmp_path/'set', {f'{c}/{i}.png': 10*i + j for i in range(3) for j, c in enumerate('abc')})
    before = np.array(load(root).images)
    DAMAGES[damage](cached_folder())
    with pytest.warns(UserWarning, match='is damaged'): after = load(root)
    assert np.array_equal(before, after.images) and after.classes == ('a', 'b', 'c')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        load(root)

def test_cache_that_cannot_be_replaced(tmp_path):
    root = make(tmp_path/'set', {'a/x.png': 1})
    load(root)
    (cached_folder()/'meta.json').unlink()
    with pytest.raises(OSError, match='neither be read nor replaced'): load(root)

def test_failure_leaves_nothing_behind(tmp_path):
    def pictures():
        yield 0, np.zeros((3, 2, 2), np.uint8), 0
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): write_cache(cache_dir()/'x', (2, 3, 2, 2), pictures(), {})
    assert list(cache_dir().iterdir()) == [] and read_cache(cache_dir()/'x') is None

def test_atomic_folder_replaces_or_keeps(tmp_path):
    for keep, want in ((False, 'second'), (True, 'first')):
        folder = tmp_path/str(keep)
        with atomic_folder(folder, keep) as new:
            (new/'text').write_text('second')
            with atomic_folder(folder) as faster: (faster/'text').write_text('first')
        assert (folder/'text').read_text() == want and [f.name for f in folder.iterdir()] == ['text']
    assert sorted(f.name for f in tmp_path.iterdir() if 'unfinished' in f.name) == []

@pytest.mark.parametrize('before,after', [('[0, 1]', '[0, 2]'), ('"a"', '"b"'), ('}', ''), ('"labels"', '"label"')])
def test_json_notices_what_changed(tmp_path, before, after):
    record = {'labels': [0, 1], 'classes': ['a']}
    write_json(tmp_path/'x.json', record)
    assert read_json(tmp_path/'x.json') == record and [f.name for f in tmp_path.iterdir()] == ['x.json']
    text = (tmp_path/'x.json').read_text()
    (tmp_path/'x.json').write_text(json.dumps(json.loads(text), indent=1))      # other spaces and lines are no change
    assert read_json(tmp_path/'x.json') == record
    (tmp_path/'x.json').write_text(text.replace(before, after))
    with pytest.raises(ValueError, match='x.json (is not as written|cannot be read)'): read_json(tmp_path/'x.json')

def test_no_home_names_the_variable(monkeypatch):
    for name in ('MARLEARN_CACHE', 'XDG_CACHE_HOME'): monkeypatch.delenv(name, raising=False)
    def no_home(): raise RuntimeError('Could not determine home directory.')
    monkeypatch.setattr(Path, 'home', no_home)
    with pytest.raises(OSError, match='set MARLEARN_CACHE'): cache_dir()

@pytest.mark.skipif(os.name != 'posix', reason='permissions of POSIX')
def test_others_may_read_the_cache(tmp_path):
    before = os.umask(0o022)
    try: load(make(tmp_path/'set', {'a/x.png': 1}))
    finally: os.umask(before)
    assert stat.S_IMODE(cached_folder().stat().st_mode) == 0o755

def test_changed_picture_of_the_same_size_is_seen(tmp_path):
    root = make(tmp_path/'set', {'a/x.bmp': 1})
    assert greys(load(root)) == {'a': [1]}
    make(root, {'a/x.bmp': 2})
    os.utime(root/'a'/'x.bmp', ns=(1, 1))
    assert greys(load(root)) == {'a': [2]}

def test_other_files_do_not_renew_the_cache(tmp_path, monkeypatch):
    root = make(tmp_path/'set', {'a/x.png': 1})
    load(root)
    make(root, {'results.txt': b'new', '.hidden.png': 3})
    monkeypatch.setattr(engine, 'write_cache', lambda *args: pytest.fail('decoded again'))
    load(root)

def test_a_folder_is_listed_once_when_cached(tmp_path, monkeypatch):
    root, members, calls = make(tmp_path/'set', {'a/x.png': 1}), engine.list_members, []
    monkeypatch.setattr(engine, 'list_members', lambda path: calls.append(path) or members(path))
    load(root)
    assert len(calls) == 2                                              # to name the cache, to decode
    load(root)
    assert len(calls) == 3

def test_a_cached_tar_is_not_opened(tmp_path, monkeypatch):
    path = pack(make(tmp_path/'set', {'a/x.png': 1}), tmp_path/'set.tar')
    load(path)
    monkeypatch.setattr(tarfile, 'open', lambda *args: pytest.fail('opened'))
    load(path)

# --- CIFAR-10 ---

def batch(first, module=None):
    "A small batch as python pickle, with numpy's module called as in 2009 or as today"
    rows = np.arange(first, first + 3, dtype=np.uint8).repeat(3072).reshape(3, 3072)
    content = pickle.dumps({b'data': rows, b'labels': [first % 10, 1, 2]}, protocol=2)
    return content.replace(b'numpy._core', b'numpy.core') if module == 'numpy.core' else content

@pytest.mark.parametrize('kind', ['numpy.core', 'numpy._core', 'bin', 'tar'])
def test_original_batches(tmp_path, kind):
    files = {f'data_batch_{i}': batch(10*i, kind) for i in (5, 1)}
    files |= {'test_batch': batch(90, kind), 'batches.meta': b'junk', 'readme.html': b'text'}
    if kind == 'bin':
        row = lambda v, label: bytes([label]) + bytes([v])*3072
        firsts = {'data_batch_1': 10, 'data_batch_5': 50, 'test_batch': 90}
        files = {f'{n}.bin': row(v, v % 10) + row(v + 1, 1) + row(v + 2, 2) for n, v in firsts.items()}
    path = make(tmp_path/'cifar-10-batches-py', files)
    if kind == 'tar':                                                   # members in the wrong order, as officially
        with tarfile.open(tmp_path/'c.tar.gz', 'w:gz') as tar:
            for f in sorted(path.iterdir(), reverse=True): tar.add(f, f'c/{f.name}')
        path = tmp_path/'c.tar.gz'
    train, test = load_path(path), load_path(path, 'test')
    assert train.images[:, 0, 0, 0].tolist() == [10, 11, 12, 50, 51, 52] and train.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert test.images[:, 2, 31, 31].tolist() == [90, 91, 92] and test.name == 'cifar10' and test.classes == CIFAR10

class Hostile:
    def __init__(self, path): self.path = path
    def __reduce__(self): return Path.touch, (self.path,)

@pytest.mark.parametrize('content', ['hostile', 'cut', 'junk', 'no dict'])
def test_batches_that_are_none(tmp_path, content):
    kinds = {'hostile': pickle.dumps(Hostile(tmp_path/'hacked')), 'cut': batch(0)[:500], 'junk': b'junk',
             'no dict': pickle.dumps([1, 2])}
    root = make(tmp_path/'set', {'data_batch_1': kinds[content]})
    with pytest.raises(ValueError, match='data_batch_1 in .* is not a batch of CIFAR-10'):
        load_path(root)
    assert not (tmp_path/'hacked').exists()
    assert not list(cache_dir().iterdir())

def test_missing_test_batch(tmp_path):
    with pytest.raises(FileNotFoundError, match="split 'test'"):
        load_path(make(tmp_path/'set', {'data_batch_1': batch(0)}), 'test')

# --- one way in ---

def test_search_order(tmp_path, monkeypatch):
    places = [make(tmp_path/p/'cifar10', {'a/x.png': i}) for i, p in enumerate(('mine', 'repository/data', 'cache'))]
    monkeypatch.setenv('MARLEARN_DATA', str(places[0]))
    for place in places:
        assert find_cifar10() == place
        if place is places[0]: monkeypatch.delenv('MARLEARN_DATA')
        else: place.rename(place.with_name('gone'))
    assert find_cifar10() is None

def test_fallback_is_said(monkeypatch, capsys):
    monkeypatch.setattr(engine, 'cached_shapes', lambda split, img_size: (split, img_size))
    assert load_data(split='test', img_size=16) == ('test', 16)
    assert 'MARLEARN_DATA=PATH' in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match='^CIFAR-10 was not found. To provide'): load_data('cifar10')

def test_variable_that_points_nowhere(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(engine, 'cached_shapes', lambda split, img_size: 'shapes')
    monkeypatch.setenv('MARLEARN_DATA', str(tmp_path/'nowhere'))
    with pytest.warns(UserWarning, match='nowhere, which does not exist'): assert load_data() == 'shapes'
    assert 'was not found' in capsys.readouterr().err

def test_variable_points_at_something_else(monkeypatch, tmp_path):
    monkeypatch.setenv('MARLEARN_DATA', str(make(tmp_path/'cats', {'a/x.png': 1})))
    assert load_data(img_size=8).name == 'cats'
    with pytest.raises(ValueError, match='CIFAR-10 was asked for'): load_data('cifar10', img_size=8)
    root = make(tmp_path/'c', {f'{c}/x.png': i for i, c in enumerate(CIFAR10)})
    monkeypatch.setenv('MARLEARN_DATA', str(root))
    assert load_data('cifar10', img_size=8).name == 'cifar10'

@pytest.mark.parametrize('end', [RuntimeError('cut off'), KeyboardInterrupt(), None])
def test_half_a_download_is_never_found(monkeypatch, end):
    "A stand-in for torchvision writes half an archive, then fails"
    def download_url(url, root, filename, md5):
        Path(root, filename).write_bytes(b'half')
        if end: raise end
    official = types.SimpleNamespace(url='u', filename='cifar-10-python.tar.gz', tgz_md5='m')
    monkeypatch.setitem(sys.modules, 'torchvision.datasets', types.SimpleNamespace(CIFAR10=official))
    monkeypatch.setitem(sys.modules, 'torchvision.datasets.utils', types.SimpleNamespace(download_url=download_url))
    assert find_cifar10() is None                                       # MARLEARN_OFFLINE
    monkeypatch.delenv('MARLEARN_OFFLINE')
    assert find_cifar10(download=False) is None
    if isinstance(end, KeyboardInterrupt):
        with pytest.raises(KeyboardInterrupt): find_cifar10()
    else: assert (find_cifar10() is None) == (end is not None)
    assert [f.name for f in cache_dir().iterdir()] == ([] if end else ['cifar-10-python.tar.gz'])
