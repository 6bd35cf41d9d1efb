"""What comparison and evaluation measure."""

import math

from torchmetrics.functional.image import structural_similarity_index_measure


def psnr(x, y):
    """Peak signal-to-noise ratio in dB of pictures `(B, 3, H, W)` in [-1, 1], over all of them; inf for equal ones."""
    error = (x - y).square().mean().item()
    return 10 * math.log10(4 / error) if error else math.inf


def ssim(x, y):
    """Mean structural similarity (Wang et al., 2004) of pictures `(B, 3, H, W)` in [-1, 1], each side at least 11."""
    return structural_similarity_index_measure(y, x, data_range=2.0).item()

