"""The autoencoders against diffusers' on the same weights, and what must hold for any weights."""

import re

import pytest
import torch
from diffusers import AutoencoderKL, VQModel
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

from engines.errors import BadRequest
from engines.vqgan.autoencoder import VQGAN, AutoencoderConfig, CodebookConfig, KLAutoencoder
from tests.peers import randomise

TINY = dict(ch=16, ch_mult=(1, 2), num_res_blocks=1, attention_levels=(), z_channels=5, embed_dim=5, norm_groups=8)
SHAPES = {
    "no_attention": AutoencoderConfig(**TINY),
    "attention_at_the_last_level": AutoencoderConfig(
        **TINY | dict(ch_mult=(1, 1, 3), num_res_blocks=2, attention_levels=(2,))
    ),
    "attention_everywhere_in_grey": AutoencoderConfig(
        **TINY | dict(in_channels=1, attention_levels=(0, 1), norm_groups=4)
    ),
    "one_level": AutoencoderConfig(**TINY | dict(ch_mult=(1,))),
}
CODEBOOK = CodebookConfig(n_embed=40)
# A VQGAN may narrow between encoder and codebook; the peer's KL autoencoder cannot.
NARROWED = AutoencoderConfig(**TINY | dict(attention_levels=(1,), z_channels=8, embed_dim=3))


def pictures(config, batch=3, height=16, width=24):
    generator = torch.Generator().manual_seed(2)
    return torch.rand((batch, config.in_channels, height, width), generator=generator) * 2 - 1


def peer_shape(config):
    """What the peer calls `config`; it lists the levels of the decoder from the deepest."""
    levels = range(len(config.ch_mult))
    attention = [level in config.attention_levels for level in levels]
    return dict(
        in_channels=config.in_channels,
        out_channels=config.in_channels,
        block_out_channels=tuple(config.ch * mult for mult in config.ch_mult),
        layers_per_block=config.num_res_blocks,
        latent_channels=config.z_channels,
        norm_num_groups=config.norm_groups,
        down_block_types=tuple("AttnDownEncoderBlock2D" if on else "DownEncoderBlock2D" for on in attention),
        up_block_types=tuple("AttnUpDecoderBlock2D" if on else "UpDecoderBlock2D" for on in reversed(attention)),
    )


RENAMED = [
    ("conv_norm_out", "norm_out"),
    ("conv_shortcut", "nin_shortcut"),
    ("group_norm", "norm"),
    ("to_out.0", "proj_out"),
    (r"to_([qkv])", r"\1"),
    (r"resnets", "block"),
    (r"attentions", "attn"),
    (r"(down|up)samplers.0", r"\1sample"),
    (r"mid_block.block.0", "mid.block_1"),
    (r"mid_block.block.1", "mid.block_2"),
    (r"mid_block.attn.0", "mid.attn_1"),
    (r"down_blocks", "down"),
]


def published(state, config):
    """The peer's weights under the names and in the shapes of a taming or latent-diffusion checkpoint."""
    found = {}
    for key, value in state.items():
        attention = ".attentions." in key and value.ndim == 2
        for theirs, ours in RENAMED:
            key = re.sub(rf"\b{theirs}\b", ours, key)
        key = re.sub(r"up_blocks\.(\d)", lambda match: f"up.{len(config.ch_mult) - 1 - int(match[1])}", key)
        found[key] = value[:, :, None, None] if attention else value
    return found


@torch.no_grad()
def spread_codes(net, latents):
    """Codes at every so many latents: a random codebook would see most latents fall on one code."""
    vectors = latents.movedim(1, 3).flatten(0, 2)
    net.quantize.embedding.weight.copy_(vectors[torch.linspace(0, len(vectors) - 1, CODEBOOK.n_embed).long()])


def vq_pair(config, x):
    theirs = randomise(VQModel(
        **peer_shape(config), num_vq_embeddings=CODEBOOK.n_embed, vq_embed_dim=config.embed_dim
    ))
    spread_codes(theirs, theirs.encode(x).latents)
    ours = VQGAN(config, CODEBOOK).eval()
    ours.load_state_dict(published(theirs.state_dict(), config))
    return theirs, ours


