"""How far two pictures are from each other."""

import time

import numpy as np
import torch

from engines import metrics, pictures, tensors
from engines.errors import BadRequest
from engines.requests import MeasureResult

SSIM_SIDE = 11  # pixels of the window that structural similarity looks through


@torch.no_grad()
def measure(request, device):
    """PSNR, SSIM, perceptual distance and plain differences of the two pictures of a `MeasureRequest`.

    Raises `BadRequest` for pictures of two sizes or too small for the window of SSIM.
    """
    started = time.monotonic()
    one, other = (pictures.from_png(png) for png in (request.image, request.other))
    if one.size != other.size:
        raise BadRequest(
            f"The pictures are {one.width}x{one.height} and {other.width}x{other.height} pixels; "
            "only pictures of one size can be measured against each other."
        )
    if min(one.size) < SSIM_SIDE:
        raise BadRequest(f"The pictures are {one.width}x{one.height} pixels; measuring needs {SSIM_SIDE} on each side.")
    x, y = (tensors.from_image(image).to(device) for image in (one, other))
    distance = metrics.RandomPerceptual().to(device)(x, y).item()
    apart = np.abs(np.asarray(one, np.int16) - np.asarray(other, np.int16))
    differences = int(apart.max()), float(apart.mean())
    return MeasureResult(metrics.psnr(x, y), metrics.ssim(x, y), distance, *differences, time.monotonic() - started)
