"""Editing tokens by hand: each edit changes what it says and nothing else."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from engines.errors import BadRequest
from engines.vqgan.editing import fill, mix, paint, swap, windows

MAPS = arrays(np.int64, st.tuples(st.integers(1, 8), st.integers(1, 8)), elements=st.integers(0, 3))
CELLS = st.lists(st.tuples(st.integers(-2, 9), st.integers(-2, 9)), max_size=12)


def inside(tokens, cells):
    return {(r, c) for r, c in cells if 0 <= r < tokens.shape[0] and 0 <= c < tokens.shape[1]}


@given(MAPS, CELLS)
def test_paint_changes_the_cells_alone(tokens, cells):
    before = tokens.copy()
    painted = paint(tokens, cells, 9)
    assert {tuple(cell) for cell in np.argwhere(painted == 9)} == inside(tokens, cells)
    assert np.array_equal(painted[painted != 9], tokens[painted != 9]) and np.array_equal(tokens, before)


def test_fill_stops_where_the_tokens_change():
    tokens = np.array([[1, 1, 2, 1], [1, 2, 2, 1], [2, 1, 1, 1]])
    assert fill(tokens, (0, 0), 7).tolist() == [[7, 7, 2, 1], [7, 2, 2, 1], [2, 1, 1, 1]]
    assert fill(tokens, (2, 1), 7).tolist() == [[1, 1, 2, 7], [1, 2, 2, 7], [2, 7, 7, 7]]


@given(MAPS, st.data())
def test_fill_keeps_what_was_of_another_code_and_is_idempotent(tokens, data):
    cell = tuple(data.draw(st.integers(0, side - 1)) for side in tokens.shape)
    filled = fill(tokens, cell, 9)
    assert filled[cell] == 9
    assert np.array_equal(filled[tokens != tokens[cell]], tokens[tokens != tokens[cell]])
    assert np.array_equal(fill(filled, cell, 9), filled)
    assert np.array_equal(fill(filled, cell, tokens[cell]), tokens)  # the region was whole, and goes back as one


@given(MAPS, CELLS)
def test_a_swap_swapped_is_undone(tokens, cells):
    others = tokens + 10
    one, two = swap(tokens, others, cells)
    assert {tuple(cell) for cell in np.argwhere(one >= 10)} == inside(tokens, cells)
    assert np.array_equal(one + two, tokens + others)
    back = swap(one, two, cells)
    assert np.array_equal(back[0], tokens) and np.array_equal(back[1], others)


@given(MAPS, st.floats(0, 1), st.integers(0, 99))
def test_a_mix_takes_its_share(tokens, share, seed):
    mixed = mix(tokens, tokens + 10, share, seed)
    assert (mixed >= 10).sum() == round(share * tokens.size)
    assert np.array_equal(mixed % 10, tokens)
    more = mix(tokens, tokens + 10, min(1.0, share + 0.2), seed)
    assert ((more >= 10) | (mixed < 10)).all()


@pytest.mark.parametrize("edit", [lambda a, b: swap(a, b, []), lambda a, b: mix(a, b, 0.5)])
def test_maps_of_two_sizes_are_refused(edit):
    with pytest.raises(BadRequest, match="4x3 tokens and the other 3x3"):
        edit(np.zeros((3, 4), int), np.zeros((3, 3), int))


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 9), st.randoms())
def test_windows_hold_each_hidden_cell_once_and_are_as_large_as_they_may_be(height, width, side, random):
    mask = np.array([[random.random() < 0.3 for _ in range(width)] for _ in range(height)])
    settled = np.zeros(mask.shape, int)
    for window, cells in windows(mask, side):
        assert cells.shape == (min(side, height), min(side, width)) and cells.any()
        settled[window] += cells
    assert np.array_equal(settled, mask)


def test_a_window_lies_round_what_it_settles_and_a_small_map_needs_one():
    assert [window for window, _ in windows(np.ones((16, 12), bool), 16)] == [(slice(0, 16), slice(0, 12))]
    mask = np.zeros((40, 40), bool)
    mask[20, 20:22] = True
    assert [window for window, _ in windows(mask, 16)] == [(slice(12, 28), slice(13, 29))]
    assert len(windows(np.ones((40, 16), bool), 16)) == 4  # of twelve rows each, with two to see on either side