def kl_pair(config):
    theirs, ours = randomise(AutoencoderKL(**peer_shape(config))), KLAutoencoder(config).eval()
    ours.load_state_dict(published(theirs.state_dict(), config))
    return theirs, ours


def assert_same(found, expected):
    assert found.shape == expected.shape and expected.std() > 0.05
    assert (found - expected).norm() / expected.norm() < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("config", [*SHAPES.values(), NARROWED], ids=[*SHAPES, "narrowed"])
def test_vqgan_equals_diffusers_on_the_same_weights(config):
    x = pictures(config)
    theirs, ours = vq_pair(config, x)
    latents = theirs.encode(x).latents
    assert_same(ours.encode(x), latents)
    assert_same(ours.decode(latents), theirs.decode(latents).sample)
    assert_same(ours.decode_codes(latents), theirs.decode(latents, force_not_quantize=True).sample)
    reconstruction, quantized = ours(x)
    assert_same(reconstruction, theirs(x).sample)
    assert len(quantized.indices.unique()) > 20  # the codebook takes part


@torch.no_grad()
@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES)
def test_kl_autoencoder_equals_diffusers_on_the_same_weights(config):
    theirs, ours = kl_pair(config)
    x = pictures(config)
    posterior = theirs.encode(x).latent_dist
    mean, log_var = ours.posterior(x)
    assert_same(mean, posterior.mean)
    assert_same(log_var, posterior.logvar)
    assert_same(ours.encode(x), posterior.mode())
    assert_same(ours.decode(mean), theirs.decode(mean).sample)
    # Both draw one standard normal value a latent from torch's own generator.
    torch.manual_seed(3)
    expected = theirs(x, sample_posterior=True).sample
    torch.manual_seed(3)
    assert_same(ours(x)[0], expected)


@torch.no_grad()
def test_kl_term_is_the_divergence_from_a_standard_normal():
    config = SHAPES["no_attention"]
    net, x = randomise(KLAutoencoder(config)), pictures(config)
    mean, log_var = net.posterior(x)
    normal = torch.distributions.Normal(mean, log_var.mul(0.5).exp())
    expected = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).mean()
    torch.testing.assert_close(net(x)[1], expected)


@torch.no_grad()
def test_the_encoding_is_the_mode_of_the_posterior():
    config = SHAPES["no_attention"]
    net, x = randomise(KLAutoencoder(config)), pictures(config)
    mean, log_var = net.posterior(x)
    normal = torch.distributions.Normal(mean, log_var.mul(0.5).exp())
    latents = net.encode(x)
    for other in (latents + 0.01, latents - 0.01):
        assert (normal.log_prob(latents) > normal.log_prob(other)).all()


@torch.no_grad()
def test_variances_stay_in_float_range():
    """A posterior far out of range neither overflows nor becomes NaN."""
    config = SHAPES["no_attention"]
    net, x = randomise(KLAutoencoder(config)), pictures(config)
    for bias in (-1e4, 1e4):
        net.quant_conv.bias[config.embed_dim :] = bias
        reconstruction, kl = net(x)
        assert reconstruction.isfinite().all() and kl.isfinite()


