"""What was painted set into the picture it was painted for: matched at the seam, and nothing else touched."""

import cv2
import numpy as np

SWEEPS = 12  # of relaxation a level


def composite(source, painted, mask):
    """`source (H, W, C)` uint8 with `painted`, float of the same shape in [0, 255], as far as `mask (H, W)` says.

    Where the mask is 0 every value is that of the source, to the last bit.
    """
    share = mask[..., None]
    mixed = np.round(source + share * (np.clip(painted, 0, 255) - source)).astype(np.uint8)
    return np.where(share == 0, source, mixed)


def match_seam(source, painted, hole):
    """`painted (H, W, C)` float with its colours moved so that no seam is left round `hole (H, W)` bool.

    Outside of the hole it should be the source; by how much it is not is continued into the hole as smoothly
    as can be, and taken off. That is the solution of Poisson's equation with the gradients of what was
    painted (Pérez, Gangnet & Blake, 2003, eq. 4), written for the correction (their eq. 8, membrane).
    """
    if hole.all():
        return painted
    off = np.where(hole[..., None], 0, source - painted).astype(np.float32)
    return painted + membrane(off, ~hole)


def membrane(values, known):
    """`values (H, W, C)` where `known (H, W)` bool, and between them the solution of Laplace's equation.

    Coarse to fine: a map of half the size is solved first, and relaxed at each size (multigrid; Brandt, 1977).
    The edges of the map are mirrors.
    """
    values = np.where(known[..., None], values, 0).astype(np.float32)
    if known.all():
        return values
    height, width = known.shape
    if min(height, width) > 2:
        half = ((width + 1) // 2, (height + 1) // 2)
        weight = cv2.resize(known.astype(np.float32), half, interpolation=cv2.INTER_AREA)
        small = _planes(cv2.resize(values, half, interpolation=cv2.INTER_AREA), values.shape[2])
        small /= np.maximum(weight, 1e-6)[..., None]
        coarse = membrane(small, weight > 0)
        start = _planes(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR), values.shape[2])
    else:
        start = np.broadcast_to(values[known].mean(0) if known.any() else 0, values.shape)
    solved = np.where(known[..., None], values, start).astype(np.float32)
    kernel = np.float32([[0, 0.25, 0], [0.25, 0, 0.25], [0, 0.25, 0]])
    for _ in range(SWEEPS):
        relaxed = _planes(cv2.filter2D(solved, -1, kernel, borderType=cv2.BORDER_REPLICATE), values.shape[2])
        solved = np.where(known[..., None], values, relaxed)
    return solved


def _planes(array, channels):
    # OpenCV drops the last axis of pictures of one channel
    return array.reshape(*array.shape[:2], channels)
