"""What the artist works on: a picture brings its mask back, whoever and whenever, and nobody else's."""

import io

import numpy as np
import pytest
from PIL import Image

from engines import masks
from engines.errors import BadPicture, BadRequest
from studio import images
from studio.inputs import Inputs
from tests.tiny import png


def picture(seed=0, size=(20, 12)):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_a_picture_has_one_key_and_is_kept_whole(tmp_path):
    inputs = Inputs(tmp_path)
    key = inputs.keep(png(picture()))
    stream = io.BytesIO()
    picture().save(stream, "WEBP", lossless=True, exact=True)
    assert inputs.keep(stream.getvalue()) == key != inputs.keep(png(picture(1)))
    kept = images.read_picture(inputs.picture(key), transparent=True)
    assert np.array_equal(np.asarray(kept), np.asarray(picture()))
    assert inputs.mask(key) is None


def test_a_mask_is_there_again_after_a_restart(tmp_path):
    key = Inputs(tmp_path).keep(png(picture()))
    mask = np.zeros((12, 20), np.float32)
    mask[3:5, 7:9] = 1
    Inputs(tmp_path).keep_mask(key, masks.to_png(mask))
    again = Inputs(tmp_path).mask(Inputs(tmp_path).keep(png(picture())))
    np.testing.assert_array_equal(masks.from_png(again.read_bytes(), (20, 12)), mask)


def test_a_mask_that_does_not_fit_is_refused_and_the_old_one_stays(tmp_path):
    inputs = Inputs(tmp_path)
    key = inputs.keep(png(picture()))
    inputs.keep_mask(key, masks.to_png(np.ones((12, 20), np.float32)))
    before = inputs.mask(key).read_bytes()
    for wrong, error in ((masks.to_png(np.ones((20, 12), np.float32)), BadRequest), (b"no mask", BadPicture)):
        with pytest.raises(error):
            inputs.keep_mask(key, wrong)
    assert inputs.mask(key).read_bytes() == before


def test_users_have_inputs_of_their_own(tmp_path):
    inputs = Inputs(tmp_path)
    key = inputs.keep(png(picture()), user="ann")
    inputs.keep_mask(key, masks.to_png(np.ones((12, 20), np.float32)), user="ann")
    assert inputs.mask(key, user="bob") is None and inputs.mask(key) is None
    with pytest.raises(BadRequest, match="gone"):
        inputs.keep_mask(key, masks.to_png(np.ones((12, 20), np.float32)), user="bob")


@pytest.mark.parametrize("key", ["", None, "../../etc/passwd", "a" * 31, "A" * 32, "a" * 32 + "/.."])
def test_what_is_no_key_reaches_no_file(tmp_path, key):
    for ask in (Inputs(tmp_path).picture, Inputs(tmp_path).mask):
        with pytest.raises(BadRequest, match="choose one first"):
            ask(key)
