"""Measuring two pictures against each other."""

import math

import numpy as np
import pytest
from PIL import Image

from engines.engine import Engine
from engines.errors import BadRequest
from engines.requests import MeasureRequest
from studio.images import png_bytes


def picture(size=(40, 24), seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8))


def measured(one, other):
    return Engine(device="cpu").run(MeasureRequest(png_bytes(one), png_bytes(other)))


def test_a_picture_is_at_no_distance_from_itself():
    result = measured(picture(), picture())
    assert (result.psnr, result.ssim, result.distance) == (math.inf, pytest.approx(1), 0)
    assert (result.largest, result.mean) == (0, 0)


def test_psnr_is_that_of_the_bytes():
    one, other = picture(), picture(seed=1)
    error = np.square(np.asarray(one, float) - np.asarray(other, float)).mean()
    result = measured(one, other)
    assert result.psnr == pytest.approx(10 * math.log10(255**2 / error), rel=1e-4)
    assert result.ssim < 0.1 and result.distance > 0
    apart = np.abs(np.asarray(one, float) - np.asarray(other, float))
    assert (result.largest, result.mean) == (apart.max(), pytest.approx(apart.mean()))


@pytest.mark.parametrize("one, other, words", [
    ((40, 24), (24, 40), "40x24 and 24x40 pixels"),
    ((10, 24), (10, 24), "needs 11 on each side"),
])
def test_pictures_that_cannot_be_measured_are_refused(one, other, words):
    with pytest.raises(BadRequest, match=words):
        measured(picture(one), picture(other))
