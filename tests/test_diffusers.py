"KL autoencoders of the library diffusers, compared with diffusers itself on random weights"
import json
import pytest
import torch
from safetensors.torch import load_file, save_file
from marlearn.engine.exchange import export_vae_file, import_mar, import_vae
from marlearn.engine.official import diffusers_config, export_mar, export_vae, load_vae, official_tokenizer
from marlearn.heads import HeadConfig
from marlearn.mar import AutoregressiveModel, ModelConfig
from marlearn.tokenizers import load_tokenizer
from marlearn.vae import VAE, VAEConfig

diffusers = pytest.importorskip('diffusers')                                   # `pip install marlearn[dev]` brings it

SD = dict(block_out_channels=(32, 64, 64), down_block_types=['DownEncoderBlock2D']*3,
          up_block_types=['UpDecoderBlock2D']*3, layers_per_block=2, latent_channels=4, norm_num_groups=32)
CONFIGS = {
    'stable diffusion': SD,
    'shifted, no convolutions around the latents': SD | dict(
        block_out_channels=(16, 16), down_block_types=['DownEncoderBlock2D']*2, up_block_types=['UpDecoderBlock2D']*2,
        latent_channels=16, norm_num_groups=8, layers_per_block=1, use_quant_conv=False, use_post_quant_conv=False,
        scaling_factor=0.3611, shift_factor=0.1159),
    'attention at two levels': SD | dict(
        block_out_channels=(16, 32, 48, 48), norm_num_groups=4, in_channels=1, out_channels=1, scaling_factor=0.5,
        down_block_types=['DownEncoderBlock2D', 'AttnDownEncoderBlock2D']*2,
        up_block_types=['AttnUpDecoderBlock2D', 'UpDecoderBlock2D']*2),
    'attention in the encoder only': SD | dict(
        block_out_channels=(16, 16), norm_num_groups=16, shift_factor=-0.7,
        down_block_types=['DownEncoderBlock2D', 'AttnDownEncoderBlock2D'], up_block_types=['UpDecoderBlock2D']*2),
}

def made(config, seed=0):
    "An autoencoder of diffusers with random weights, none of them zero"
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        theirs = diffusers.AutoencoderKL(**config).eval()
        with torch.no_grad():
            for p in theirs.parameters():
                p.add_(0.05*torch.randn(p.shape))
    return theirs

@pytest.fixture(params=list(CONFIGS))
def theirs(request): return made(CONFIGS[request.param])

def images(theirs, *sides):
    sides = sides or (32, 48)                                                  # not square
    g = torch.Generator().manual_seed(1)
    return torch.rand(2, theirs.config.in_channels, *sides, generator=g)*2 - 1

def apart(a, b): return ((a - b).abs().max()/b.abs().max()).item()

@torch.no_grad()
def compare(ours, theirs, x):
    "Means, log-variances and pictures"
    want = theirs.encode(x).latent_dist
    got = ours.encode(x)
    assert apart(got.mean, want.mean) < 1e-5 and apart(got.logvar, want.logvar) < 1e-5
    latents = torch.randn(want.mean.shape, generator=torch.Generator().manual_seed(2))
    assert apart(ours.decode(latents), theirs.decode(latents).sample) < 1e-5

@torch.no_grad()
def compare_tokenizer(tokenizer, theirs, x):
    "Scaled and shifted latents, as a diffusion model of diffusers sees them"
    c = theirs.config
    shift = c.shift_factor or 0
    want = (theirs.encode(x).latent_dist.mean - shift)*c.scaling_factor
    grid = tokenizer.grid_shape(x.shape[2:])
    cells = tokenizer._cells(tokenizer.encode(x), grid)
    assert apart(cells, want) < 1e-5
    pictures = theirs.decode(want/c.scaling_factor + shift).sample
    assert apart(tokenizer.decode(tokenizer.encode(x), grid), pictures) < 1e-5

def test_same_numbers(theirs, tmp_path):
    theirs.save_pretrained(tmp_path/'vae')
    ours = load_vae(tmp_path/'vae')
    compare(ours, theirs, images(theirs))
    compare_tokenizer(official_tokenizer(tmp_path/'vae'), theirs, images(theirs))
    weights = tmp_path/'vae'/'diffusion_pytorch_model.safetensors'
    assert load_vae(weights).config == ours.config                             # the file, its config beside it
    assert load_vae(tmp_path).config == ours.config                            # a whole pipeline
    assert load_vae(load_file(weights), norm_groups=theirs.config.norm_num_groups).config == ours.config

def test_through_the_commands_and_back(theirs, tmp_path):
    theirs.save_pretrained(tmp_path/'vae')
    tokenizer = import_vae(tmp_path/'vae', tmp_path/'kl')
    compare_tokenizer(load_tokenizer(tmp_path/'kl'), theirs, images(theirs))
    assert tokenizer.scale == theirs.config.scaling_factor
    export_vae_file(tmp_path/'kl', tmp_path/'back', 'diffusers')
    back = diffusers.AutoencoderKL.from_pretrained(tmp_path/'back').eval()
    assert back.config.scaling_factor == theirs.config.scaling_factor and not back.config.shift_factor
    compare_tokenizer(official_tokenizer(tmp_path/'back'), back, images(theirs))
    compare_tokenizer(tokenizer, back, images(theirs))                         # a shift became a bias
    settings = json.loads((tmp_path/'back'/'config.json').read_text())
    for name in ('block_out_channels', 'down_block_types', 'up_block_types', 'layers_per_block', 'norm_num_groups'):
        assert settings[name] == list(theirs.config[name]) if isinstance(theirs.config[name], tuple) else \
            settings[name] == theirs.config[name]
    if not theirs.config.shift_factor:
        have, want = back.state_dict(), theirs.state_dict()
        assert have.keys() == want.keys() and all(torch.equal(have[k], want[k]) for k in want)

