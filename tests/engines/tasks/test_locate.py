"""Where words are: a map of the picture's shape, led by the words alone."""

import numpy as np
import pytest
from PIL import Image

from engines.errors import BadRequest
from engines.requests import LocateRequest
from engines.tasks.locate import locate
from tests import tiny
from tests.tiny import png


def asked(words="red disc", size=(64, 32), **fields):
    pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    return LocateRequest(image=png(Image.fromarray(pixels)), prompt=words, **fields)


@pytest.fixture(scope="module")
def model():
    return tiny.latent_diffusion()


def test_the_map_has_the_shape_of_the_picture_and_reaches_from_none_to_all(model):
    for size in ((64, 32), (32, 64), (400, 300)):
        places = locate(asked(size=size), model).places
        assert (places.min(), places.max()) == (0, 1) and places.dtype == np.float32
        assert places.shape[1] / places.shape[0] == pytest.approx(size[0] / size[1], rel=0.35)


def test_words_and_seed_decide_and_the_same_is_found_again(model):
    places = locate(asked(), model).places
    np.testing.assert_array_equal(places, locate(asked(), model).places)
    assert not np.array_equal(places, locate(asked("蓝"), model).places)
    assert not np.array_equal(places, locate(asked(seed=1), model).places)


def test_what_cannot_be_looked_for_is_refused(model):
    with pytest.raises(BadRequest, match="no words to look for"):
        asked("  ")
    with pytest.raises(BadRequest, match="choose one first"):
        LocateRequest(prompt="x")
    with pytest.raises(BadRequest, match="shorten them"):
        locate(asked("red disc " * 40), model)
