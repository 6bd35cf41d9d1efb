"""Pictures made clearer by plain means: blocks of JPEG taken away, local contrast, crisper edges.

Pictures are `(H, W, 3)` uint8; a `share` in (0, 1] says how far to go.
"""

import cv2
import numpy as np

SHIFTS = range(0, 8, 2)  # pixels, down and across, by which the grid of blocks is moved
QUALITIES = (95, 20)  # of JPEG, at the ends of the share
CLIP = 3.0  # times the mean of a histogram to which its peaks are cut
GRID = (8, 8)  # histograms across and down
RADIUS = 1.0  # pixels: the spread of the blur whose lack is sharpness
MOST = 2.0  # times that lack


def deblocked(picture, share):
    """The mean of the picture saved as JPEG again with the grid of blocks at many places (Nosratinia, 2001).

    `share` is how strongly it was compressed: 1 is a quality of about 20.
    """
    low, high = QUALITIES
    options = [cv2.IMWRITE_JPEG_QUALITY, round(low + share * (high - low))]
    options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    height, width = picture.shape[:2]
    picture = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)  # as OpenCV writes it
    total = np.zeros(picture.shape, np.uint16)
    for down in SHIFTS:
        for across in SHIFTS:
            moved = cv2.copyMakeBorder(picture, down, 0, across, 0, cv2.BORDER_REPLICATE)
            _, saved = cv2.imencode(".jpg", moved, options)
            total += cv2.imdecode(saved, cv2.IMREAD_COLOR)[down : down + height, across : across + width]
    count = len(SHIFTS) ** 2
    return cv2.cvtColor(((total + count // 2) // count).astype(np.uint8), cv2.COLOR_BGR2RGB)


def with_local_contrast(picture, share):
    """The lightness spread over its range place by place, in peaks cut short (Zuiderveld, 1994, CLAHE)."""
    lightness, *hues = cv2.split(cv2.cvtColor(picture, cv2.COLOR_RGB2LAB))
    spread = cv2.createCLAHE(CLIP, GRID).apply(lightness)
    lightness = cv2.addWeighted(lightness, 1 - share, spread, share, 0)
    return cv2.cvtColor(cv2.merge([lightness, *hues]), cv2.COLOR_LAB2RGB)


def sharpened(picture, share):
    """What a blur would take away added once more: an unsharp mask."""
    amount = MOST * share
    return cv2.addWeighted(picture, 1 + amount, cv2.GaussianBlur(picture, (0, 0), RADIUS), -amount, 0)
