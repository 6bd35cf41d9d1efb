"""Made bigger and drawn over: like picture to picture where one window is enough, and of one piece where not."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from engines import catalog, tensors
from engines.classical import METHODS
from engines.engine import Engine
from engines.errors import BadRequest, Cancelled
from engines.requests import GenerateRequest, RefineRequest, from_json
from engines.tasks.generate import generate
from engines.tasks.refine import refine
from tests import tiny
from tests.tiny import png


@pytest.fixture(scope="module", params=["nine channels", "four channels"])
def model(request):
    return tiny.latent_diffusion() if request.param == "nine channels" else tiny.four_channels()


def picture(width=96, height=64, mode="RGB"):
    return tiny.picture(width, height, mode)


def asked(image=None, **fields):
    return RefineRequest(**{"image": png(image or picture()), "prompt": "red disc", "steps": 4, "seed": 7} | fields)


def pixels(result, index=0):
    return np.asarray(result.pictures[index].image)


def by(model, request, **options):
    return refine(request, model, METHODS["lanczos"], **options)


def test_one_window_is_picture_to_picture(model, monkeypatch):
    monkeypatch.setattr(model, "config", dataclasses.replace(model.config, size=64))
    source = picture(64, 64)
    fields = {"prompt": "red disc", "steps": 5, "seed": 3, "count": 2, "image": png(source), "strength": 0.6}
    over = by(model, RefineRequest(**fields, scale=1))
    drawn = generate(GenerateRequest(**fields, width=64, height=64), model)
    for one, other in zip(over.pictures, drawn.pictures, strict=True):
        assert one.seed == other.seed
        np.testing.assert_array_equal(np.asarray(one.image), np.asarray(other.image))


@pytest.mark.parametrize(("size", "scale"), [((96, 64), 2.0), ((37, 23), 3.3), ((9, 70), 2.0), ((1, 1), 8.0)])
def test_the_size_is_as_asked_to_the_pixel(model, size, scale):
    made = by(model, asked(picture(*size), scale=scale)).pictures[0].image
    assert made.size == (round(size[0] * scale), round(size[1] * scale)) and made.mode == "RGB"


def test_pictures_of_a_batch_are_those_drawn_alone(model):
    together = by(model, asked(count=2, steps=3))
    alone = by(model, asked(seed=8, steps=3))
    assert np.abs(pixels(together, 1).astype(int) - pixels(alone)).max() <= 1
    assert (pixels(together) != pixels(together, 1)).any()


def test_more_strength_leaves_the_picture_further(model):
    x = tensors.from_image(picture().resize((192, 128), Image.Resampling.BICUBIC))
    plain = np.asarray(tensors.to_images(model.decode(model.encode(x)))[0], int)
    far = [np.abs(pixels(by(model, asked(strength=share, steps=50))) - plain).mean() for share in (0.05, 1.0)]
    assert far[0] < 0.8 * far[1]


def test_transparency_stays(model):
    source = np.array(picture(64, 64, "RGBA"))
    source[:, :32, 3], source[:, 32:, 3] = 0, 255
    found = pixels(by(model, asked(Image.fromarray(source))))
    assert found.shape == (128, 128, 4)
    assert (found[:, :56, 3] == 0).all() and (found[:, 72:, 3] == 255).all()


def test_progress_goes_to_its_end_and_stop_stops_in_both_halves(model):
    seen = []
    by(model, asked(strength=1.0), on_progress=seen.append)
    assert [(at.index, at.count) for at in seen] == [(1, 2), (5, 8), (6, 8), (7, 8), (8, 8)]  # then steps
    assert any(at.preview for at in seen)

    def stop_at(number):
        def told(progress):
            seen.append(progress)
            if len(seen) == number:
                raise Cancelled

        return told

    for number in (1, 3):
        seen.clear()
        with pytest.raises(Cancelled):
            by(model, asked(strength=1.0), on_progress=stop_at(number))
        assert len(seen) == number


def test_a_giant_is_refused_with_what_is_possible(model):
    with pytest.raises(BadRequest, match="1000 pixels times 5 are more than the 4096 a side.*at most 4 times"):
        by(model, asked(picture(1000, 10), scale=5))


def test_the_record_names_both_models_and_makes_the_same_again():
    engine = Engine(device="cpu")
    request = asked(model="icons-diffusion", upscaler="lanczos", prompt="cat face", steps=2)
    result = engine.run(request)
    record = result.pictures[0].record
    assert record["request"]["upscaler"] == "lanczos" and len(record["model_sha256"]) == 64
    assert record["upscaler_sha256"] == METHODS["lanczos"].sha256
    np.testing.assert_array_equal(pixels(engine.run(from_json(json.dumps(record["request"])))), pixels(result))
    with pytest.raises(BadRequest, match="“icons-tokens” cannot refine; choose one of: icons-diffusion"):
        engine.run(asked(model="icons-tokens"))
    assert [row.id for row in catalog.catalog().values() if "refine" in row.tasks] == ["icons-diffusion"]
