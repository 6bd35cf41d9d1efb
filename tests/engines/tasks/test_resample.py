"""Some tokens drawn anew by words, the others kept."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image

from engines.checkpoints import tokens as token_files
from engines.errors import BadRequest, Cancelled
from engines.requests import ResampleRequest
from engines.tasks.resample import resample
from engines.vqgan import editing
from tests import tiny


def png(mask):
    stream = io.BytesIO()
    Image.fromarray(np.uint8(255) * mask).save(stream, "PNG")
    return stream.getvalue()


def saved(indices, model="0" * 64):
    height, width = indices.shape
    return token_files.to_bytes(token_files.Tokens(indices.astype(np.uint16), (4 * width - 1, 4 * height), model))


def ask(indices, hidden, **fields):
    asked = {"tokens": saved(indices), "mask": png(hidden), "prompt": "red disc", "steps": 3, "seed": 5}
    return ResampleRequest(**asked | fields)


def again(indices, mask, model, **fields):
    return token_files.from_bytes(resample(ask(indices, mask, **fields), model).tokens)


@pytest.fixture(scope="module")
def model():
    return tiny.token_generator()


@pytest.fixture(scope="module")
def indices():
    return np.random.default_rng(0).integers(0, 64, (8, 8))


@pytest.fixture(scope="module")
def mask():
    mask = np.zeros((8, 8), bool)
    mask[2:6, 3:7] = True
    return mask


def test_known_tokens_stay_and_marked_ones_are_drawn(model, indices, mask):
    result = again(indices, mask, model)
    assert np.array_equal(result.indices[~mask], indices[~mask])
    assert (result.indices[mask] != indices[mask]).mean() > 0.5
    assert (result.size, result.model) == ((31, 32), "0" * 64)


def test_what_was_under_the_mask_has_no_influence(model, indices, mask):
    other = np.where(mask, 63 - indices, indices)
    assert np.array_equal(again(indices, mask, model).indices, again(other, mask, model).indices)


@pytest.mark.parametrize("change", [{"seed": 6}, {"prompt": "blue square"}, {"style": "flat"}])
def test_seed_and_words_lead_it(model, indices, mask, change):
    one = again(indices, mask, model).indices
    assert np.array_equal(one, again(indices, mask, model).indices)
    assert not np.array_equal(one, again(indices, mask, model, **change).indices)


def test_a_map_larger_than_the_model_learned_is_done_in_windows(model):
    indices = np.random.default_rng(1).integers(0, 64, (10, 19))
    mask = np.random.default_rng(2).random((10, 19)) < 0.7
    seen = []
    result = resample(ask(indices, mask), model, seen.append)
    drawn = token_files.from_bytes(result.tokens).indices
    assert np.array_equal(drawn[~mask], indices[~mask]) and (drawn[mask] != indices[mask]).mean() > 0.8
    assert [progress.index for progress in seen] == list(range(1, seen[0].count + 1))
    assert seen[0].count > 3


def test_far_away_tokens_have_no_influence(model):
    indices = np.random.default_rng(1).integers(0, 64, (8, 24))
    mask = np.zeros((8, 24), bool)
    mask[3:5, 3:5] = True
    other = indices.copy()
    other[:, 16:] = 0
    assert np.array_equal(again(indices, mask, model).indices[mask], again(other, mask, model).indices[mask])


def test_what_one_window_settles_the_next_one_knows(model):
    indices = np.random.default_rng(1).integers(0, 64, (8, 14))
    mask = np.zeros((8, 14), bool)
    mask[:, 2:12] = True
    (earlier, first), (window, second) = editing.windows(mask, 8)
    whole = again(indices, mask, model).indices
    part = indices.copy()
    part[earlier][first] = whole[earlier][first]
    # the second window alone, with the next seed, on what the first has left
    later = np.zeros_like(mask)
    later[window] = second
    assert np.array_equal(again(part, later, model, seed=6).indices, whole)


def test_it_stops_within_a_step(model, indices, mask):
    steps = itertools.count(1)

    def stop(progress):
        if next(steps) == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        resample(ask(indices, mask, steps=20), model, stop)
    assert next(steps) == 3


def test_what_cannot_be_resampled_gets_a_sentence(model, indices, mask):
    with pytest.raises(BadRequest, match="mask has 7x8 pixels and the picture 8x8 tokens"):
        resample(ask(indices, mask[:, :7]), model)
    with pytest.raises(BadRequest, match="No token is marked"):
        resample(ask(indices, np.zeros_like(mask)), model)
    with pytest.raises(BadRequest, match="another model"):
        resample(ask(indices, mask, tokens=saved(indices, "1" * 64)), model)
    with pytest.raises(BadRequest, match="shorten it"):
        resample(ask(indices, mask, prompt="a word and another " * 20), model)
    with pytest.raises(BadRequest, match="tokens and a mask"):
        ask(indices, mask, mask=b"")
    with pytest.raises(BadRequest, match="there are none"):
        ask(indices, mask, prompt="")
