"""Enlarging: to the pixel, without seams, whatever the size, the tile and the transparency."""

import json

import numpy as np
import pytest
from PIL import Image

from engines import catalog, enhancement
from engines.classical import METHODS
from engines.engine import Engine
from engines.errors import BadRequest, Cancelled
from engines.requests import AdjustRequest, SpotRequest, UpscaleRequest, from_json
from engines.tasks import upscale as module
from engines.tasks.adjust import adjust
from engines.tasks.upscale import spot, upscale
from tests import tiny
from tests.tiny import png


def picture(width=70, height=45, mode="RGB"):
    return tiny.picture(width, height, mode)


def asked(image=None, **fields):
    return UpscaleRequest(image=png(image or picture()), **fields)


def pixels(result):
    return np.asarray(result.pictures[0].image)


@pytest.fixture(scope="module")
def models():
    return {"upscaler": tiny.upscaler(), "lanczos": METHODS["lanczos"]}


@pytest.mark.parametrize("fields", [{}, {"scale": 4, "denoise": 0.5}, {"detail": 1, "looks": 3}, {"scale": 8}])
def test_tiles_are_as_of_the_whole_picture(models, fields):
    whole = pixels(upscale(asked(**fields, tile=1024), models["upscaler"])).astype(int)
    tiled = pixels(upscale(asked(**fields, tile=32), models["upscaler"]))
    assert np.abs(tiled - whole).max() <= 1  # of rounding


@pytest.mark.parametrize("name", ["upscaler", "lanczos"])
@pytest.mark.parametrize("scale", [1, 1.3, 2, 3, 4, 5.5, 8])
def test_the_size_is_as_asked_to_the_pixel(models, name, scale):
    result = upscale(asked(picture(37, 23), scale=scale), models[name])
    assert result.pictures[0].image.size == (round(37 * scale), round(23 * scale))


@pytest.mark.parametrize("name", ["upscaler", "lanczos"])
@pytest.mark.parametrize("size", [(1, 1), (1, 700), (700, 3), (33, 31)])
def test_odd_pictures_are_enlarged(models, name, size):
    assert upscale(asked(picture(*size), tile=32), models[name]).pictures[0].image.size == (2 * size[0], 2 * size[1])


@pytest.mark.parametrize("name", ["upscaler", "lanczos"])
def test_transparency_stays_and_hidden_colours_do_not_show(models, name):
    source = np.full((40, 40, 4), (200, 40, 40, 255), np.uint8)
    source[:, 20:] = (0, 255, 0, 0)  # green that nobody sees
    found = pixels(upscale(asked(Image.fromarray(source)), models[name]))
    assert found.shape == (80, 80, 4)
    assert (found[:, :36, 3] == 255).all() and (found[:, 44:, 3] == 0).all()
    even = np.zeros_like(source)
    even[...] = (200, 40, 40, 255)
    expected = pixels(upscale(asked(Image.fromarray(even[..., :3])), models[name])).astype(int)
    assert np.abs(found[:, 30:50, :3] - expected[:, 30:50]).max() <= 2


def test_a_picture_of_the_same_size_is_cleaned_up_where_that_is_asked(models):
    source = np.asarray(picture())
    np.testing.assert_array_equal(pixels(upscale(asked(scale=1), models["upscaler"])), source)
    cleaned = pixels(upscale(asked(scale=1, denoise=0.5), models["upscaler"]))
    assert cleaned.shape == source.shape and not np.array_equal(cleaned, source)


def test_an_enlargement_by_a_filter_invents_nothing(models):
    source = picture()
    result = upscale(asked(source, scale=3), models["lanczos"])
    back = np.asarray(result.pictures[0].image.resize(source.size, Image.Resampling.BOX), int)
    assert np.abs(back - np.asarray(source)).mean() < 2


