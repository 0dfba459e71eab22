"Weights of others from the shell and back: the official code's, LDM's, diffusers'; and what does not fit"
import collections
import contextlib
import enum
import functools
import json
import pathlib
import pickle
import sys
import time
import types
import warnings
from dataclasses import replace
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from marlearn.engine import exchange, official
from marlearn.engine.checkpoints import load_checkpoint
from marlearn.engine.exchange import class_names, distinct
from marlearn.engine.official import export_mar, export_vae, load_mar, load_vae, read_official
from marlearn.heads import HeadConfig
from marlearn.mar import AutoregressiveModel, ModelConfig
from marlearn.tokenizers import load_tokenizer, PixelTokenizer, save_tokenizer
from marlearn.vae import VAE, VAEConfig
from tools import captured, randomise

MAR = ModelConfig(n_tokens=4, token_dim=16, n_classes=7, width=24, encoder_blocks=1, decoder_blocks=1, heads=3,
                  class_slots=4, head=HeadConfig(blocks=1, width=20))
KL = VAEConfig(width=32, mults=(1, 2), latent_channels=4, embed_dim=4, norm_groups=32)

def same(a, b): return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)

@pytest.fixture(scope='module')
def mar(): return export_mar(randomise(AutoregressiveModel(MAR)))

@pytest.fixture(scope='module')
def kl(): return export_vae(randomise(VAE(KL)))

@pytest.fixture(scope='module')
def given(mar, kl, tmp_path_factory):
    "A folder with what a stranger has"
    folder = tmp_path_factory.mktemp('given')
    raw = {k: v + 1 for k, v in mar.items()}
    torch.save({'model': raw, 'model_ema': mar, 'epoch': 400}, folder/'checkpoint-last.pth')
    torch.save({'model': kl}, folder/'kl16.ckpt')
    return folder

def run(capsys, *argv):
    "Exit status and what was printed"
    status, said = captured(capsys, *argv)
    return status, said.out + said.err

# The commands

@pytest.fixture
def imported(given, tmp_path, capsys):
    status, said = run(capsys, 'import', 'mar', given/'checkpoint-last.pth', '--vae', given/'kl16.ckpt', '--heads', 3,
                       '--out', tmp_path/'mar')
    assert status == 0, said
    return tmp_path/'mar'

def test_import_draw_export(given, mar, kl, imported, tmp_path, capsys):
    c = load_checkpoint(imported)
    assert same(export_mar(c.model), mar) and same(export_vae(c.tokenizer.vae), kl)
    assert c.tokenizer.patch == 2 and c.tokenizer.scale == 0.2325 and c.settings['run']['img_size'] == 8
    assert c.classes == tuple('0123456') and c.model.config.heads == 3
    status, said = run(capsys, 'sample', '--checkpoint', imported, '--classes', 3, 6, '--per-class', 1, '--ar-steps', 2,
                       '--diff-steps', 2, '--out', tmp_path/'s.png')
    assert status == 0 and (tmp_path/'s.png').exists() and 'steps of training' not in said
    for name in ('out.pth', 'out.safetensors'):
        assert run(capsys, 'export', 'mar', imported, '--out', tmp_path/name)[0] == 0
        assert same(export_mar(load_mar(tmp_path/name, heads=3)), mar)
    assert load_mar(tmp_path/'out.pth').config == c.model.config               # ours say how many heads they have
    plain = torch.load(tmp_path/'out.pth', weights_only=True)                  # as the official code reads it
    assert same(plain['model'], mar) and same(plain['model_ema'], mar)
    for name, read in (('kl.ckpt', lambda p: torch.load(p, weights_only=True)['model']), ('kl.safetensors', load_file)):
        assert run(capsys, 'export', 'vae', imported, '--out', tmp_path/name)[0] == 0
        assert same(read(tmp_path/name), kl)

def test_imported_models_can_be_measured(folder, tmp_path, capsys):
    sizes = replace(MAR, n_tokens=16, n_classes=10)
    save_file(export_mar(AutoregressiveModel(sizes)), tmp_path/'m.safetensors')
    save_file(export_vae(VAE(replace(KL, mults=(1, 1, 2)))), tmp_path/'v.safetensors')
    status, said = run(capsys, 'import', 'mar', tmp_path/'m.safetensors', '--vae', tmp_path/'v.safetensors', '--heads',
                       3, '--out', tmp_path/'mar')
    assert status == 0, said
    status, said = run(capsys, 'evaluate', '--checkpoint', tmp_path/'mar', '--data', folder, '--any-reference',
                       '--n', 10, '--seeds', 1, '--ar-steps', 2, '--diff-steps', 2, '--out', tmp_path/'e.json')
    assert status == 0 and json.loads((tmp_path/'e.json').read_text())['mean'], said

