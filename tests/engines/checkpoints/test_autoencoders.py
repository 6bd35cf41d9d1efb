"""Autoencoders of other programs: found by what is in the file, loaded strictly, and equal to the peer's."""

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, VQModel
from PIL import Image
from safetensors.torch import save_file
from torch.nn.functional import one_hot

from engines import catalog
from engines.checkpoints import files, models
from engines.engine import Engine
from engines.errors import BadCheckpoint
from engines.requests import CodebookRequest, ReconstructRequest
from engines.vqgan.autoencoder import AutoencoderConfig
from engines.vqgan.tiny import TinyAutoencoderConfig
from tests import tiny
from tests.engines.vqgan.test_autoencoder import assert_same, peer_shape, pictures, published, spread_codes
from tests.peers import randomise
from tests.tiny import png

# every group norm of 32, as published; widths, levels, attention and narrowing as they come
SHAPES = {
    "taming f16": AutoencoderConfig(
        ch=32, ch_mult=(1, 1, 2, 2, 4), num_res_blocks=2, attention_levels=(4,), z_channels=8, embed_dim=8
    ),
    "latent-diffusion f4": AutoencoderConfig(
        ch=32, ch_mult=(1, 2, 4), num_res_blocks=2, attention_levels=(), z_channels=3, embed_dim=3
    ),
    "latent-diffusion f8": AutoencoderConfig(
        ch=32, ch_mult=(1, 2, 2, 4), num_res_blocks=2, attention_levels=(3,), z_channels=4, embed_dim=4
    ),
    "one block a level": AutoencoderConfig(
        ch=64, ch_mult=(1, 2), num_res_blocks=1, attention_levels=(0, 1), z_channels=4, embed_dim=4
    ),
}


def peer(kind, config, x):
    if kind == "kl":
        return randomise(AutoencoderKL(**peer_shape(config)))
    net = randomise(VQModel(**peer_shape(config), num_vq_embeddings=40, vq_embed_dim=config.embed_dim))
    spread_codes(net, net.encode(x).latents)
    return net


def written(path, state):
    path.parent.mkdir(exist_ok=True)
    save_file({name: value.contiguous() for name, value in state.items()}, path)
    return path


LAYOUTS = {  # how programs write the same weights
    "diffusers": lambda net, config: net.state_dict(),
    "latent-diffusion": lambda net, config: published(net.state_dict(), config),
    "with its training": lambda net, config: published(net.state_dict(), config)
    | {"loss.discriminator.main.0.weight": torch.zeros(4, 3, 4, 4), "model_ema.decay": torch.zeros(())},
}


@torch.no_grad()
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("kind", ["vqgan", "kl"])
def test_it_is_found_by_its_content_and_equals_the_peer(tmp_path, kind, config, layout):
    x = pictures(config, 2, 32, 48)
    theirs = peer(kind, config, x)
    path = written(tmp_path / "as-it-came.safetensors", LAYOUTS[layout](theirs, config))
    row = catalog.read(path)
    assert (row.id, row.family, row.tasks) == ("as-it-came", kind, ("reconstruct",))
    ours = models.load(path)
    assert ours.config == config
    if kind == "kl":
        latents = theirs.encode(x).latent_dist.mode()
    else:
        latents = theirs.encode(x).latents
        assert len(ours.quantize(latents).indices.unique()) > 10
    assert_same(ours.encode(x), latents)
    assert_same(ours.decode(latents), theirs.decode(latents).sample)


@torch.no_grad()
def test_older_names_of_attention_and_half_precision_are_read(tmp_path):
    config = SHAPES["latent-diffusion f8"]
    theirs = peer("kl", config, None)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = {}
    for name, value in theirs.half().state_dict().items():
        for new, older in old.items():
            name = name.replace(f".{new}.", f".{older}.")
        state[name] = value
    folder = tmp_path / "models" / "vae"
    folder.mkdir(parents=True)
    path = written(folder / "diffusion_pytorch_model.safetensors", state)
    ours, x = models.load(path), pictures(config, 1, 32, 32)
    assert ours.name == "vae" and {value.dtype for value in ours.state_dict().values()} == {torch.float32}
    assert_same(ours.encode(x), theirs.float().encode(x).latent_dist.mode())
    result = Engine(tmp_path, device="cpu").run(
        ReconstructRequest(model="vae", image=png(Image.linear_gradient("L").convert("RGB").resize((64, 64))))
    )
    assert result.reconstruction.size == (64, 64) and result.indices is None


