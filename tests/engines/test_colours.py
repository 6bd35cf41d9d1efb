"""Colours cleaned up: against what was done to them, and nothing where nothing is asked."""

import numpy as np
import pytest

from engines import colours


@pytest.fixture
def scene():
    """Smooth colours from black to white, with grey and vivid places."""
    y, x = np.mgrid[:120, :160] / 160
    rgb = np.stack([x, (x + y) / 1.75, 1 - x * y], axis=2) * 255
    rgb[:20], rgb[20:40] = np.linspace(0, 255, 160)[:, None], 255 - np.linspace(0, 255, 160)[:, None]
    return rgb.astype(np.uint8)


def by(correct, picture):
    return correct(picture, picture.reshape(-1, 3))


def apart(one, other):
    return np.abs(one.astype(float) - other).mean()


def test_nothing_asked_changes_nothing(scene):
    assert colours.cleaned(scene) is scene


@pytest.mark.parametrize("what", ["balance", "fading", "levels"])
def test_half_of_the_way_is_half_of_the_change(scene, what):
    worn = (60 + scene * [0.5, 0.45, 0.35]).astype(np.uint8)
    half, whole = (colours.cleaned(worn, **{what: share}).astype(float) for share in (0.5, 1.0))
    unclipped = (whole > 0) & (whole < 255)
    assert unclipped.mean() > 0.8 and apart(whole, worn) > 1
    assert np.abs(half - (worn + whole) / 2)[unclipped].max() <= 1


def test_a_cast_of_the_light_is_taken_away_whatever_it_was(scene):
    grey = scene.mean(2, keepdims=True).astype(np.uint8).repeat(3, axis=2)
    for cast in ([0.95, 0.8, 0.6], [0.5, 0.7, 1.0]):
        balanced = by(colours.white_balanced, (grey * cast).astype(np.uint8))
        assert np.abs(balanced - balanced.mean(2, keepdims=True)).max() < 4  # of rounding
    np.testing.assert_allclose(by(colours.white_balanced, grey), grey, atol=1e-3)


def test_what_has_faded_comes_back(scene):
    """Each dye lost another part of its strength and left another tone: the inverse is known."""
    faded = (scene * [0.6, 0.5, 0.4] + [70, 60, 80]).astype(np.uint8)
    assert apart(by(colours.unfaded, faded), scene) < 0.4 * apart(faded, scene)


def test_levels_reach_from_black_to_white_and_keep_the_hues(scene):
    dull = (80 + scene * 0.3).astype(np.uint8)
    levelled = by(colours.levelled, dull).clip(0, 255)
    grey = levelled.mean(2)
    assert grey.min() < 10 and grey.max() > 245
    order = np.argsort(dull.astype(int), axis=2, kind="stable")
    sorted_ = np.take_along_axis(levelled, order, axis=2)
    assert (np.diff(sorted_, axis=2) >= -1e-3).all()  # the strongest channel stays the strongest


@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_plain_surface_stays_plain(value):
    plain = np.full((12, 10, 3), value, np.uint8)
    np.testing.assert_array_equal(colours.cleaned(plain, balance=1, fading=1, levels=1), plain)


def test_what_is_hidden_has_no_say(scene):
    alpha = np.full(scene.shape[:2], 255, np.uint8)
    alpha[:, 100:] = 0
    hidden = (60 + scene * 0.5).astype(np.uint8)
    other = hidden.copy()
    other[:, 100:] = 255
    one, two = (colours.cleaned(picture, 1, 1, 1, alpha=alpha)[:, :100] for picture in (hidden, other))
    np.testing.assert_array_equal(one, two)
    assert (colours.cleaned(other, 1, 1, 1)[:, :100] != one).any()
    colours.cleaned(hidden, 1, 1, 1, alpha=np.zeros_like(alpha))  # nothing is seen at all
