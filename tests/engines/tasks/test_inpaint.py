"""Painting under a mask: nothing else changes, whatever the model, the mask and the picture."""


import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from engines import catalog, masks, tensors
from engines.classical import METHODS
from engines.engine import Engine
from engines.errors import BadPicture, BadRequest, Cancelled
from engines.requests import AREAS, SAMPLERS, InpaintRequest, alone
from engines.tasks.inpaint import inpaint
from tests import tiny
from tests.tiny import png

CLASSICAL = ("telea", "navier-stokes")
MODELS = {
    "diffusion": tiny.latent_diffusion,
    "four channels": tiny.four_channels,
    "tokens": tiny.token_generator,
    **{name: lambda name=name: METHODS[name] for name in CLASSICAL},
}


@pytest.fixture(scope="module")
def models():
    return {name: make() for name, make in MODELS.items()}


def photograph(width=100, height=70, mode="RGB"):
    return tiny.picture(width, height, mode)


def blot(width=100, height=70, value=255):
    mask = np.zeros((height, width), np.uint8)
    mask[20:45, 30:60] = value
    return Image.fromarray(mask)


def asked(image=None, mask=None, **fields):
    image, mask = image or photograph(), mask or blot()
    fields = {"image": png(image), "mask": png(mask), "prompt": "red disc", "steps": 3, "seed": 7} | fields
    return InpaintRequest(**fields)


def pixels(result, index=0):
    return np.asarray(result.pictures[index].image)


# ---------------------------------------------------------------- nothing else changes


@pytest.mark.parametrize("area", AREAS)
@pytest.mark.parametrize("name", MODELS)
def test_outside_of_the_feathered_mask_every_bit_is_the_source(models, name, area):
    source = np.asarray(photograph())
    result = inpaint(asked(area=area, feather=3, margin=0.1), models[name])
    soft = masks.feather(np.asarray(blot()), 3)
    found = pixels(result)
    np.testing.assert_array_equal(found[soft == 0], source[soft == 0])
    assert (found[soft == 1] != source[soft == 1]).any(1).mean() > 0.5
    assert result.changed == 0


@pytest.mark.parametrize("name", MODELS)
def test_transparency_stays_and_what_is_painted_is_opaque(models, name):
    source = photograph(mode="RGBA")
    found = pixels(inpaint(asked(source, feather=0), models[name]))
    inside = np.asarray(blot()) > 0
    np.testing.assert_array_equal(found[~inside], np.asarray(source)[~inside])
    assert (found[inside][:, 3] == 255).all()


@pytest.mark.parametrize("name", MODELS)
def test_new_space_is_painted_and_the_picture_stays(models, name):
    source = photograph()
    result = inpaint(asked(source, mask=None, left=20, bottom=33, feather=0), models[name])
    unmasked = inpaint(
        InpaintRequest(image=png(source), prompt="red disc", steps=3, left=20, bottom=33, feather=0), models[name]
    )
    assert pixels(result).shape == pixels(unmasked).shape == (103, 120, 3)
    np.testing.assert_array_equal(pixels(unmasked)[:70, 20:], np.asarray(source))
    assert unmasked.changed == 0


# ---------------------------------------------------------------- what is painted


def test_an_even_picture_is_restored_by_the_classical_methods(models):
    for name in CLASSICAL:
        found = pixels(inpaint(asked(Image.new("RGB", (100, 70), (90, 140, 30))), models[name]))
        assert np.abs(found.astype(int) - (90, 140, 30)).max() <= 3  # of OpenCV's own


@pytest.mark.parametrize("name", ["diffusion", "four channels", "tokens"])
def test_a_batch_equals_its_singles_and_a_seed_its_picture(models, name):
    many = asked(count=3)
    together = inpaint(many, models[name])
    assert [picture.seed for picture in together.pictures] == [7, 8, 9]
    assert not np.array_equal(pixels(together, 0), pixels(together, 1))
    for index in range(3):
        single = pixels(inpaint(alone(many, index), models[name]))
        # as in drawing: a code at a border may flip
        assert np.mean(np.abs(pixels(together, index).astype(int) - single) > 2) < 0.01