def test_raw_weights(given, mar, tmp_path, capsys):
    status, _ = run(capsys, 'import', 'mar', given, '--vae', given/'kl16.ckpt', '--heads', 3, '--raw', '--out',
                    tmp_path/'raw')                                            # of a folder: its checkpoint-last.pth
    assert status == 0
    raw = {k: v + 1 for k, v in mar.items()}
    assert same(export_mar(load_checkpoint(tmp_path/'raw').model), raw)

def test_both_sets_of_weights_go_out(mar, imported, tmp_path, capsys):
    "A checkpoint that we trained has raw and averaged weights"
    from marlearn.engine.checkpoints import save_checkpoint
    from marlearn.engine.run import RunConfig
    c, raw = load_checkpoint(imported), {k: v + 1 for k, v in mar.items()}
    sets = {'model': load_mar(raw, heads=3).state_dict(), 'ema': c.model.state_dict()}
    save_checkpoint(tmp_path/'both', model=c.model, tokenizer=c.tokenizer, config=RunConfig(), classes=c.classes,
                    step=1, state=sets)
    assert run(capsys, 'export', 'mar', tmp_path/'both', '--out', tmp_path/'both.pth')[0] == 0
    found = torch.load(tmp_path/'both.pth', weights_only=True)
    assert same(found['model'], raw) and same(found['model_ema'], mar)
    assert run(capsys, 'export', 'mar', tmp_path/'both', '--raw', '--out', tmp_path/'raw.safetensors')[0] == 0
    assert same(load_file(tmp_path/'raw.safetensors'), raw)

def test_vae_alone_and_then_mar(given, mar, kl, tmp_path, capsys):
    status, said = run(capsys, 'import', 'vae', given/'kl16.ckpt', '--scale', 0.5, '--patch-size', 2, '--out',
                       tmp_path/'kl')
    assert status == 0, said
    tokenizer = load_tokenizer(tmp_path/'kl')
    assert same(export_vae(tokenizer.vae), kl) and (tokenizer.scale, tokenizer.patch) == (0.5, 2)
    status, said = run(capsys, 'import', 'mar', given/'checkpoint-last.pth', '--vae', tmp_path/'kl', '--heads', 3,
                       '--out', tmp_path/'mar')
    assert status == 0 and load_checkpoint(tmp_path/'mar').tokenizer.scale == 0.5, said

def test_imagenet_is_known_by_name(kl, tmp_path, capsys):
    weights = export_mar(randomise(AutoregressiveModel(replace(MAR, n_classes=1000))))
    save_file(weights, tmp_path/'m.safetensors')
    save_file(kl, tmp_path/'v.safetensors')
    status, said = run(capsys, 'import', 'mar', tmp_path/'m.safetensors', '--vae', tmp_path/'v.safetensors', '--heads',
                       3, '--out', tmp_path/'mar')
    assert status == 0, said
    classes = load_checkpoint(tmp_path/'mar').classes
    assert (classes[207], classes[360], len(set(classes))) == ('golden retriever', 'otter', 1000)
    status, _ = run(capsys, 'sample', '--checkpoint', tmp_path/'mar', '--classes', 207, 'golden retriever',
                    '--per-class', 1, '--ar-steps', 1, '--diff-steps', 1, '--out', tmp_path/'s.png')
    assert status == 0

def test_names_that_occur_twice_stay_apart(monkeypatch):
    from torchvision.models import ResNet18_Weights
    old = [f'c{i}' for i in range(1000)]                            # as torchvision had them for years
    old[134] = old[517] = 'crane'
    old[638] = old[639] = 'maillot'
    monkeypatch.setitem(ResNet18_Weights.DEFAULT.meta, 'categories', old)
    names = class_names(1000)
    assert len(set(names)) == 1000
    assert [names[i] for i in (134, 517, 638, 639, 7)] == ['crane (134)', 'crane (517)', 'maillot (638)',
                                                           'maillot (639)', 'c7']
    assert distinct(['a', 'b']) == ('a', 'b')