@pytest.mark.parametrize("layout", ["diffusers", "latent-diffusion"])
def test_what_is_missing_or_strange_is_named_as_the_file_calls_it(tmp_path, layout):
    config = SHAPES["one block a level"]
    state = LAYOUTS[layout](peer("kl", config, None), config)
    lost = next(name for name in state if name.startswith("decoder.conv_out"))
    path = written(tmp_path / "cut.safetensors", {name: value for name, value in state.items() if name != lost})
    with pytest.raises(BadCheckpoint, match=f"{lost} is missing"):
        models.load(path)
    path = written(tmp_path / "more.safetensors", state | {"encoder.something": torch.zeros(3)})
    with pytest.raises(BadCheckpoint, match="encoder.something is not part of the model"):
        models.load(path)
    wrong = next(name for name in state if name.endswith("conv2.weight"))
    path = written(tmp_path / "odd.safetensors", state | {wrong: torch.zeros(64, 64, 1, 3)})
    with pytest.raises(BadCheckpoint, match=f"{wrong} has shape"):
        models.load(path)


# ---------------------------------------------------------------- Gumbel


@torch.no_grad()
def test_a_gumbel_vqgan_takes_the_code_of_the_highest_logit(tmp_path):
    torch.manual_seed(0)
    config = SHAPES["latent-diffusion f8"]
    net, x = randomise(AutoencoderKL(**peer_shape(config), use_quant_conv=False)), pictures(config, 2, 32, 48)
    # taming-transformers' GumbelVQ: the encoder gives the latents themselves, not a mean and a variance
    net.encoder.conv_out = torch.nn.Conv2d(net.encoder.conv_out.in_channels, config.z_channels, 3, padding=1)
    before, after = (torch.nn.Conv2d(config.z_channels, config.embed_dim, 1) for _ in range(2))
    proj, embed = torch.nn.Conv2d(config.embed_dim, 40, 1), torch.randn(40, config.embed_dim)
    z = before(net.encoder(x))
    proj.weight.normal_()
    proj.bias.copy_(-(proj.weight[:, :, 0, 0] @ z.mean((0, 2, 3))))  # so that no code is above the others everywhere
    state = published(net.state_dict(), config) | {
        "quantize.embed.weight": embed, "quantize.proj.weight": proj.weight, "quantize.proj.bias": proj.bias,
        **{f"{name}.{kind}": getattr(layer, kind) for name, layer in
           (("quant_conv", before), ("post_quant_conv", after)) for kind in ("weight", "bias")},
        "loss.discriminator.main.0.weight": torch.zeros(4, 3, 4, 4),
    }  # fmt: skip
    path = written(tmp_path / "models" / "gumbel.safetensors", state)
    indices = proj(z).argmax(1)
    expected = net.decoder(after(torch.einsum("bnhw,nd->bdhw", one_hot(indices, 40).movedim(3, 1).float(), embed)))
    ours = models.load(path)
    assert (catalog.read(path).family, ours.codebook_config.n_embed) == ("vqgan", 40)
    assert_same(ours.encode(x), z)
    assert torch.equal(ours.quantize(ours.encode(x)).indices, indices) and len(indices.unique()) > 5
    assert_same(ours.decode(ours.encode(x)), expected)
    assert_same(ours.decode_indices(indices), expected)
    # saved again, and its tokens opened again, it is the same
    models.save(tmp_path / "models" / "again.safetensors", ours, {})
    assert models.load(tmp_path / "models" / "again.safetensors").codebook_config == ours.codebook_config
    engine = Engine(tmp_path, device="cpu")
    first = engine.run(ReconstructRequest(model="gumbel", image=png(tiny.picture(64, 48))))
    again = engine.run(ReconstructRequest(model="gumbel", tokens=first.tokens))
    assert first.n_embed == 40 and again.reconstruction.tobytes() == first.reconstruction.tobytes()
    assert engine.run(CodebookRequest(model="gumbel")).sheet.size == (64 * 8, 8)


# ---------------------------------------------------------------- TAESD


TINY = {
    "taesd": TinyAutoencoderConfig(ch=16),
    "taesd3": TinyAutoencoderConfig(ch=16, embed_dim=16),
    "two levels": TinyAutoencoderConfig(ch=8, blocks=(2, 1)),
}


def tiny_peer(config):
    net = AutoencoderTiny(
        encoder_block_out_channels=(config.ch,) * len(config.blocks), num_encoder_blocks=config.blocks,
        decoder_block_out_channels=(config.ch,) * len(config.blocks), num_decoder_blocks=config.blocks[::-1],
        latent_channels=config.embed_dim,
    )  # fmt: skip
    return randomise(net)


