"Official checkpoints as they come: wrapped, averaged, damaged, incomplete, hostile; models without an official form"
import argparse, os, pickle
from dataclasses import replace
import pytest, torch
from safetensors.torch import save_file
from marlearn.generate import generate
from marlearn.heads import HeadConfig
from marlearn.mar import AutoregressiveModel, ModelConfig
from marlearn.engine.official import export_mar, export_vae, KL16_SCALE, load_mar, load_vae, official_tokenizer
from marlearn.vae import VAE, VAEConfig
from tools import randomise

CONFIG = ModelConfig(n_tokens=9, token_dim=8, n_classes=5, width=24, encoder_blocks=2, decoder_blocks=1, heads=3,
                     mlp_ratio=2.5, class_slots=4, head=HeadConfig(blocks=2, width=20))

@pytest.fixture(scope='module')
def model(): return randomise(AutoregressiveModel(CONFIG), 0)

@pytest.fixture(scope='module')
def state(model): return export_mar(model)

def same(a, b): return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)

def test_round_trip_and_sizes(model, state):
    loaded = load_mar(state, heads=3, patch_size=2)
    assert loaded.config == CONFIG and not loaded.training
    assert same(export_mar(loaded), state) and same(loaded.state_dict(), model.state_dict())
    tokens = torch.randn(2, 9, 8, generator=torch.Generator().manual_seed(0))
    labels, order = torch.tensor([0, 5]), torch.arange(9).expand(2, 9)
    with torch.no_grad():
        assert torch.equal(loaded.backbone(tokens, labels, order, 4), model.backbone(tokens, labels, order, 4))
    assert generate(loaded, torch.tensor([1, 2]), ar_steps=2, diff_steps=2, cfg_scale=2.0,
                    generator=torch.Generator().manual_seed(0)).isfinite().all()

def test_loaded_weights_are_a_copy(state):
    loaded = load_mar(state, heads=3)
    with torch.no_grad():
        loaded.backbone.mask_token.zero_()
    assert state['mask_token'].any()

def test_odd_mlp_width_and_other_types(state):
    other = randomise(AutoregressiveModel(replace(CONFIG, mlp_ratio=29.5/24)), 1)           # 29 hidden: no whole ratio
    half = {k: v.half() for k, v in export_mar(other).items()}
    assert load_mar(half, heads=3).backbone.mask_token.dtype == torch.float32
    assert same(export_mar(load_mar(half, heads=3, dtype=None)), half)

def test_checkpoint_with_settings_and_average(model, state, tmp_path):
    "What the official trainer writes: pickled namespace, optimizer, scaler, two sets of weights"
    args = argparse.Namespace(model='mar_base', epochs=400, label_drop_prob=0.25, diffusion_batch_mul=7,
                              attn_dropout=0.05, proj_dropout=0.05, mask_ratio_min=0.5, output_dir=None)
    raw = {k: v + 1 for k, v in state.items()}
    path = tmp_path/'checkpoint-last.pth'
    torch.save({'model': raw, 'model_ema': state,
                'optimizer': {'state': {0: {'step': torch.tensor(3.), 'exp_avg': torch.zeros(2)}},
                              'param_groups': [{'lr': 1e-4, 'params': [0]}]},
                'epoch': 7, 'scaler': {'scale': 65536.0}, 'args': args}, path)
    loaded = load_mar(path, heads=3)
    assert same(export_mar(loaded), state) and same(export_mar(load_mar(path, heads=3, ema=False)), raw)
    assert (loaded.config.label_drop, loaded.config.head.noise_levels, loaded.config.dropout,
            loaded.config.min_mask_ratio) == (0.25, 7, 0.05, 0.5)
    # the namespace knows the model
    assert load_mar(path).config.heads == 12 and load_mar(path, label_drop=0.0, heads=3).config.label_drop == 0
    path.unlink()
    assert same(export_mar(loaded), state)                                            # nothing still hangs on the file
    torch.save({'model': raw, 'epoch': 7}, path)
    assert same(export_mar(load_mar(path, heads=3)), raw)
    torch.save({'model_ema': raw, 'epoch': 7}, path)
    with pytest.raises(ValueError, match='none of model'): load_mar(path, heads=3, ema=False)

