"""Masks: read as they were painted, shaped as they were asked to be, proposed where damage is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from engines import masks
from engines.errors import BadPicture, BadRequest
from tests.tiny import png


def blot(height=40, width=50):
    mask = np.zeros((height, width), np.float32)
    mask[10:20, 15:35] = 1
    return mask


# ---------------------------------------------------------------- reading


def test_a_mask_is_its_brightness_or_where_it_is_partly_transparent_its_opacity():
    grey = Image.fromarray(np.array([[0, 51, 255]], np.uint8))
    assert masks.from_png(png(grey), (3, 1)).tolist() == [[0, pytest.approx(0.2), 1]]
    colours = Image.fromarray(np.array([[[0, 0, 0], [255, 0, 0], [0, 51, 0]]], np.uint8))
    assert masks.from_png(png(colours), (3, 1)).tolist() == [[0, 1, pytest.approx(0.2)]]
    black_brush = Image.fromarray(np.array([[[255, 255, 255, 0], [0, 0, 0, 255], [9, 9, 9, 51]]], np.uint8))
    assert masks.from_png(png(black_brush), (3, 1)).tolist() == [[0, 1, pytest.approx(0.2)]]


def test_a_mask_of_another_size_or_none_is_refused():
    with pytest.raises(BadRequest, match="3x1 pixels and the picture 1x3"):
        masks.from_png(png(Image.new("L", (3, 1))), (1, 3))
    with pytest.raises(BadPicture, match="paint or choose it again"):
        masks.from_png(b"no mask", (1, 1))


def test_a_mask_written_is_the_mask_read():
    mask = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    np.testing.assert_allclose(masks.from_png(masks.to_png(mask), (16, 16)), mask, atol=1e-6)


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGB", "RGBA"])
def test_a_mask_may_be_any_kind_of_png(mode):
    values = np.array([[0, 255], [255, 0]], np.uint8)
    assert masks.from_png(png(Image.fromarray(values).convert(mode)), (2, 2)).tolist() == [[0, 1], [1, 0]]


# ---------------------------------------------------------------- shape


def test_a_point_grows_to_a_disc_and_a_hole_shrinks_alike():
    mask = np.zeros((31, 31), np.float32)
    mask[15, 15] = 1
    y, x = np.mgrid[-15:16, -15:16]
    disc = masks.grow(mask, 6)
    assert disc[np.hypot(x, y) <= 5].all() and not disc[np.hypot(x, y) > 7].any()
    np.testing.assert_array_equal(masks.grow(1 - mask, -6), 1 - disc)


@given(st.integers(0, 12), st.integers(0, 9))
@settings(deadline=None, max_examples=30)
def test_feathering_adds_a_falling_rim_that_ends(pixels, seed):
    mask = (np.random.default_rng(seed).random((24, 28)) > 0.97).astype(np.float32)
    mask[5, 7] = 1
    soft = masks.feather(mask, pixels)
    rows, columns = np.nonzero(mask)
    y, x = np.mgrid[:24, :28]
    far = np.hypot(y[..., None] - rows, x[..., None] - columns).min(2)
    assert (soft[mask == 1] == 1).all() and (soft[far >= pixels + 1] == 0).all()
    assert (soft[far <= pixels] > 0).all()
    by_distance = soft.ravel()[far.ravel().argsort(kind="stable")]
    assert (np.diff(by_distance) <= 1e-6).all()


def test_what_is_painted_weakly_is_seen_all_the_same():
    np.testing.assert_array_equal(masks.feather(blot() * 0.3, 5), masks.feather(blot(), 5))


def test_bounds_hold_exactly_what_is_painted():
    assert masks.bounds(blot()) == (15, 10, 35, 20)
    assert masks.bounds(np.zeros((3, 3), np.float32)) is None


@given(
    st.integers(1, 60), st.integers(1, 60), st.data(), st.floats(0, 2), st.integers(1, 80), st.integers(0, 9),
)  # fmt: skip
@settings(deadline=None, max_examples=60)
def test_the_surroundings_hold_the_mask_and_are_square_if_they_can(height, width, data, margin, least, rim):
    mask = np.zeros((height, width), np.float32)
    y, x = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    mask[y, x] = mask[data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))] = 1
    inner = masks.bounds(mask)
    left, top, right, bottom = masks.around(inner, mask.shape, margin, least, rim)
    assert 0 <= left <= inner[0] and inner[2] <= right <= width
    assert 0 <= top <= inner[1] and inner[3] <= bottom <= height
    longer = max(inner[2] - inner[0], inner[3] - inner[1])
    side = max(least, longer + 2 * max(round(margin * longer), rim))
    assert (right - left, bottom - top) == (min(side, width), min(side, height))


@given(st.integers(0, 99), st.floats(0, 1), st.integers(8, 40))
@settings(deadline=None, max_examples=40)
def test_parts_hold_all_that_is_painted_once_and_are_small(seed, margin, least):
    draw = np.random.default_rng(seed)
    mask = np.zeros((90, 120), np.float32)
    for _ in range(6):
        y, x = draw.integers(0, 80), draw.integers(0, 110)
        mask[y : y + draw.integers(1, 9), x : x + draw.integers(1, 9)] = 1
    times = np.zeros(mask.shape, int)
    for left, top, right, bottom in masks.parts(mask, margin, least):
        times[top:bottom, left:right] += 1
        assert mask[top:bottom, left:right].any()
        thick = 2 * 9  # what is drawn above may touch
        assert max(right - left, bottom - top) <= max(least / (1 + 2 * margin), 2 * thick)
    assert (times[mask > 0] == 1).all()


def test_a_whole_mask_is_one_part():
    assert masks.parts(np.ones((30, 50), np.float32), 0.5, 16) == [(0, 0, 50, 30)]


def test_what_is_thick_is_not_cut_up():
    mask = np.zeros((300, 300), np.float32)
    mask[100:160, 90:150] = 1
    assert masks.parts(mask, 0.5, 40) == [(90, 100, 150, 160)]


def test_new_space_is_painted_and_the_rest_is_not():
    picture = np.arange(5 * 4 * 4, dtype=np.uint8).reshape(5, 4, 4)
    wide, mask = masks.extended(picture, np.zeros((5, 4), np.float32), 1, 2, 3, 0)
    assert wide.shape == (7, 8, 4)
    np.testing.assert_array_equal(wide[2:, 1:5], picture)
    assert (mask[2:, 1:5] == 0).all() and mask.sum() == 7 * 8 - 5 * 4


# ---------------------------------------------------------------- proposals


@pytest.fixture
def photograph():
    """Soft light, soft hills and some grain: nothing in it is thin."""
    y, x = np.mgrid[:200, :240].astype(np.float32)
    grey = 120 + 60 * np.sin(x / 40) * np.cos(y / 50) + 30 * (y > 120 + 20 * np.sin(x / 30))
    grain = np.random.default_rng(0).normal(0, 2, (200, 240, 3))
    return np.clip(grey[..., None] * [1, 0.9, 0.8] + grain, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("colour", ["white", "black"])
def test_scratches_are_found_and_little_else(photograph, colour):
    assert masks.scratches(photograph, 0.5).mean() < 0.01
    damaged, truth = Image.fromarray(photograph), Image.new("L", (240, 200))
    for picture, fill in ((damaged, colour), (truth, 255)):
        draw = ImageDraw.Draw(picture)
        draw.line([(10, 20), (220, 150)], fill=fill, width=2)
        draw.line([(200, 10), (150, 190)], fill=fill, width=1)
        draw.ellipse([50, 140, 54, 144], fill=fill)
    true, found = np.asarray(truth) > 0, masks.scratches(np.asarray(damaged), 0.5) > 0
    assert (found & true).sum() / true.sum() > 0.9
    near = masks.grow(true.astype(np.float32), 3) > 0
    assert (found & near).sum() / found.sum() > 0.9
    areas = [masks.scratches(np.asarray(damaged), strength).sum() for strength in (0.0, 0.3, 0.6, 1.0)]
    assert areas == sorted(areas) and areas[0] < areas[-1]


def test_transparent_pixels_and_those_of_one_colour_are_proposed():
    assert masks.transparent(np.array([[255, 0, 51]], np.uint8)).tolist() == [[0, 1, pytest.approx(0.8)]]
    picture = np.array([[[200, 0, 0], [190, 10, 5], [0, 0, 200], [255, 255, 255]]], np.uint8)
    assert masks.of_colour(picture, (200, 0, 0), 0).tolist() == [[1, 0, 0, 0]]
    assert masks.of_colour(picture, (200, 0, 0), 15).tolist() == [[1, 1, 0, 0]]