def test_names_from_a_file(given, tmp_path, capsys):
    start = ['import', 'mar', given/'checkpoint-last.pth', '--vae', given/'kl16.ckpt', '--heads', 3, '--out',
             tmp_path/'mar', '--class-names', tmp_path/'names.txt']
    for text, word in (('a\nb', 'holds 2 class names, and the model has 7'), ('a\n\nb\nc\nd\ne\nf', 'line 2 is empty')):
        (tmp_path/'names.txt').write_text(text)
        status, said = run(capsys, *start)
        assert status == 2 and word in said and not (tmp_path/'mar').exists()
    (tmp_path/'names.txt').write_text('a\nb\nc\nd\ne\nf\nred fox\n')
    assert run(capsys, *start)[0] == 0 and load_checkpoint(tmp_path/'mar').classes[6] == 'red fox'

@pytest.mark.parametrize('argv, word', [
    ('mar {0}/nowhere.pth --vae {0}/kl16.ckpt', 'there is no file'),
    ('mar {0}/checkpoint-last.pth --vae {0}/nowhere.ckpt --heads 3', 'there is no file'),
    ('mar {0}/checkpoint-last.pth --vae {0}/kl16.ckpt', 'pass heads='),
    ('mar {0}/checkpoint-last.pth --vae {0}/kl16.ckpt --heads 5', 'heads=5'),
    ('mar {0}/checkpoint-last.pth --vae {0}/kl16.ckpt --heads 3 --patch-size 1', 'latents have 4 channels, the model'),
    ('mar {0}/checkpoint-last.pth --vae {0}/kl16.ckpt --heads 3 --patch-size 0', 'patch_size=0'),
    ('mar {0}/checkpoint-last.pth --vae {0}/kl16.ckpt --heads 3 --img-size 9', 'img_size=9: 2x2 tokens'),
    ('mar {0}/kl16.ckpt --vae {0}/kl16.ckpt', "no official MAR state dict: it is an autoencoder's"),
    ('mar {0}/checkpoint-last.pth --vae {0}/checkpoint-last.pth', "no official KL autoencoder state dict: it is a MAR"),
    ('vae {0}/checkpoint-last.pth', "it is a MAR's"),
    ('vae {0}/kl16.ckpt --scale -1', '--scale -1.0'),
    ('vae {0}/kl16.ckpt --patch-size 0', 'patch=0'),
    ('vae {0}/kl16.ckpt --norm-groups 5', 'norm_groups=5'),
])
def test_bad_input_leaves_nothing_behind(argv, word, given, tmp_path, capsys):
    status, said = run(capsys, 'import', *argv.format(given).split(), '--out', tmp_path/'sub'/'new')
    assert status == 2 and word in said, said
    assert 'Traceback' not in said and not (tmp_path/'sub'/'new').exists()

def test_nothing_is_replaced(given, imported, tmp_path, capsys):
    (tmp_path/'file.pth').write_text('mine')
    (tmp_path/'file.ckpt').write_text('mine')
    before = sorted(p.name for p in imported.rglob('*'))
    for argv in (['import', 'vae', given/'kl16.ckpt', '--out', imported],
                 ['import', 'mar', given/'checkpoint-last.pth', '--vae', given/'kl16.ckpt', '--out', imported],
                 ['export', 'mar', imported, '--out', tmp_path/'file.pth'],
                 ['export', 'vae', imported, '--out', tmp_path/'file.ckpt'],
                 ['export', 'vae', imported, '--out', imported, '--format', 'diffusers']):
        status, said = run(capsys, *argv)
        assert status == 2 and 'is there already' in said, said
    assert (tmp_path/'file.pth').read_text() == (tmp_path/'file.ckpt').read_text() == 'mine'
    assert sorted(p.name for p in imported.rglob('*')) == before

def test_a_disk_that_is_too_small_is_noticed_before(given, imported, tmp_path, capsys, monkeypatch):
    full = types.SimpleNamespace(total=10**9, used=10**9, free=1000)
    monkeypatch.setattr(exchange.shutil, 'disk_usage', lambda path: full)
    for argv in (['import', 'vae', given/'kl16.ckpt', '--out', tmp_path/'new'],
                 ['import', 'mar', given/'checkpoint-last.pth', '--vae', given/'kl16.ckpt', '--heads', 3, '--out',
                  tmp_path/'new'],
                 ['export', 'mar', imported, '--out', tmp_path/'new.pth'],
                 ['export', 'vae', imported, '--out', tmp_path/'new.ckpt']):
        status, said = run(capsys, *argv)
        assert status == 2 and 'GB are free' in said, said
    assert sorted(p.name for p in tmp_path.iterdir()) == ['mar']