def test_both_generations_of_attention(tmp_path):
    theirs = made(CONFIGS['attention at two levels'])
    theirs.save_pretrained(tmp_path/'new')
    names = {'to_q': 'query', 'to_k': 'key', 'to_v': 'value', 'to_out.0': 'proj_attn'}
    state, config = theirs.state_dict(), (tmp_path/'new'/'config.json').read_text()
    def old_name(name):
        for new, old in names.items():
            name = name.replace(f'.{new}.', f'.{old}.')
        return name
    renamed = {old_name(k): v for k, v in state.items()}
    assert renamed.keys() != state.keys()
    def as_conv(k, v): return v[:, :, None, None] if v.ndim == 2 else v
    for place, weights in (('old', renamed), ('conv', {k: as_conv(k, v) for k, v in renamed.items()})):
        (tmp_path/place).mkdir()
        (tmp_path/place/'config.json').write_text(config)
        save_file({k: v.contiguous() for k, v in weights.items()}, tmp_path/place/'diffusion_pytorch_model.safetensors')
        compare(load_vae(tmp_path/place), theirs, images(theirs))
    torch.save(renamed, tmp_path/'old'/'diffusion_pytorch_model.bin')
    (tmp_path/'old'/'diffusion_pytorch_model.safetensors').unlink()
    compare(load_vae(tmp_path/'old'), theirs, images(theirs))
    compare(load_vae(tmp_path/'old'), diffusers.AutoencoderKL.from_pretrained(tmp_path/'old', use_safetensors=False),
            images(theirs))

def test_ours_in_diffusers(tmp_path):
    "KL-16's layout, which has attention in the encoder's last level only"
    config = VAEConfig(width=16, mults=(1, 1, 2), res_blocks=2, attn_levels=(2,), latent_channels=4, embed_dim=4,
                       norm_groups=8)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ours = VAE(config).eval()
    theirs = diffusers.AutoencoderKL.from_config(diffusers_config(config)).eval()
    theirs.load_state_dict(export_vae(ours, format='diffusers'))
    compare(ours, theirs, images(theirs))

def test_an_old_config_without_a_scale(tmp_path):
    "sd-vae-ft-mse's own config.json says nothing of it; diffusers' default holds"
    made(SD).save_pretrained(tmp_path)
    config = json.loads((tmp_path/'config.json').read_text())
    (tmp_path/'config.json').write_text(json.dumps({k: v for k, v in config.items() if k != 'scaling_factor'}))
    assert official_tokenizer(tmp_path).scale == diffusers.AutoencoderKL.load_config(tmp_path).get(
        'scaling_factor', diffusers.AutoencoderKL(**SD).config.scaling_factor) == 0.18215

@pytest.mark.parametrize('change, word', [
    ({'_class_name': 'VQModel'}, "_class_name='VQModel'"), ({'act_fn': 'relu'}, "act_fn='relu'"),
    ({'mid_block_add_attention': False}, 'mid_block_add_attention=False'),
    ({'latents_mean': [0.1]*4, 'latents_std': [1.0]*4}, 'latents_mean'),
    ({'down_block_types': ['DownEncoderBlock2D', 'ResnetDownsampleBlock2D']}, 'ResnetDownsampleBlock2D'),
    ({'norm_num_groups': 7}, 'norm_groups=7'),
])
def test_other_networks_are_refused_in_words(change, word, tmp_path):
    made(SD).save_pretrained(tmp_path)
    config = json.loads((tmp_path/'config.json').read_text())
    (tmp_path/'config.json').write_text(json.dumps(config | change))
    with pytest.raises(ValueError, match=word): load_vae(tmp_path)
    (tmp_path/'config.json').write_text('{"broken')
    with pytest.raises(ValueError, match='config.json cannot be read'): load_vae(tmp_path)

def test_a_convolution_that_should_be_there(tmp_path):
    made(SD).save_pretrained(tmp_path)
    file = tmp_path/'diffusion_pytorch_model.safetensors'
    save_file({k: v for k, v in load_file(file).items() if not k.startswith('quant_conv')}, file)
    with pytest.raises(ValueError, match='missing .*quant_conv.bias'): load_vae(tmp_path)

@pytest.mark.parametrize('config, word', [(VAEConfig(latent_channels=6, embed_dim=3), 'latent_channels is 6'),
                                          (VAEConfig(width=8, mults=(2, 4)), 'first of mults is 2')])
def test_what_diffusers_does_not_have(config, word):
    with pytest.raises(ValueError, match=word): export_vae(VAE(config), format='diffusers')

def test_mar_with_such_an_autoencoder(tmp_path):
    made(SD).save_pretrained(tmp_path/'vae')
    sizes = ModelConfig(n_tokens=4, token_dim=16, n_classes=3, width=24, encoder_blocks=1, decoder_blocks=1, heads=3,
                        class_slots=4, head=HeadConfig(blocks=1, width=20))
    save_file(export_mar(AutoregressiveModel(sizes)), tmp_path/'mar.safetensors')
    import_mar(tmp_path/'mar.safetensors', tmp_path/'vae', tmp_path/'mar', heads=3)
    tokenizer = load_tokenizer(tmp_path/'mar'/'tokenizer')
    assert (tokenizer.patch, tokenizer.scale) == (2, 0.18215)