def test_seed_wear_and_detail_matter_and_the_same_is_made_again(models):
    plain = pixels(upscale(asked(), models["upscaler"]))
    # without detail nothing is invented, and neither seed nor looks count
    np.testing.assert_array_equal(plain, pixels(upscale(asked(seed=5, looks=8), models["upscaler"])))
    inventive = pixels(upscale(asked(detail=1), models["upscaler"]))
    np.testing.assert_array_equal(inventive, pixels(upscale(asked(detail=1), models["upscaler"])))
    for change in ({"detail": 1, "seed": 5}, {"detail": 0.4}, {"detail": 1, "looks": 2}, {"denoise": 0.6}):
        assert not np.array_equal(inventive, pixels(upscale(asked(**change), models["upscaler"]))), change


CLEANED = {"artefacts": 0.5, "balance": 0.7, "fading": 0.4, "levels": 0.3, "vividness": 0.4, "contrast": 0.6}


def test_the_picture_is_cleaned_up_before_and_sharpened_after(models):
    source = picture()
    by_hand = adjust(AdjustRequest(image=png(source), **CLEANED)).pictures[0].image
    larger = np.asarray(upscale(asked(by_hand), models["upscaler"]).pictures[0].image)
    expected = enhancement.sharpened(larger, 0.5)
    np.testing.assert_array_equal(pixels(upscale(asked(**CLEANED, sharpness=0.5), models["upscaler"])), expected)


@pytest.mark.parametrize("name", ["upscaler", "lanczos"])
@pytest.mark.parametrize(
    "fields",
    [{}, {"scale": 4, "denoise": 0.5}, {"detail": 1, "looks": 3}, {"scale": 8, "detail": 0.5},
     CLEANED | {"sharpness": 1}],
)  # fmt: skip
@pytest.mark.parametrize(("left", "top"), [(0, 0), (70, 40), (90, 33), (500, 500)])
def test_a_spot_is_as_of_the_whole_picture(models, name, fields, left, top):
    source = picture(190, 130)
    whole = pixels(upscale(asked(source, **fields), models[name])).astype(int)
    near = SpotRequest(image=png(source), **fields, left=left, top=top, side=40)
    found = pixels(spot(near, models[name]))
    scale, left, top = int(near.scale), min(left, 150), min(top, 90)
    there = whole[top * scale : (top + 40) * scale, left * scale : (left + 40) * scale]
    assert found.shape == there.shape
    assert np.abs(found - there).max() <= 1  # of rounding


def test_a_spot_of_a_small_picture_or_of_a_part_of_a_pixel_is_cut_to_it(models):
    source = png(picture(30, 20))
    assert spot(SpotRequest(image=source), models["upscaler"]).pictures[0].image.size == (60, 40)
    near = SpotRequest(image=source, scale=1.7, left=5, top=3, side=10)
    assert spot(near, models["upscaler"]).pictures[0].image.size == (17, 17)


def test_progress_counts_tiles_of_all_passes_and_stop_stops_within_one(models):
    seen = []
    upscale(asked(scale=8, tile=32), models["upscaler"], on_progress=seen.append)
    tiles = 3 * 2 + 9 * 6  # 70x45 by 4, then 280x180 by 2
    assert [(at.index, at.count) for at in seen] == [(number, tiles) for number in range(1, tiles + 1)]

    def stop(progress):
        assert progress.index == 1
        raise Cancelled

    with pytest.raises(Cancelled):
        upscale(asked(tile=32), models["upscaler"], on_progress=stop)


def test_a_giant_is_refused_with_what_is_possible(models, monkeypatch):
    monkeypatch.setattr(module, "MAX_SIDE", 200)
    with pytest.raises(BadRequest, match="70x45 pixels times 4 are 280x180; up to 200 a side.*at most 2.8 times"):
        upscale(asked(scale=4), models["upscaler"])
    assert upscale(asked(scale=2.8), models["upscaler"]).pictures[0].image.size == (196, 126)


def test_the_engine_enlarges_with_every_model_that_can_and_remakes_the_same():
    engine = Engine(device="cpu")
    able = [row.id for row in catalog.catalog().values() if "upscale" in row.tasks]
    assert "lanczos" in able
    for name in able:
        first = engine.run(asked(model=name, detail=0.5, contrast=0.5, sharpness=0.3))
        again = engine.run(from_json(json.dumps(first.pictures[0].record["request"])))
        assert np.array_equal(pixels(first), pixels(again))
        assert first.pictures[0].record["request"]["model"] == name
