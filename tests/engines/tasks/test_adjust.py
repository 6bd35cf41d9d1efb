"""The colours of a picture as a request: recorded, remade, and transparency untouched."""

import numpy as np
import pytest
from PIL import Image

from engines import colours
from engines.engine import Engine
from engines.errors import BadPicture, BadRequest
from engines.requests import AdjustRequest, from_json, to_json
from tests.tiny import png


def picture(mode):
    pixels = np.random.default_rng(0).integers(40, 200, (30, 40, len(mode)), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colours_change_as_asked_and_transparency_does_not(mode):
    source = picture(mode)
    request = AdjustRequest(image=png(source), balance=0.3, fading=0.5, levels=0.2)
    result = Engine(device="cpu").run(request)
    (made,) = result.pictures
    alpha = np.asarray(source)[..., 3] if mode == "RGBA" else None
    found, before = np.asarray(made.image), np.asarray(source)
    assert made.image.mode == mode and made.seed is None
    np.testing.assert_array_equal(found[..., :3], colours.cleaned(before[..., :3], 0.3, 0.5, 0.2, alpha=alpha))
    if mode == "RGBA":
        np.testing.assert_array_equal(found[..., 3], before[..., 3])
    assert made.record["request"]["task"] == "adjust" and from_json(to_json(request)) == request


def test_what_is_no_picture_is_refused():
    with pytest.raises(BadRequest, match="choose one first"):
        AdjustRequest()
    with pytest.raises(BadPicture, match="choose it again"):
        Engine(device="cpu").run(AdjustRequest(image=b"no"))
