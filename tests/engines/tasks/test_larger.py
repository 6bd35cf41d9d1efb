"""Models whose VQGAN has a second head draw pictures of twice the sides that they learned, and see no more of them."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file

from engines import catalog
from engines.checkpoints import files, models
from engines.engine import Engine
from engines.errors import BadRequest
from engines.requests import GenerateRequest, suited
from engines.tasks.drawing import of_size
from engines.tasks.generate import generate
from engines.vqgan.autoencoder import KLAutoencoder, Larger
from tests import tiny
from tests.tiny import png, request

MODELS = {
    "diffusion": (tiny.latent_diffusion, {}),
    "few steps": (lambda: tiny.few_steps().drawing(), {"steps": 4, "cfg_scale": 4.0}),
    "tokens": (tiny.token_generator, {}),
}


@pytest.fixture(params=MODELS)
def made(request):
    """A model that learned pictures of 32 pixels, its VQGAN with a second head, and what it is asked."""
    make, fields = MODELS[request.param]
    model = make()
    model.first_stage = tiny.two_headed()
    return model, fields


def picture(model, side, **fields):
    return np.asarray(generate(request(width=side, height=side, **fields), model).pictures[0].image)


def test_twice_the_size_is_the_same_picture_by_the_second_head(made, monkeypatch):
    """With a head that repeats the pixels of the first one, the larger picture is the smaller one, repeated."""
    model, fields = made
    small = model.first_stage.config.factor * 16
    monkeypatch.setattr(type(model), "size", small)
    drawn = picture(model, small, **fields)
    forward = type(model.first_stage.decoder).forward
    monkeypatch.setattr(
        type(model.first_stage.decoder), "forward",
        lambda self, z, larger=False: F.interpolate(forward(self, z), scale_factor=2.0 if larger else 1.0),
    )  # fmt: skip
    assert np.array_equal(picture(model, 2 * small, **fields), drawn.repeat(2, 0).repeat(2, 1))


def test_the_second_head_draws_what_the_net_would_otherwise_repeat(made):
    model, _ = made
    for size in ((32, 32), (32, 48)):
        assert of_size(model, *size) == (model, "")
    for size in ((64, 64), (128, 128), (32, 64)):
        larger, note = of_size(model, *size)
        assert not note and isinstance(larger.first_stage, Larger) and not isinstance(model.first_stage, Larger)
        assert larger.size_multiple == 2 * model.size_multiple
    between, note = of_size(model, 64 + model.size_multiple, 64)
    assert between is model and f"multiples of {2 * model.size_multiple} pixels" in note


def test_one_head_draws_all_sizes():
    model = tiny.latent_diffusion()
    assert of_size(model, 128, 128) == (model, "")


def test_a_picture_to_start_from_is_seen_at_half_its_sides():
    larger, x = Larger(tiny.two_headed()), torch.rand(2, 3, 32, 32) * 2 - 1
    assert torch.equal(larger.encode(x), larger.stage.encode(F.avg_pool2d(x, 2)))
    assert larger.decode(larger.encode(x)).shape == x.shape
    indices = larger.quantize(larger.encode(x)).indices
    torch.testing.assert_close(larger.decode(larger.encode(x)), larger.decode_indices(indices))


def test_the_second_head_is_of_its_own_weights():
    stage = tiny.two_headed()
    latents = stage.encode(torch.rand(1, 3, 32, 32) * 2 - 1)
    before, small = stage.decode(latents, larger=True), stage.decode(latents)
    stage.decoder.larger.conv_out.bias += 0.5
    assert torch.equal(stage.decode(latents), small)
    torch.testing.assert_close(stage.decode(latents, larger=True), before + 0.5)


def test_a_picture_is_drawn_from_another_one(made):
    model, fields = made
    x = Image.new("RGB", (64, 64))
    x.paste("white", (16, 16, 48, 48))
    assert picture(model, 64, image=png(x), strength=0.5, **fields).shape == (64, 64, 3)


def test_the_catalog_tells_the_size_that_two_heads_draw_best(tmp_path):
    model = tiny.few_steps()
    model.base.first_stage = tiny.two_headed()
    tiny.save(tmp_path / "models" / "quick.safetensors", model)
    rows = catalog.catalog(tmp_path)
    assert (rows["mirror"].larger, rows["walker"].size, rows["quick"].size) == (True, 64, 64)
    assert catalog.find("quick", home=tmp_path).size == 64
    loaded = Engine(tmp_path, "cpu").load(rows["quick"])
    assert loaded.size == 32 and of_size(loaded, 64, 64)[0] is not loaded
    assert catalog.find(str(rows["quick"].path), home=tmp_path).size == 64  # by its path as well


def test_the_catalog_doubles_no_size_for_a_namesake_of_two_heads(tmp_path):
    painter = tmp_path / "models" / "one" / "painter.safetensors"
    painter.parent.mkdir(parents=True)
    tiny.save(painter, tiny.latent_diffusion())
    painter.with_name("mirror.safetensors").rename(tmp_path / "models" / "one" / "other.safetensors")
    models.save(tmp_path / "models" / "mirror.safetensors", tiny.two_headed(), {})
    assert catalog.catalog(tmp_path)["painter"].size == 32


@pytest.mark.parametrize("shape", [None, [1], {}, {"autoencoder": None}, {"autoencoder": {"larger": "x"}}])
def test_a_vqgan_that_does_not_say_what_it_is_has_one_head(tmp_path, shape):
    path = tmp_path / "models" / "mirror.safetensors"
    models.save(path, tiny.vqgan(), {})
    files.save(path, load_file(path), files.read_header(path)[1] | {"config": shape})
    assert not catalog.catalog(tmp_path)["mirror"].larger


def test_the_second_head_is_a_vqgans():
    with pytest.raises(BadRequest, match="codes of a VQGAN"):
        KLAutoencoder(tiny.two_headed().config)


def test_a_size_that_is_left_open_is_that_of_the_model():
    asked = {"prompt": "red disc", "steps": 7, "width": None, "height": 96}
    found = suited("latent-diffusion", asked, 256)
    assert (found["width"], found["height"], found["steps"]) == (256, 96, 7)
    for size in (0, 32, 100, 4096):  # unknown, or none that can be asked for
        assert suited("latent-diffusion", asked, size)["width"] == GenerateRequest.width