def test_what_cannot_go_out(imported, tmp_path, capsys):
    save_tokenizer(PixelTokenizer(), tmp_path/'pixels')
    save_tokenizer(load_checkpoint(imported).tokenizer, tmp_path/'half')
    for argv, word in ((['mar', imported, '--out', tmp_path/'a.ckpt'], 'must end in .pth or .safetensors'),
                       (['vae', imported, '--out', tmp_path/'folder'], 'must end in .ckpt'),
                       (['vae', tmp_path/'pixels', '--out', tmp_path/'a.ckpt'], "kind 'pixels'"),
                       (['vae', tmp_path/'nowhere', '--out', tmp_path/'a.ckpt'], 'holds no tokenizer'),
                       (['mar', tmp_path/'nowhere', '--out', tmp_path/'a.pth'], 'is no checkpoint')):
        status, said = run(capsys, 'export', *argv)
        assert status == 2 and word in said, said
    assert not list(tmp_path.glob('a.*'))

# Files and folders as they come

def test_shards_and_folders(mar, tmp_path):
    names, folder = sorted(mar), tmp_path/'model'
    folder.mkdir()
    (folder/'optimizer.bin').write_bytes(b'not read')
    parts = [{n: mar[n] for n in names[i::3]} for i in range(3)]
    for i, part in enumerate(parts, 1):
        save_file(part, folder/f'model-{i:05d}-of-00003.safetensors')
    assert same(export_mar(load_mar(folder, heads=3)), mar)                                   # no index is needed
    assert same(export_mar(load_mar(folder/'model-00002-of-00003.safetensors', heads=3)), mar)
    (folder/'model-00002-of-00003.safetensors').rename(folder/'b.safetensors')
    with pytest.raises(FileNotFoundError, match='only a part of this model: model-00002-of-00003.safetensors'):
        load_mar(folder/'model-00001-of-00003.safetensors')
    files = ['model-00001-of-00003.safetensors', 'b.safetensors', 'model-00003-of-00003.safetensors']
    index = {'weight_map': {n: file for file, part in zip(files, parts) for n in part}}
    (folder/'model.safetensors.index.json').write_text(json.dumps(index))
    assert same(export_mar(load_mar(folder, heads=3)), mar)
    (folder/'model.safetensors.index.json').write_text('[]')
    with pytest.raises(ValueError, match='index.json holds no settings'): load_mar(folder)

def test_folder_with_several_models(mar, tmp_path):
    for name in ('mar-base.safetensors', 'mar-large.safetensors'):
        save_file(mar, tmp_path/name)
    with pytest.raises(ValueError, match='several models: name one of mar-base.safetensors, mar-large'):
        load_mar(tmp_path)
    (tmp_path/'mar-large.safetensors').unlink()
    torch.save(mar, tmp_path/'mar-base.pth')                                   # the same model in two other forms
    save_file({k: v.half() for k, v in mar.items()}, tmp_path/'mar-base.fp16.safetensors')
    assert same(export_mar(load_mar(tmp_path, heads=3)), mar)
    (tmp_path/'empty').mkdir()
    with pytest.raises(ValueError, match='holds no weights'): load_mar(tmp_path/'empty')

def test_own_checkpoint_is_named_as_such(imported):
    with pytest.raises(ValueError, match='a checkpoint of marlearn already'): load_mar(imported)

@pytest.mark.parametrize('content, word', [
    (b'<!DOCTYPE html>\n<html><head>', 'a web page.*dl=1'), (b'\n\n<html>', 'a web page'),
    (b'version https://git-lfs.github.com/spec/v1\noid sha256:d87\nsize 831736456\n', 'Git LFS'),
    (b'', 'damaged or no checkpoint'), (b'PK\x03\x04 cut off', 'broke off'), (b'GGUF\x03\x00\x00\x00 more', 'damaged')])
def test_files_that_are_something_else(content, word, tmp_path):
    (tmp_path/'kl16.ckpt').write_bytes(content)
    with pytest.raises(ValueError, match=word): load_vae(tmp_path/'kl16.ckpt')