def test_safetensors_and_old_pickles(state, tmp_path):
    save_file(state, tmp_path/'mar.safetensors')
    torch.save(state, tmp_path/'old.pth', _use_new_zipfile_serialization=False)
    torch.save({f'module.{k}': v for k, v in state.items()}, tmp_path/'ddp.pth')
    for name in ('mar.safetensors', 'old.pth', 'ddp.pth'):
        assert same(export_mar(load_mar(tmp_path/name, heads=3)), state)

def test_heads_must_be_said(state):
    with pytest.raises(ValueError, match='24 .*pass heads='): load_mar(state)
    with pytest.raises(ValueError, match='heads=5'): load_mar(state, heads=5)
    with pytest.raises(ValueError, match='patch_size=3'): load_mar(state, heads=3, patch_size=3)

def test_meta(state):
    loaded = load_mar({k: v.to('meta') for k, v in state.items()}, heads=3)
    assert loaded.config == CONFIG and all(p.is_meta for p in loaded.parameters())

@pytest.mark.parametrize('gone', ['mask_token', 'fake_latent', 'class_emb.weight', 'diffusion_pos_embed_learned',
                                  'encoder_pos_embed_learned', 'z_proj.weight', 'encoder_blocks.0.norm1.bias',
                                  'decoder_blocks.0.mlp.fc1.weight', 'diffloss.net.input_proj.weight',
                                  'diffloss.net.res_blocks.1.mlp.2.bias', 'diffloss.net.final_layer.linear.weight'])
def test_missing(state, gone):
    with pytest.raises(ValueError, match=rf'missing \(1\): {gone}($|;)'
                       if gone not in ('class_emb.weight', 'diffusion_pos_embed_learned') else gone):
        load_mar({k: v for k, v in state.items() if k != gone}, heads=3)

def test_one_message_names_everything(state):
    bad = state | {'z_proj.bias': torch.zeros(5), 'spare.weight': torch.zeros(2), 'epoch': 3}
    del bad['mask_token'], bad['encoder_norm.bias']
    with pytest.raises(ValueError) as e: load_mar(bad, heads=3)
    for part in ('missing (2): encoder_norm.bias, mask_token', 'unexpected (2): epoch, spare.weight',
                 'wrong shape (1): z_proj.bias is (5,), not (24,)'):
        assert part in str(e.value)

@pytest.mark.parametrize('name, shape', [('z_proj.weight', (24, 9)), ('mask_token', (1, 1, 25)),
                                         ('diffloss.net.input_proj.weight', (21, 8)),
                                         ('decoder_blocks.0.mlp.fc1.weight', (61, 24)),
                                         ('decoder_pos_embed_learned', (1, 14, 24))])
def test_one_wrong_shape_does_not_blame_the_others(state, name, shape):
    with pytest.raises(ValueError) as e: load_mar(state | {name: torch.zeros(shape)}, heads=3)
    assert str(e.value).endswith(f'describe. wrong shape (1): {name} is {shape}, not {tuple(state[name].shape)}')

def test_not_this_kind_of_file(state, tmp_path):
    vae = export_vae(randomise(VAE(VAEConfig()), 0))
    with pytest.raises(ValueError, match='no official MAR'): load_mar(vae)
    with pytest.raises(ValueError, match='no official KL autoencoder'): load_vae(state)
    with pytest.raises(ValueError, match='no official MAR'): load_mar({})
    with pytest.raises(FileNotFoundError, match='nowhere'): load_mar(tmp_path/'nowhere.pth')
    path = tmp_path/'file.pth'
    for content in (b'', b'hello, this is no checkpoint', b'PK\x03\x04 almost a zip', bytes(100), b'\x80\x02}q\x00.'):
        path.write_bytes(content)
        with pytest.raises(ValueError, match='file.pth is damaged or no checkpoint|no official MAR'): load_mar(path)
    torch.save(torch.zeros(3), path)
    with pytest.raises(ValueError, match='Tensor'): load_mar(path)
    for save in (lambda: torch.save({'model': state}, path), lambda: save_file(state, path)):
        save()
        whole = path.read_bytes()
        for length in (5, 100, len(whole)//2, len(whole) - 10):
            path.write_bytes(whole[:length])
            with pytest.raises(ValueError, match='damaged'): load_mar(path, heads=3)

class Hostile:
    def __init__(self, command):
        self.command = command
    def __reduce__(self): return os.system, (self.command,)

@pytest.mark.parametrize('how', ['zip', 'legacy', 'pickle 2', 'pickle 4'])
def test_hostile_file_is_refused(state, tmp_path, how):
    trace, path = tmp_path/'trace', tmp_path/'hostile.pth'
    content = {'args': Hostile(f'touch {trace}'), 'model': {} if 'pickle' in how else state}
    if 'pickle' in how:
        path.write_bytes(pickle.dumps(content, protocol=int(how[-1])))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == 'zip')
    with pytest.raises(ValueError, match=r'asks to run \w+\.system while it is read: refused'):
        load_mar(path, heads=3)
    assert not trace.exists()
    pickle.loads(path.read_bytes()) if 'pickle' in how else torch.load(path, weights_only=False)
    assert trace.exists()  # the file is loaded like a gun: careless reading runs it

