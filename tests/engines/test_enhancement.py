"""Plain means: what they promise, measured against the picture as it was."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from engines import enhancement


def scene(width=160, height=120):
    """Slopes, edges and a dark corner with something in it."""
    across, down = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    picture = np.stack([200 * across, 120 + 80 * np.sin(6 * down), 220 - 150 * down], axis=2)
    cv2.circle(picture, (50, 60), 25, (220, 60, 40), -1, cv2.LINE_AA)
    picture[:40, 100:] *= 0.08
    picture[10:30, 115:125] += 5
    return picture.clip(0, 255).astype(np.uint8)


def psnr(one, other):
    return -10 * np.log10(np.mean((one.astype(float) - other) ** 2) / 255**2)


def blocks(picture):
    """By how much neighbours differ more at the edges of blocks than elsewhere."""
    steps = np.abs(np.diff(picture.astype(float), axis=1)).mean((0, 2))
    return steps[7::8].mean() - np.delete(steps, np.s_[7::8]).mean()


@pytest.mark.parametrize("quality", [10, 20, 35])
def test_a_jpeg_loses_its_blocks_and_comes_nearer_to_what_it_was(quality):
    picture, stream = scene(), io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=quality)
    saved = np.asarray(Image.open(stream).convert("RGB"))
    made = enhancement.deblocked(saved, 0.9)
    assert blocks(made) - blocks(picture) < 0.7 * (blocks(saved) - blocks(picture))
    assert psnr(made, picture) > psnr(saved, picture) + 0.05


def test_a_clean_picture_hardly_changes_where_little_is_taken():
    picture = scene()
    assert psnr(enhancement.deblocked(picture, 0.05), picture) > 45


def test_local_contrast_shows_what_lies_in_the_dark_and_keeps_the_hues():
    picture = scene()
    made = enhancement.with_local_contrast(picture, 1.0)

    def seen(pixels):  # of the bar in the dark corner
        return pixels[12:28, 117:123].astype(float).mean() - pixels[12:28, 126:130].mean()

    assert seen(made) > 1.5 * seen(picture) > 0
    hues = [cv2.cvtColor(p, cv2.COLOR_RGB2LAB)[60, 50, 1:].astype(int) for p in (picture, made)]
    assert np.abs(hues[0] - hues[1]).max() <= 6
    half = enhancement.with_local_contrast(picture, 0.5).astype(int)
    assert np.abs(half - (picture.astype(int) + made) / 2).mean() < 3


def test_sharpness_steepens_edges_and_leaves_plain_surfaces():
    step = np.full((20, 40, 3), 60, np.uint8)
    step[:, 20:] = 180
    soft = cv2.GaussianBlur(step, (0, 0), 1.5)
    one, two = (np.abs(np.diff(p[10, :, 0].astype(int))).max() for p in (soft, enhancement.sharpened(soft, 0.5)))
    assert two > 1.15 * one
    np.testing.assert_array_equal(enhancement.sharpened(soft, 0.5)[:, :8], soft[:, :8])


@pytest.mark.parametrize("size", [(1, 1), (1, 90), (7, 2)])
@pytest.mark.parametrize("act", [enhancement.deblocked, enhancement.with_local_contrast, enhancement.sharpened])
def test_the_smallest_pictures_stay_of_their_size(act, size):
    assert act(np.full((*size, 3), 77, np.uint8), 0.7).shape == (*size, 3)