@pytest.mark.parametrize('prefix', ['module.', '_orig_mod.', 'module._orig_mod.', '_orig_mod.module.', 'model.', 'mar.',
                                    'model._orig_mod.', 'module.ema_model.'])
def test_prefixes_of_mar(prefix, mar):
    assert same(export_mar(load_mar({prefix + k: v for k, v in mar.items()}, heads=3)), mar)
    boxed = {'state_dict': {'model': {prefix + k: v for k, v in mar.items()}}}
    assert same(export_mar(load_mar(boxed, heads=3)), mar)

def test_wrappers_inside_names(mar):
    "Blocks that were compiled or recomputed one by one"
    inside = {k.replace('encoder_blocks.0.', 'encoder_blocks.0._checkpoint_wrapped_module._orig_mod.'): v
              for k, v in mar.items()}
    assert inside.keys() != mar.keys() and same(export_mar(load_mar(inside, heads=3)), mar)

@pytest.mark.parametrize('prefix', ['', 'first_stage_model.', 'module.first_stage_model.', 'model.first_stage_model.',
                                    'vae.', 'model.', 'autoencoder.'])
def test_autoencoder_inside_a_whole_ldm(prefix, kl, tmp_path):
    others = {'model.diffusion_model.input_blocks.0.0.weight': torch.ones(3), 'betas': torch.ones(4),
              'cond_stage_model.transformer.encoder.layers.0.weight': torch.ones(2), 'model_ema.decay': torch.ones(()),
              'loss.discriminator.main.0.weight': torch.ones(1)}
    if not prefix:
        del others['betas']                                     # without a prefix nothing tells whose it is
    torch.save({'state_dict': {prefix + k: v for k, v in kl.items()} | others, 'epoch': 3}, tmp_path/'model.ckpt')
    with pytest.warns(UserWarning, match=f'{len(others)} entries of other parts are left out'):
        assert same(export_vae(load_vae(tmp_path/'model.ckpt')), kl)
    with pytest.raises(ValueError, match='missing .*quant_conv.bias'):
        load_vae({prefix + k: v for k, v in kl.items() if k != 'quant_conv.bias'})
    with pytest.raises(ValueError, match='unexpected .*spare'):
        load_vae({prefix + k: v for k, v in kl.items()} | {f'{prefix}spare': torch.ones(1)})

def test_scale_of_a_whole_ldm(kl, tmp_path, capsys):
    "LDM's trainer may have measured it; where nothing says it, KL-16's is taken, and that is said"
    state = {f'first_stage_model.{k}': v for k, v in kl.items()} | {'scale_factor': torch.tensor(0.75)}
    torch.save({'state_dict': state}, tmp_path/'a.ckpt')
    assert run(capsys, 'import', 'vae', tmp_path/'a.ckpt', '--out', tmp_path/'a')[0] == 0
    assert load_tokenizer(tmp_path/'a').scale == 0.75
    torch.save({'model': kl}, tmp_path/'b.ckpt')
    status, said = run(capsys, 'import', 'vae', tmp_path/'b.ckpt', '--out', tmp_path/'b')
    assert status == 0 and 'does not say the scale of its latents: 0.2325' in said
    assert load_tokenizer(tmp_path/'b').scale == 0.2325

def test_flux_and_sd3_in_ldms_format(kl):
    "No convolution between encoder and latents: as if there were one that changes nothing"
    without = {k: v for k, v in kl.items() if 'quant_conv' not in k}
    eye = {'quant_conv.weight': torch.eye(8)[:, :, None, None], 'quant_conv.bias': torch.zeros(8),
           'post_quant_conv.weight': torch.eye(4)[:, :, None, None], 'post_quant_conv.bias': torch.zeros(4)}
    assert same(export_vae(load_vae(without)), without | eye)

def test_two_models_in_one_file(kl):
    both = {f'{p}.{k}': v for p in ('vae', 'first_stage_model') for k, v in kl.items()}
    with pytest.raises(ValueError, match="holds 2 of these models.*'first_stage_model', 'vae'"): load_vae(both)

# Pickles

@pytest.fixture
def strange():
    "A module that is gone when its pickles are read"
    module = types.ModuleType('pytorch_lightning_of_2021')
    def new(name, *bases, **body):
        made = type(name, bases, body | {'__module__': module.__name__, '__qualname__': name})
        setattr(module, name, made)
        return made
    for name, base in (('ModelCheckpoint', object), ('AttributeDict', dict), ('Items', list), ('Unique', set)):
        new(name, base)
    def function(x): return x
    function.__module__, function.__qualname__ = module.__name__, 'function'
    module.function, module.Mode = function, enum.Enum('Mode', 'MIN MAX', module=module.__name__)
    sys.modules[module.__name__] = module
    yield module
    sys.modules.pop(module.__name__, None)

