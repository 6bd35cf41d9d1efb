"""A picture cleaned up by plain means, without a model."""

import time

import numpy as np
from PIL import Image

from engines import colours, enhancement, pictures
from engines.requests import GenerateResult, Picture


def adjust(request):
    """The picture of an `AdjustRequest`, cleaned up; what is transparent stays so."""
    started = time.monotonic()
    image = np.asarray(pictures.from_png(request.image, "RGBA"))
    alpha = image[..., 3]
    made = finished(request, cleaned(request, image[..., :3].copy(), alpha))
    if alpha.min() < 255:
        made = np.dstack([made, alpha])
    return GenerateResult((Picture(Image.fromarray(made), None),), time.monotonic() - started)


def cleaned(request, picture, alpha):
    """`picture (H, W, 3)` uint8 as a request, one of `Cleaned`, asks, but for its sharpness.

    What `alpha (H, W)` hides has no say in the colours.
    """
    if request.artefacts:
        picture = enhancement.deblocked(picture, request.artefacts)
    asked = {name: getattr(request, name) for name in ("balance", "fading", "levels", "vividness")}
    picture = colours.cleaned(picture, **asked, alpha=alpha)
    if request.contrast:
        picture = enhancement.with_local_contrast(picture, request.contrast)
    return picture


def finished(request, picture):
    """`picture (H, W, 3)` uint8, of the size of the result, as sharp as a request asks."""
    return enhancement.sharpened(picture, request.sharpness) if request.sharpness else picture