@pytest.mark.parametrize("name", ["diffusion", "four channels", "tokens"])
def test_words_strength_and_margin_matter(models, name):
    plain = pixels(inpaint(asked(), models[name]))
    np.testing.assert_array_equal(plain, pixels(inpaint(asked(), models[name])))
    for change in (
        {"prompt": "蓝"}, {"strength": 0.4}, {"area": "whole"}, {"match": "none"}, {"feather": 9}, {"seed": 8},
    ):  # fmt: skip
        assert not np.array_equal(plain, pixels(inpaint(asked(**change), models[name]))), change


@pytest.mark.parametrize("change", [{"strength": 0.25}, {"mask": blot(value=64)}, {}])
def test_strength_and_the_masks_own_are_the_share_of_tokens_drawn_anew(models, change, monkeypatch):
    model, seen = models["tokens"], []
    decode = model.decode
    monkeypatch.setattr(model, "decode", lambda tokens: seen.append(tokens) or decode(tokens))
    with torch.no_grad():
        place = (20, 15, 52, 47)  # of the size that the model works at
        crop = photograph().crop(place)
        before = model.encode(tensors.from_image(crop))
    mask = change.get("mask", blot()).crop(place)
    fields = {"begin": "picture", "area": "whole", "steps": 1, "strength": change.get("strength", 1.0)}
    inpaint(asked(crop, mask, **fields), model)
    different = (seen[-1] != before)[0].numpy()
    hole = np.asarray(mask.resize(different.shape[::-1], Image.Resampling.BOX)) > 0
    assert different.shape == hole.shape and not different[~hole].any()
    share = 1.0 if not change else 0.25
    assert 0.6 * share < different[hole].mean() <= 1.3 * share


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_each_sampler_paints_and_goes_back_where_asked(models, sampler):
    seen = []
    inpaint(asked(sampler=sampler, steps=6, jumps=1), models["diffusion"], on_progress=seen.append)
    assert [progress.index for progress in seen] == list(range(1, 13)) and seen[0].count == 12


def test_a_large_picture_is_worked_on_at_the_models_own_size(models):
    source = photograph(900, 600)
    mask = Image.new("L", (900, 600))
    mask.paste(255, (400, 300, 420, 310))
    result = inpaint(asked(source, mask), models["diffusion"])
    ((left, top, right, bottom),) = result.boxes
    assert (right - left, bottom - top) == (40, 40) and left <= 400 and right >= 420 and top <= 300 and bottom >= 310
    assert result.changed == 0 and result.pictures[0].image.size == (900, 600)


@pytest.mark.parametrize("name", ["diffusion", "four channels", "tokens"])
def test_what_stands_under_the_mask_at_first_is_what_lies_around_or_what_is_there(models, name):
    """Of two pictures that differ under the mask alone, only one begun with the picture can tell."""
    other = photograph()
    other.paste((0, 90, 200), (32, 22, 58, 43))
    fields = {"strength": 0.5, "area": "whole"}
    one, two = (pixels(inpaint(asked(source, **fields), models[name])) for source in (photograph(), other))
    np.testing.assert_array_equal(one, two)
    fields["begin"] = "picture"
    one, two = (pixels(inpaint(asked(source, **fields), models[name])) for source in (photograph(), other))
    assert (one[25:40, 35:55] != two[25:40, 35:55]).any()


