"""Setting what was painted into its picture: exact where exactness is promised, seamless where it is not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.blending import composite, match_seam, membrane


def noise(*shape, seed=0):
    return np.random.default_rng(seed).random(shape, np.float32)


@given(st.integers(0, 99))
@settings(deadline=None, max_examples=20)
def test_outside_of_the_mask_not_a_bit_changes_and_inside_all_is_new(seed):
    source = (noise(9, 11, 4, seed=seed) * 255).astype(np.uint8)
    painted = noise(9, 11, 4, seed=seed + 1) * 400 - 70
    mask = np.clip(noise(9, 11, seed=seed + 2) * 3 - 1, 0, 1)
    found = composite(source, painted, mask)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found[mask == 0], source[mask == 0])
    np.testing.assert_array_equal(found[mask == 1], np.round(np.clip(painted, 0, 255))[mask == 1])
    shown = np.clip(painted, 0, 255)
    assert (found >= np.minimum(source, shown) - 0.5).all() and (found <= np.maximum(source, shown) + 0.5).all()


def test_the_membrane_solves_laplaces_equation():
    """Against the linear equations themselves: each unknown is the mean of its neighbours, edges are mirrors."""
    height, width = 14, 11
    known = np.ones((height, width), bool)
    known[3:12, 2:9] = known[0, 4:8] = False
    values = noise(height, width, 2)
    index = np.arange(height * width).reshape(height, width)
    matrix, right = np.eye(height * width), values.reshape(-1, 2).astype(np.float64)
    for y, x in zip(*np.nonzero(~known), strict=True):
        right[index[y, x]] = 0
        for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)):
            there = index[min(max(y + dy, 0), height - 1), min(max(x + dx, 0), width - 1)]
            matrix[index[y, x], there] -= 0.25
    exact = np.linalg.solve(matrix, right).reshape(height, width, 2)
    found = membrane(values, known)
    np.testing.assert_array_equal(found[known], values[known])
    assert np.abs(found - exact).max() < 0.03 and np.abs(found - exact).mean() < 0.005
    assert values[known].min() <= found.min() and found.max() <= values[known].max()


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (3, 500), (65, 64)])
def test_a_membrane_of_any_shape_keeps_what_is_even_even(shape):
    known = np.zeros(shape, bool)
    known[0, 0] = True
    np.testing.assert_allclose(membrane(np.full((*shape, 3), 7, np.float32), known), 7, rtol=1e-5)
    assert (membrane(np.full((*shape, 1), 7, np.float32), ~known & False) == 0).all()  # nothing is known


def test_a_cast_of_colour_is_taken_off_and_the_drawing_stays():
    y, x = np.mgrid[:60, :80].astype(np.float32)
    source = np.stack([100 + x / 2, 80 + y, 120 - x / 4], axis=2)
    hole = np.hypot(x - 40, y - 30) < 15
    drawing = 20 * np.sin(x * 1.7)[..., None] * hole[..., None]
    cast = np.stack([30 + x / 5, -25 + y / 6, 10 + 0 * x], axis=2)  # even and sloping, as light falls off
    found = match_seam(source, source + drawing + cast, hole)
    assert np.abs(found - (source + drawing))[hole].max() < 1
    np.testing.assert_allclose(found[~hole], source[~hole], atol=1e-3)


def test_a_hole_without_a_rim_has_no_seam_to_match():
    painted = noise(6, 6, 3)
    assert match_seam(noise(6, 6, 3, seed=1), painted, np.ones((6, 6), bool)) is painted
