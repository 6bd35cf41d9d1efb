"""The history of an edit: what undo and redo go through."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from engines.checkpoints import tokens
from studio.tabs.workshop import Edit


def edit(*codes):
    return Edit("edit", "mirror", "0" * 64, (8, 8), tuple(np.full((2, 2), code) for code in codes or (0,)))


def test_a_change_is_undone_and_done_again():
    changed = edit().after(np.ones((2, 2), int))
    assert (changed.tokens == 1).all()
    undone = changed.moved(-1)
    assert (undone.tokens == 0).all() and (undone.moved(1).tokens == 1).all()
    assert undone.moved(-1) is not None and (undone.moved(-1).tokens == 0).all()  # there is nothing before the first
    assert (changed.moved(1).tokens == 1).all()


def test_a_change_after_an_undo_forgets_what_was_undone():
    twice = edit(0, 1, 2).moved(1)
    assert (twice.after(np.full((2, 2), 5)).history[-1] == 5).all()
    assert len(twice.after(np.full((2, 2), 5)).history) == 3


def test_no_change_is_no_step():
    start = edit()
    assert start.after(np.zeros((2, 2), int)) is start


@given(st.lists(st.integers(0, 3), max_size=60))
def test_fifty_steps_and_more_come_back(codes):
    changed = edit()
    for code in codes:
        changed = changed.after(np.full((2, 2), code))
    steps = len(changed.history) - 1
    states = [int(changed.moved(-back).tokens[0, 0]) for back in range(steps + 1)]
    kept = [0]
    for code in codes:
        if code != kept[-1]:
            kept.append(code)
    assert states == kept[::-1]


def test_marks_are_taken_away_by_a_stroke_that_begins_on_one():
    marked = edit().mark([(0, 0), (0, 1)])
    assert marked.marked.tolist() == [[True, True], [False, False]]
    assert marked.mark([(0, 1), (1, 1)]).marked.tolist() == [[True, False], [False, False]]
    assert marked.mark([(0, 0), (0, 1)]).marked is None
    assert marked.after(np.ones((2, 2), int)).marked is marked.marked  # for another try


def test_an_edit_is_saved_as_a_file_of_its_model():
    saved = tokens.from_bytes(edit(3).file())
    assert (saved.indices == 3).all() and saved.size == (8, 8) and saved.model == "0" * 64