def test_scratches_all_over_are_painted_part_by_part(models):
    """The model sees each place at its own size, and the next one with what has become of it."""
    source, scratch = photograph(300, 200), Image.new("L", (300, 200))
    ImageDraw.Draw(scratch).line([(0, 10), (299, 190)], 255, 2)
    seen = []
    request = asked(source, scratch, area="parts", feather=0, count=2)
    result = inpaint(request, models["diffusion"], on_progress=seen.append)
    assert len(result.boxes) > 8
    assert all((right - left, bottom - top) == (32, 32) for left, top, right, bottom in result.boxes)
    assert [progress.index for progress in seen] == list(range(1, 2 * 3 * len(result.boxes) + 1))
    assert {progress.count for progress in seen} == {len(seen)}
    hole = np.asarray(scratch) > 0
    for index in range(2):
        found = pixels(result, index)
        np.testing.assert_array_equal(found[~hole], np.asarray(source)[~hole])
        assert (found[hole] != np.asarray(source)[hole]).any(1).mean() > 0.9
        np.testing.assert_array_equal(found, pixels(inpaint(alone(request, index), models["diffusion"])))


def test_a_feather_has_room_in_the_crop(models):
    """However wide it is: it falls to nothing in the picture, not at the edge of the crop."""
    source, mask = photograph(300, 200), Image.new("L", (300, 200))
    mask.paste(255, (140, 90, 160, 110))
    result = inpaint(asked(source, mask, margin=0.0, feather=50), models["diffusion"])
    ((left, top, right, bottom),) = result.boxes
    assert left <= 90 and right >= 210 and top <= 40 and bottom >= 160 and result.changed == 0


def test_stopping_stops(models):
    def stop(progress):
        raise Cancelled

    for name in ("diffusion", "tokens"):
        with pytest.raises(Cancelled):
            inpaint(asked(), models[name], on_progress=stop)


# ---------------------------------------------------------------- odd input


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("size", [(8, 8), (9, 300), (1500, 8), (33, 31)])
def test_odd_sizes_painted_whole(models, name, size):
    result = inpaint(asked(photograph(*size), Image.new("L", size, 255)), models[name])
    assert result.pictures[0].image.size == size


@pytest.mark.parametrize("name", MODELS)
def test_a_single_pixel_can_be_painted(models, name):
    mask = Image.new("L", (100, 70))
    mask.putpixel((99, 69), 255)
    result = inpaint(asked(mask=mask, feather=0), models[name])
    different = (pixels(result) != np.asarray(photograph())).any(2)
    different[69, 99] = False
    assert not different.any()


def test_what_fits_nothing_is_refused_with_a_sentence(models):
    model = models["diffusion"]
    with pytest.raises(BadRequest, match="100x70"):
        inpaint(asked(mask=Image.new("L", (70, 100), 255)), model)
    with pytest.raises(BadRequest, match="The mask is empty"):
        inpaint(asked(mask=Image.new("L", (100, 70))), model)
    with pytest.raises(BadPicture, match="at least 8"):
        inpaint(asked(photograph(1, 2000), Image.new("L", (1, 2000), 255)), model)
    with pytest.raises(BadPicture, match="choose it again"):
        inpaint(InpaintRequest(image=b"no", mask=png(blot()), prompt="x"), model)
    with pytest.raises(BadRequest, match="choose one first"):
        InpaintRequest(mask=png(blot()), prompt="x")
    with pytest.raises(BadRequest, match="Nothing is painted"):
        InpaintRequest(image=png(photograph()), prompt="x")


# ---------------------------------------------------------------- in the engine


def test_the_engine_paints_with_every_model_that_can_and_remakes_the_same():
    engine = Engine(device="cpu")
    able = [row.id for row in catalog.catalog().values() if "inpaint" in row.tasks]
    assert {"telea", "navier-stokes"} < set(able) and len(able) >= 4
    for name in able:
        request = asked(model=name, steps=2)
        first, again = engine.run(request), engine.run(request)
        assert np.array_equal(pixels(first), pixels(again)) and first.changed == 0
        record = first.pictures[0].record
        assert record["request"]["model"] == name and record["model_sha256"]
