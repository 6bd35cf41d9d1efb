"""Another autoencoder in the place of a Stable Diffusion's own: the same latents through it, and so recorded."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from PIL import Image
from safetensors.torch import save_file

from engines import catalog, requests, tensors
from engines.checkpoints import files, models
from engines.engine import Engine
from engines.errors import BadRequest
from engines.requests import GenerateRequest, InpaintRequest, RefineRequest
from tests import tiny
from tests.engines.checkpoints.test_stable_diffusion import Parts, at_home, tokenizer_files  # noqa: F401
from tests.engines.vqgan.test_autoencoder import published
from tests.peers import randomise


def kl_peer(channels=4, levels=4, seed=7):
    widths = (32, 64, 64, 64)[:levels]
    return randomise(AutoencoderKL(
        block_out_channels=widths, layers_per_block=1, latent_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels,
    ), seed)  # fmt: skip


def taesd_peer(channels=4):
    widths = {f"{half}_block_out_channels": (8,) * 4 for half in ("encoder", "decoder")}
    return randomise(AutoencoderTiny(latent_channels=channels, **widths), 8)


PEERS = {
    "softer": kl_peer(),
    "tiny": taesd_peer(),
    "wide": kl_peer(channels=8),
    "wide-tiny": taesd_peer(16),
    "coarse": kl_peer(levels=3),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory, tokenizer_files):  # noqa: F811
    home = tmp_path_factory.mktemp("home")
    folder = at_home(Parts(1, 4, tokenizer_files), home, tokenizer_files)
    for name, net in PEERS.items():
        save_file(net.state_dict(), folder / f"{name}.safetensors")
    tiny.save(folder / "painter.safetensors", tiny.latent_diffusion())
    return home


@pytest.fixture(scope="module")
def engine(home):
    engine = Engine(home, "cpu")
    model = engine.load(catalog.find("sd", home=home))
    model.config = dataclasses.replace(model.config, size=64)  # of what it paints into, to be quick
    return engine


def asked(**fields):
    words = {"model": "sd", "prompt": "red fox", "steps": 2, "width": 64, "height": 64, "cfg_scale": 3.0, "seed": 4}
    return GenerateRequest(**words | fields)


def pixels(result):
    return np.asarray(result.pictures[0].image).astype(int)


@torch.no_grad()
@pytest.mark.parametrize("name", ["softer", "tiny"])
def test_it_makes_of_the_same_latents_what_the_peer_makes(home, engine, name, monkeypatch):
    model, decoded = engine.load(catalog.find("sd", home=home)), []
    decode = type(model.first_stage).decode
    monkeypatch.setattr(type(model.first_stage), "decode", lambda self, z: decoded.append(z) or decode(self, z))
    engine.run(asked())
    # TAESD decodes latents of unit spread, the others what the published scale makes of them
    latents = decoded[-1] * 0.18215 if name == "tiny" else decoded[-1]
    expected = np.asarray(tensors.to_images(PEERS[name].decode(latents).sample)[0]).astype(int)
    found = pixels(engine.run(asked(vae=name)))
    assert expected.std() > 5 and np.abs(found - expected).max() <= 1
    assert model.first_stage is engine.load(catalog.find("sd", home=home)).first_stage


@torch.no_grad()
@pytest.mark.parametrize("name", ["softer", "tiny"])
def test_a_picture_is_read_by_it_as_well(home, engine, name):
    picture = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    model = engine.load(catalog.find("sd", home=home)).drawing_with(engine.load(catalog.find(name, home=home)))
    read = PEERS[name].encode(picture)
    expected = read.latents if name == "tiny" else read.latent_dist.mode() * 0.18215
    assert (model.encode(picture) - expected).norm() / expected.norm() < 1e-4
    assert (model.decode(model.encode(picture)) - PEERS[name].decode(
        expected if name == "tiny" else expected / 0.18215
    ).sample).norm() < 1e-2  # fmt: skip


def test_the_record_names_it_and_makes_the_picture_again(home, engine):
    (picture,) = engine.run(asked(vae="tiny")).pictures
    record = json.loads(json.dumps(picture.record))
    assert record["request"]["vae"] == "tiny"
    assert record["vae_sha256"] == files.sha256(home / "models" / "tiny.safetensors")
    assert record["model_sha256"] == files.sha256(home / "models" / "sd.safetensors")
    again = Engine(home, "cpu").run(requests.from_json(json.dumps(record["request"]))).pictures[0]
    assert again.image.tobytes() == picture.image.tobytes() and again.record == picture.record
    own = engine.run(asked()).pictures[0]
    assert "vae_sha256" not in own.record and own.image.tobytes() != picture.image.tobytes()
    # by its path as by its name, and only where paths may be named
    path = str(home / "models" / "tiny.safetensors")
    assert engine.run(asked(vae=path)).pictures[0].record == picture.record
    with pytest.raises(BadRequest, match="no model called"):
        Engine(home, "cpu", paths=False).run(asked(vae=path))


def test_every_task_of_diffusion_draws_with_it(engine):
    source = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    mask = np.zeros((64, 64), np.uint8)
    mask[20:40, 20:40] = 255
    words = {"model": "sd", "prompt": "red fox", "steps": 4, "image": tiny.png(source)}
    for kind, fields in (
        (InpaintRequest, {"mask": tiny.png(Image.fromarray(mask)), "area": "whole", "feather": 0}),
        (RefineRequest, {"upscaler": "lanczos", "scale": 1.0, "strength": 0.5}),
        (GenerateRequest, {"width": 64, "height": 64, "strength": 0.5}),
    ):
        drawn = [engine.run(kind(vae=name, **words, **fields)) for name in ("", "tiny")]
        assert not np.array_equal(*map(pixels, drawn))
        assert drawn[1].record["vae_sha256"]
        if kind is InpaintRequest:
            assert np.array_equal(pixels(drawn[1])[mask == 0], np.asarray(source)[mask == 0])


def test_it_is_loaded_once(home, monkeypatch):
    seen, real = [], models.load
    monkeypatch.setattr(models, "load", lambda path, *parts: (seen.append(path.stem), real(path, *parts))[1])
    engine = Engine(home, "cpu", budget=10**10)
    for request in (asked(vae="tiny"), asked(), asked(vae="tiny", seed=1)):
        engine.run(request)
    engine.run(requests.ReconstructRequest(model="tiny", image=tiny.png(tiny.picture(32, 32))))
    assert seen == ["sd", "tiny"]
    assert engine._held() == sum(
        tensor.nbytes for model in engine._loaded.values() for tensor in model.state_dict().values()
    )


@pytest.mark.parametrize("fields", [
    {"vae": "wide"}, {"vae": "wide-tiny"}, {"vae": "coarse"}, {"vae": "icons-vqgan"}, {"vae": "sd"},
])  # fmt: skip
def test_one_that_does_not_fit_is_refused_with_those_that_do(engine, fields):
    with pytest.raises(BadRequest, match="“sd” cannot draw with “.*”; .*: its own, by an empty name, softer, tiny."):
        engine.run(asked(**fields))


def test_a_model_of_another_family_draws_with_its_own_alone(home, engine):
    with pytest.raises(BadRequest, match="“painter” cannot draw with “tiny”; choose one of: its own, by an empty name"):
        engine.run(tiny.request(model="painter", vae="tiny"))
    rows = catalog.catalog(home)
    assert [row.id for row in catalog.autoencoders_for(rows["sd"], home)] == ["softer", "tiny"]
    assert catalog.autoencoders_for(rows["painter"], home) == []


@pytest.mark.parametrize("layout", ["diffusers", "published", "taken out"])
def test_an_autoencoder_alone_is_known_in_every_layout(tmp_path, layout):
    net = PEERS["softer"]
    state = net.state_dict()
    if layout != "diffusers":
        state = published(state, type("Shape", (), {"ch_mult": (1, 2, 2, 2)}))
    if layout == "taken out":
        state = {f"first_stage_model.{name}": value for name, value in state.items()}
    path = tmp_path / "vae.safetensors"
    save_file({name: value.contiguous() for name, value in state.items()}, path)
    assert catalog.read(path).family == "kl"
    x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        expected = net.encode(x).latent_dist.mode()
        assert (models.load(path).encode(x) - expected).norm() / expected.norm() < 1e-4


def test_the_autoencoder_within_an_unknown_model_is_none_alone(tmp_path):
    state = {f"first_stage_model.{name}": value for name, value in PEERS["softer"].state_dict().items()}
    for other in (state | {"model.something": torch.zeros(1)}, {}):  # and nothing at all
        save_file(other, tmp_path / "unknown.safetensors")
        with pytest.raises(BadRequest, match="no model of a known family"):
            catalog.read(tmp_path / "unknown.safetensors")
