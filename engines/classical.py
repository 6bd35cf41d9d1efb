"""Inpainting without weights: OpenCV's fast marching and fluid dynamics, for scratches and as the floor to beat."""

import cv2
import numpy as np

FAMILY = "classical"
RADIUS = 5  # pixels round a place that its value is made of
METHODS = {
    "telea": (cv2.INPAINT_TELEA, "Fast marching from the edges inwards (Telea, 2004)."),
    "navier-stokes": (cv2.INPAINT_NS, "Lines of equal brightness go on as in a fluid (Bertalmio et al., 2001)."),
}


class Classical:
    """One of `METHODS` as a model that inpaints."""

    family = FAMILY
    size = 1024  # pixels a side that it works on at most: in time that grows with what is painted
    size_multiple = 1
    device = "cpu"

    def __init__(self, name):
        self.name = name
        self.sha256 = f"opencv {cv2.__version__}"  # instead of a file's hash: what it depends on

    def fill(self, picture, mask):
        """`picture (H, W, 3)` uint8 with the pixels of `mask (H, W)` bool made from those around them."""
        return cv2.inpaint(picture, mask.astype(np.uint8), RADIUS, METHODS[self.name][0])
