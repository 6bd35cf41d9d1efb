"""Methods without weights, as models: inpainting and resampling of OpenCV, for themselves and as floors to beat."""

from dataclasses import dataclass

import cv2
import numpy as np

OPENCV = f"opencv {cv2.__version__}"  # instead of a file's hash: what they depend on
RADIUS = 5  # pixels round a place that its value is made of


@dataclass(frozen=True)
class Method:
    """What every method has of a model; `flag` is OpenCV's name of it."""

    name: str
    about: str
    flag: int
    device = "cpu"
    sha256 = OPENCV


class Inpainting(Method):
    """Fills holes from their edges."""

    family = "classical-inpainting"
    size = 1024  # pixels a side that it works on at most: in time that grows with what is painted
    size_multiple = 1

    def fill(self, picture, mask):
        """`picture (H, W, 3)` uint8 with the pixels of `mask (H, W)` bool made from those around them."""
        return cv2.inpaint(picture, mask.astype(np.uint8), RADIUS, self.flag)


class Resampling(Method):
    """Enlarges by a filter and invents nothing."""

    family = "classical-upscaling"

    def enlarge(self, picture, size):
        """`picture (H, W, C)` uint8 at another `(width, height)`."""
        return cv2.resize(picture, size, interpolation=self.flag)


METHODS = {
    method.name: method
    for method in (
        Inpainting("telea", "Fast marching from the edges inwards (Telea, 2004).", cv2.INPAINT_TELEA),
        Inpainting(
            "navier-stokes", "Lines of equal brightness go on as in a fluid (Bertalmio et al., 2001).", cv2.INPAINT_NS
        ),
        Resampling("lanczos", "A windowed sinc over eight pixels (Duchon, 1979): sharp, and nothing new.",
                   cv2.INTER_LANCZOS4),
    )
}  # fmt: skip