@pytest.mark.parametrize('protocol, zipped', [(2, True), (2, False), (4, True), (5, True)])
def test_objects_of_other_programs_are_placeholders(strange, kl, tmp_path, protocol, zipped):
    callback, options = strange.ModelCheckpoint(), strange.AttributeDict(lr=1e-4, betas=(0.9, 0.99))
    callback.best = options
    torch.save({'state_dict': collections.OrderedDict(kl), 'callbacks': {strange.ModelCheckpoint: {'best': 1.0}},
                'hyper_parameters': options, 'list': strange.Items([1, callback]), 'set': strange.Unique({1}),
                'mode': strange.Mode.MIN, 'path': pathlib.PurePosixPath('/a/b'), 'numpy': np.float32(3),
                'array': np.arange(4), 'default': collections.defaultdict(list, a=[1]), 'sets': {1, 2},
                'partial': functools.partial(strange.function, 1), 'complex': 1j, 'slice': slice(3),
                'callback': callback, 'pytorch-lightning_version': '1.4'}, tmp_path/'model.ckpt',
               pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    del sys.modules[strange.__name__]
    assert same(export_vae(load_vae(tmp_path/'model.ckpt')), kl)
    found = read_official(tmp_path/'model.ckpt')
    options = found['hyper_parameters']
    assert type(options).__name__ == 'AttributeDict' and not isinstance(options, dict)
    assert found['pytorch-lightning_version'] == '1.4'

def test_whole_pickled_models_are_explained(tmp_path):
    torch.save(VAE(KL), tmp_path/'model.pt')
    with pytest.raises(ValueError, match='a whole pickled model: store its state_dict'): load_vae(tmp_path/'model.pt')

class Call:
    "In a pickle: call this with that, while it is read"
    def __init__(self, function, *args): self.function, self.args = function, args
    def __reduce__(self): return self.function, self.args

class Chain:
    "builtins.getattr(os, 'system')(command), without a direct mention of the command's function"
    def __init__(self, command): self.command = command
    def __reduce__(self): return getattr(__import__('os'), 'system'), (self.command,)

def hostile(trace):
    command = f'touch {trace}'
    write = f'open({str(trace)!r}, "w").write("x")'
    inner = pickle.dumps(Chain(command))
    import importlib, os, runpy, shutil, subprocess, timeit
    yield 'system', Call(os.system, command)
    yield 'popen', Call(subprocess.Popen, ['touch', str(trace)])
    yield 'eval', Call(eval, write)
    yield 'exec', Call(exec, write)
    yield 'import', Call(importlib.import_module, 'this')
    yield 'pickle', Call(pickle.loads, inner)
    yield 'chain', Chain(command)
    yield 'timeit', Call(timeit.timeit, write, 'pass', timeit.default_timer, 1)
    yield 'runpy', Call(runpy.run_path, str(trace))
    yield 'rmtree', Call(shutil.rmtree, str(trace.parent/'precious'))
    yield 'bytes of a storage', Call(torch.storage._load_from_bytes, inner)
    yield 'torch.load', Call(torch.load, str(trace.with_suffix('.inner')), 'cpu')
    yield 'hub', Call(torch.hub.load, str(trace.parent), 'hubconf')
    yield 'numpy', Call(np.load, str(trace.with_suffix('.npy')), None, True)
    yield 'touch', Call(pathlib.Path(trace).touch)
    yield 'partial', Call(functools.partial(os.system, command))

CERTAIN = 'system', 'popen', 'eval', 'exec', 'pickle', 'chain', 'timeit', 'bytes of a storage', 'numpy', 'touch'
NAMES = [name for name, _ in hostile(pathlib.Path('/nowhere/trace'))]

@pytest.mark.parametrize('protocol, zipped', [(2, True), (2, False), (4, True)])
@pytest.mark.parametrize('name', NAMES)
def test_nothing_runs(name, protocol, zipped, strange, kl, tmp_path):
    "Refused, or a placeholder; also where the second reader is at work, because of a class that nobody knows"
    trace = tmp_path/'trace'
    (tmp_path/'precious').mkdir()
    (tmp_path/'hubconf.py').write_text(f'open({str(trace)!r}, "w")')
    trace.with_suffix('.inner').write_bytes(pickle.dumps(Chain(f'touch {trace}')))
    np.save(trace.with_suffix('.npy'), np.array([Chain(f'touch {trace}')], dtype=object), allow_pickle=True)
    attack = dict(hostile(trace))[name]
    path, content = tmp_path/'model.ckpt', {'state_dict': kl, 'callbacks': strange.ModelCheckpoint(), 'attack': attack}
    torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    imported = set(sys.modules)
    try:
        assert same(export_vae(load_vae(path)), kl)
    except ValueError as e:
        assert 'while it is read: refused' in str(e), e
    assert not trace.exists() and (tmp_path/'precious').exists()
    assert not {'this', 'hubconf'} & (set(sys.modules) - imported)
    if name in CERTAIN:                                                        # a careless reader would have run it
        with warnings.catch_warnings(), contextlib.suppress(RuntimeError):
            torch.load(path, weights_only=False)
        for _ in range(100):
            if not trace.exists(): time.sleep(0.05)                            # `popen` takes a moment
        assert trace.exists()

def test_pickles_made_by_hand(tmp_path, kl):
    "Opcodes that no honest program writes: attributes set on what the reader hands out; calls by other opcodes"
    rebuild = torch._utils._rebuild_tensor_v2
    before = (rebuild.__defaults__, dict(rebuild.__dict__), dict(vars(official.argparse.Namespace)))
    hello = b"c__builtin__\nprint\n(S'hello'\n"
    bodies = [b"ctorch._utils\n_rebuild_tensor_v2\n(N}S'__defaults__'\n(I1\ntstb.",
              b"ctorch._utils\n_rebuild_tensor_v2\n}S'x'\nI1\nsb.", b"cargparse\nNamespace\n(N}S'x'\nI1\nstb.",
              b"(" + hello[:-len(b"(S'hello'\n")] + b"S'hello'\no.", b"(S'hello'\ni__builtin__\nprint\n.",
              b"(S'x'\nios\nsystem\n.", b"cos\nsystem\n(S'x'\ntR.", b"c__builtin__\neval\n(S'1'\ntR.",
              b"cbuiltins\n__import__\n(S'os'\ntR.", b"csys\nmodules\n.",
              b"c%s\nFunctionType\n(c%s\nCodeType\n}tR." % (b'types', b'types'), b"\x82\x01.",
              b"cx\n" + b"a"*10000 + b"\n."]
    path = tmp_path/'x.ckpt'
    for body in bodies:
        for pieces in ([body], [pickle.dumps(torch.serialization.MAGIC_NUMBER, 2), pickle.dumps(1001, 2),
                                pickle.dumps({'protocol_version': 1001, 'little_endian': True, 'type_sizes': {}}, 2),
                                b'\x80\x02' + body]):
            path.write_bytes(b''.join(pieces))
            with pytest.raises(ValueError): load_vae(path)
    after = (rebuild.__defaults__, dict(rebuild.__dict__), dict(vars(official.argparse.Namespace)))
    assert after == before

def test_torchscript_and_tar_stay_closed(tmp_path):
    import tarfile
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path/'script.pt')
    with tarfile.open(tmp_path/'old.pt', 'w') as tar:
        tar.add(tmp_path/'script.pt', 'storages')
    for name in ('script.pt', 'old.pt'):
        with pytest.raises(ValueError, match='damaged or no checkpoint'): load_vae(tmp_path/name)

def test_claims_larger_than_the_file(kl, tmp_path):
    huge = torch.zeros(1).expand(10**9, 4, 100)                                # one number, and a shape
    torch.save({'model': kl | {'encoder.conv_in.weight': huge}}, tmp_path/'a.ckpt')
    with pytest.raises(ValueError, match='encoder.conv_in.weight claims to be'): load_vae(tmp_path/'a.ckpt')
    body = (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\n"
            b"L100000000000000L\ntQI0\n(I10\nt(I1\ntI00\nccollections\nOrderedDict\n)RtR.")
    start = [pickle.dumps(x, 2) for x in (torch.serialization.MAGIC_NUMBER, 1001, {'little_endian': True})]
    (tmp_path/'b.ckpt').write_bytes(b''.join([*start, body]))
    with pytest.raises(ValueError, match='damaged'): load_vae(tmp_path/'b.ckpt')