def test_keys_are_those_of_the_published_vqgan():
    """The full-size default holds the names and shapes of vqgan_imagenet_f16 (1024 and 16384 codes)."""
    for n_embed in (1024, 16384):
        with torch.device("meta"):
            net = VQGAN(AutoencoderConfig(), CodebookConfig(n_embed))
        state = net.state_dict()
        expected = {
            "encoder.conv_in.weight": (128, 3, 3, 3),
            "encoder.down.0.block.0.norm1.weight": (128,),
            "encoder.down.0.downsample.conv.weight": (128, 128, 3, 3),
            "encoder.down.2.block.0.nin_shortcut.weight": (256, 128, 1, 1),
            "encoder.down.4.block.1.conv2.bias": (512,),
            "encoder.down.4.attn.0.norm.weight": (512,),
            "encoder.down.4.attn.1.proj_out.weight": (512, 512, 1, 1),
            "encoder.mid.block_1.conv1.weight": (512, 512, 3, 3),
            "encoder.mid.attn_1.q.weight": (512, 512, 1, 1),
            "encoder.norm_out.weight": (512,),
            "encoder.conv_out.weight": (256, 512, 3, 3),
            "quant_conv.weight": (256, 256, 1, 1),
            "quantize.embedding.weight": (n_embed, 256),
            "post_quant_conv.bias": (256,),
            "decoder.conv_in.weight": (512, 256, 3, 3),
            "decoder.mid.block_2.norm2.bias": (512,),
            "decoder.up.4.attn.2.v.weight": (512, 512, 1, 1),
            "decoder.up.4.upsample.conv.weight": (512, 512, 3, 3),
            "decoder.up.3.block.0.nin_shortcut.weight": (256, 512, 1, 1),
            "decoder.up.1.block.0.nin_shortcut.weight": (128, 256, 1, 1),
            "decoder.up.0.block.2.conv2.weight": (128, 128, 3, 3),
            "decoder.norm_out.bias": (128,),
            "decoder.conv_out.weight": (3, 128, 3, 3),
        }
        assert expected == {key: tuple(state[key].shape) for key in expected}
        absent = [
            "encoder.down.4.downsample.conv.weight", "encoder.down.3.attn.0.q.weight",
            "encoder.down.4.block.2.conv1.weight", "decoder.up.0.upsample.conv.weight",
            "decoder.up.4.block.3.conv1.weight", "encoder.down.1.block.0.nin_shortcut.weight",
        ]
        assert not [key for key in absent if key in state]
        assert net.config.factor == 16


def test_keys_are_those_of_stable_diffusion():
    """The peer's converter of published files takes our names and shapes for Stable Diffusion's autoencoder."""
    config = AutoencoderConfig(ch_mult=(1, 2, 4, 4), attention_levels=(), z_channels=4, embed_dim=4)
    with torch.device("meta"):
        ours = KLAutoencoder(config).state_dict()
        theirs = AutoencoderKL(**peer_shape(config))
    converted = convert_ldm_vae_checkpoint(dict(ours), theirs.config)
    expected = {key: value.shape for key, value in theirs.state_dict().items()}
    assert {key: value.shape for key, value in converted.items()} == expected
    assert len(ours) == len(expected)  # and holds nothing that the converter leaves out
    assert config.factor == 8


@torch.no_grad()
@pytest.mark.parametrize("patch, levels", [(2, (1, 2)), (4, (1, 2)), (3, (1,))])
def test_a_patch_stem_folds_pixels_away(patch, levels):
    config = AutoencoderConfig(**TINY | dict(patch=patch, ch_mult=levels))
    net = randomise(VQGAN(config, CODEBOOK))
    assert config.factor == patch * 2 ** (len(levels) - 1)
    x = pictures(config, 2, 4 * config.factor, 3 * config.factor)
    latents = net.encode(x)
    assert latents.shape == (2, config.embed_dim, 4, 3)
    assert net.decode(latents).shape == x.shape


