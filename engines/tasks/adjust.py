"""The colours of a picture cleaned up, without a model."""

import time

import numpy as np
from PIL import Image

from engines import colours, pictures
from engines.requests import GenerateResult, Picture


def adjust(request):
    """The picture of an `AdjustRequest` with its colours corrected; what is transparent stays so."""
    started = time.monotonic()
    image = np.asarray(pictures.from_png(request.image, "RGBA"))
    alpha = image[..., 3]
    colour = colours.cleaned(image[..., :3].copy(), request.balance, request.fading, request.levels, alpha)
    made = np.dstack([colour, alpha]) if alpha.min() < 255 else colour
    return GenerateResult((Picture(Image.fromarray(made), None),), time.monotonic() - started)