def test_models_without_an_official_form(model):
    small = dict(n_tokens=9, token_dim=8, n_classes=5, width=24, encoder_blocks=1, decoder_blocks=1, heads=3,
                 class_slots=4)
    for config, word in ((ModelConfig(**small, backbone='causal'), 'causal'),
                         (ModelConfig(**small, order='raster'), 'raster'),
                         (ModelConfig(**small, head=HeadConfig(kind='flow')), 'flow'),
                         (ModelConfig(**small, head=HeadConfig(train_steps=50)), '50')):
        with pytest.raises(ValueError, match=f'no such model.*{word}'): export_mar(AutoregressiveModel(config))

VAES = [VAEConfig(), VAEConfig(width=16, mults=(1, 2), res_blocks=2, attn_levels=(1,), decoder_attn=True,
                               latent_channels=6, embed_dim=3, norm_groups=4, img_channels=1),
        VAEConfig(width=8, mults=(1, 1, 2, 4), attn_levels=(2, 3), norm_groups=8),
        VAEConfig(width=8, mults=(2,), norm_groups=4)]

@pytest.mark.parametrize('config', VAES)
def test_vae_round_trip(config, tmp_path):
    vae = randomise(VAE(config), 0)
    state = export_vae(vae)
    loaded = load_vae(state, norm_groups=config.norm_groups)
    assert loaded.config == config and same(loaded.state_dict(), vae.state_dict()) and same(export_vae(loaded), state)
    torch.save({'state_dict': state | {'loss.discriminator.main.0.weight': torch.zeros(3)}, 'epoch': 3},
               tmp_path/'ldm.ckpt')
    torch.save({'model': state}, tmp_path/'mar.ckpt')
    for name in ('ldm.ckpt', 'mar.ckpt'):
        assert same(export_vae(load_vae(tmp_path/name, norm_groups=config.norm_groups)), state)
    assert all(v.shape[2:] == (1, 1) for k, v in state.items() if k.endswith('.q.weight'))
    assert not config.attn_levels or any('down' in k and '.attn.' in k for k in state)

def test_vae_that_does_not_fit():
    state = export_vae(randomise(VAE(VAES[1]), 0))
    for gone in ('post_quant_conv.weight', 'encoder.mid.attn_1.k.weight', 'decoder.up.1.upsample.conv.bias',
                 'encoder.down.1.block.0.nin_shortcut.weight'):
        with pytest.raises(ValueError, match=rf'missing \(1\): {gone}'):
            load_vae({k: v for k, v in state.items() if k != gone}, norm_groups=4)
    with pytest.raises(ValueError, match='norm_groups=32'): load_vae(state)
    with pytest.raises(ValueError, match=r'wrong shape \(1\): quant_conv.bias'):
        load_vae(state | {'quant_conv.bias': torch.zeros(1)}, norm_groups=4)

def test_official_tokenizer():
    state = export_vae(randomise(VAE(VAEConfig(width=32, norm_groups=32)), 0))
    tokenizer = official_tokenizer(state, patch_size=2)
    assert (tokenizer.scale, tokenizer.patch, tokenizer.stride) == (KL16_SCALE, 2, 4) and KL16_SCALE == 0.2325
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))*2 - 1
    assert tokenizer.decode(tokenizer.encode(images)).shape == images.shape