@torch.no_grad()
def test_a_patch_stem_is_a_strided_convolution():
    """Space to depth and a 3x3 filter are one filter over 3x3 patches: an independent form of the same stem."""
    config = AutoencoderConfig(**TINY | dict(patch=2))
    encoder, x = randomise(VQGAN(config, CODEBOOK)).encoder, pictures(config)
    seen = []
    encoder.conv_in.register_forward_hook(lambda *call: seen.append(call[2]))
    encoder(x)
    weight = encoder.conv_in.weight.view(config.ch, 3, 2, 2, 3, 3)  # out, colour, row and column in the patch, filter
    wide = weight.permute(0, 1, 4, 2, 5, 3).reshape(config.ch, 3, 6, 6)
    expected = torch.nn.functional.conv2d(x, wide, encoder.conv_in.bias, stride=2, padding=2)
    torch.testing.assert_close(seen[0], expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("build", [lambda config: VQGAN(config, CODEBOOK), KLAutoencoder], ids=["vqgan", "kl"])
def test_a_batch_equals_its_singles(build):
    config = SHAPES["attention_at_the_last_level"]
    net, x = randomise(build(config)), pictures(config)
    latents = net.encode(x)
    torch.testing.assert_close(latents, torch.cat([net.encode(row[None]) for row in x]), rtol=1e-4, atol=1e-5)
    alone = torch.cat([net.decode(row[None]) for row in latents])
    torch.testing.assert_close(net.decode(latents), alone, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("l2_normalised", [False, True])
@pytest.mark.parametrize("patch", [1, 2])
def test_indices_decode_to_the_quantised_output(patch, l2_normalised):
    config = AutoencoderConfig(**TINY | dict(patch=patch))
    net = randomise(VQGAN(config, CodebookConfig(40, l2_normalised=l2_normalised)))
    x = pictures(config)
    spread_codes(net, net.encode(x))
    reconstruction, quantized = net(x)
    indices = net.quantize(net.encode(x)).indices
    assert torch.equal(indices, quantized.indices) and len(indices.unique()) > 20
    torch.testing.assert_close(net.decode_indices(indices), reconstruction, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(net.decode(net.encode(x)), reconstruction, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_latents_lie_where_the_codes_lie():
    config = SHAPES["no_attention"]
    net = randomise(VQGAN(config, CodebookConfig(40, l2_normalised=True)))
    lengths = net.encode(pictures(config)).norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones_like(lengths))


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_gradients_reach_every_parameter(ema_decay):
    config = SHAPES["attention_everywhere_in_grey"]
    net = randomise(VQGAN(config, CodebookConfig(40, ema_decay=ema_decay)))
    reconstruction, quantized = net(pictures(config))
    (reconstruction.square().mean() + quantized.loss).backward()
    # An EMA codebook learns without gradient; a bias of the keys shifts all scores of a query alike.
    missed = [key for key, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert [key for key in missed if not key.endswith(".k.bias")] == ["quantize.embedding.weight"] * bool(ema_decay)


@pytest.mark.parametrize("changes, words", [
    (dict(ch=0), "ch of an autoencoder is 0"),
    (dict(num_res_blocks=0), "num_res_blocks"),
    (dict(patch=0), "patch"),
    (dict(norm_groups=0), "norm_groups"),
    (dict(embed_dim=-4), "embed_dim"),
    (dict(ch_mult=()), "ch_mult"),
    (dict(ch_mult=(1, 0)), "ch_mult"),
    (dict(norm_groups=6), "16 channels do not divide into 6"),
    (dict(norm_groups=32, ch_mult=(2, 4)), "16 channels do not divide into 32"),
    (dict(attention_levels=(2,)), "between 0 and 1"),
    (dict(attention_levels=(-1,)), "between 0 and 1"),
    (dict(dropout=1.0), "dropout"),
    (dict(larger=-1), "larger"),
])
def test_a_config_that_cannot_be_built_is_refused(changes, words):
    with pytest.raises(BadRequest, match=words):
        AutoencoderConfig(**TINY | changes)


@pytest.mark.parametrize("changes, words", [
    (dict(n_embed=0), "n_embed"),
    (dict(beta=-0.1), "beta"),
    (dict(ema_decay=1.0), "ema_decay"),
    (dict(ema_decay=-0.5), "ema_decay"),
])
def test_a_codebook_that_cannot_learn_is_refused(changes, words):
    with pytest.raises(BadRequest, match=words):
        CodebookConfig(**changes)


def test_a_config_read_from_json_equals_the_one_written():
    assert AutoencoderConfig(**TINY | {"ch_mult": [1, 2], "attention_levels": []}) == SHAPES["no_attention"]