def halves(net):
    """The encoder and the decoder as they were first published: numbered, the decoder after its bound."""
    found = {"encoder": {}, "decoder": {}}
    for name, value in net.state_dict().items():
        half, _, number, rest = name.split(".", 3)
        found[half][f"{int(number) + (half == 'decoder')}.{rest}"] = value
    return found


def written_halves(folder, net, before="taesd_"):
    for half, state in halves(net).items():
        written(folder / f"{before}{half}.safetensors", state)
    return folder / f"{before}decoder.safetensors"


@torch.no_grad()
@pytest.mark.parametrize("layout", ["diffusers", "halves", "ours"])
@pytest.mark.parametrize("config", TINY.values(), ids=TINY)
def test_a_tiny_one_is_found_by_its_content_and_equals_the_peer(tmp_path, config, layout):
    theirs, x = tiny_peer(config), pictures(SHAPES["taming f16"], 2, 32, 48)
    if layout == "halves":
        path = written_halves(tmp_path, theirs)
    else:
        path = written(tmp_path / "as-it-came.safetensors", theirs.state_dict())
    if layout == "ours":  # written again by us, in half precision
        theirs = theirs.half().float()
        models.save(tmp_path / "saved.safetensors", models.load(path), {"licence": "MIT"})
        path = tmp_path / "saved.safetensors"
    row, ours = catalog.read(path), models.load(path)
    assert (row.id, row.family, row.tasks) == (path.stem, "taesd", ("reconstruct",))
    assert ours.config == config and ours.config.factor == 2 ** (len(config.blocks) - 1)
    latents = theirs.encode(x).latents
    assert_same(ours.encode(x), latents)
    assert_same(ours.decode(latents), theirs.decode(latents).sample)
    assert_same(ours(x), theirs.decode(latents).sample)


def test_the_halves_of_a_tiny_one_are_one_model(tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    path, theirs = written_halves(folder, tiny_peer(TINY["taesd"])), tiny_peer(TINY["taesd"])
    encoder = folder / "taesd_encoder.safetensors"
    rows = catalog.catalog(tmp_path)
    assert "taesd_encoder" not in rows and rows["taesd_decoder"].bytes == path.stat().st_size + encoder.stat().st_size
    engine = Engine(tmp_path, device="cpu")
    asked = ReconstructRequest(
        model="taesd_decoder", image=png(Image.linear_gradient("L").convert("RGB").resize((64, 48)))
    )
    first = engine.run(asked)
    assert first.reconstruction.size == (64, 48) and first.indices is None
    # another encoder is another model, and is taken up at once
    with torch.no_grad():
        theirs.encoder.layers[0].weight *= 2
    written(encoder, halves(theirs)["encoder"])
    second = engine.run(asked)
    assert second.record["model_sha256"] != first.record["model_sha256"]
    assert second.reconstruction.tobytes() != first.reconstruction.tobytes()


def test_half_a_tiny_one_says_what_is_missing(tmp_path, caplog):
    (tmp_path / "models").mkdir()
    path = written_halves(tmp_path / "models", tiny_peer(TINY["taesd"]))
    encoder = path.with_name("taesd_encoder.safetensors")
    with pytest.raises(BadCheckpoint, match="name the file of its decoder"):
        catalog.read(encoder)
    assert catalog.catalog(tmp_path)["taesd_decoder"] and not caplog.text
    # a half of another width
    written(encoder, halves(tiny_peer(TINY["two levels"]))["encoder"])
    with pytest.raises(BadCheckpoint, match="taesd_encoder.safetensors does not fit its model: "):
        models.load(path)
    written(encoder, {"conv.weight": torch.zeros(2, 2)})
    with pytest.raises(BadCheckpoint, match="taesd_encoder.safetensors is no encoder of a tiny autoencoder"):
        models.load(path)
    encoder.unlink()
    with pytest.raises(BadCheckpoint, match="taesd_decoder.safetensors is the decoder .* alone; put its enc"):
        models.load(path)
    assert "taesd_decoder" not in catalog.catalog(tmp_path) and "put its encoder beside it" in caplog.text


def test_the_hash_of_two_files_is_of_both(tmp_path):
    one, other = (written(tmp_path / f"{i}.safetensors", {"a": torch.full((2,), float(i))}) for i in range(2))
    found = {files.sha256(one), files.sha256(one, other), files.sha256(other, one), files.sha256(other)}
    assert len(found) == 4
