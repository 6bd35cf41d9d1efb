"""Masks as people paint them, for learning to restore and for measuring it: scratches, strokes, blocks, borders."""

import math

import numpy as np
from PIL import Image, ImageDraw


def random_mask(side, rng, kinds=("scratches", "strokes", "blocks", "borders")):
    """A `(side, side)` float32 mask of one of the `kinds`, keys of KINDS: 1 = repaint; never empty."""
    sheet = Image.new("L", (side, side))
    KINDS[kinds[rng.integers(len(kinds))]](ImageDraw.Draw(sheet), side, rng)
    mask = np.asarray(sheet, np.float32) / 255
    return mask if mask.any() else np.ones_like(mask)


def _scratches(draw, side, rng):
    """Two to six hair lines across the picture, and specks of dust."""
    for _ in range(rng.integers(2, 7)):
        width = int(rng.integers(1, max(3, side // 32)))
        _walk(draw, side, rng, width, turns=rng.integers(2, 8), bend=0.4, reach=(side / 8, side / 3))
    for _ in range(rng.integers(0, 12)):
        x, y = rng.uniform(0, side, 2)
        draw.circle((x, y), rng.uniform(0.5, side / 64 + 0.5), fill=255)


def _strokes(draw, side, rng):
    """One to three strokes of a brush (Yu et al., 2019, "Free-form image inpainting with gated convolution")."""
    for _ in range(rng.integers(1, 4)):
        brush = int(rng.integers(max(2, side // 16), max(3, side // 6)))
        _walk(draw, side, rng, brush, turns=rng.integers(3, 8), bend=1, reach=(side / 16, side / 5))


def _blocks(draw, side, rng):
    """One rectangle of a quarter to three quarters of the side, or two smaller ones."""
    count = rng.integers(1, 3)
    for _ in range(count):
        width, height = rng.integers(side // 4, side * 3 // (4 * count), 2, endpoint=True)
        left, top = rng.integers(0, side - width), rng.integers(0, side - height)
        draw.rectangle([int(left), int(top), int(left + width - 1), int(top + height - 1)], fill=255)


def _borders(draw, side, rng):
    """All beyond one to three of the edges of a window: a picture to be continued."""
    depth = rng.integers(max(1, side // 8), side // 2, 4) * (rng.permutation(4) < rng.integers(1, 4))
    left, top, right, bottom = (int(pixels * (0.6 if np.count_nonzero(depth) > 1 else 1)) for pixels in depth)
    draw.rectangle([0, 0, side, side], fill=255)
    draw.rectangle([left, top, side - 1 - right, side - 1 - bottom], fill=0)


KINDS = {"scratches": _scratches, "strokes": _strokes, "blocks": _blocks, "borders": _borders}


def _walk(draw, side, rng, width, turns, bend, reach):
    """A line of that `width` in pieces of a length in `reach`, each turned by up to `bend` radians."""
    x, y = rng.uniform(0, side, 2)
    angle = rng.uniform(0, 2 * math.pi)
    for _ in range(turns):
        angle += rng.uniform(-bend, bend)
        length = rng.uniform(*reach)
        after = x + length * math.cos(angle), y + length * math.sin(angle)
        draw.line([(x, y), after], fill=255, width=width)
        if width > 2:
            draw.circle(after, width / 2, fill=255)
        x, y = after
