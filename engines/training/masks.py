"""Random masks for learning to inpaint: boxes and brush strokes, in the proportions that people paint."""

import math

import numpy as np
from PIL import Image, ImageDraw


def random_mask(side, rng):
    """A `(side, side)` float32 mask, 1 = repaint: one to three boxes or strokes, never empty.

    Free-form strokes after Yu et al., 2019, "Free-form image inpainting with gated convolution".
    """
    sheet = Image.new("L", (side, side))
    draw = ImageDraw.Draw(sheet)
    for _ in range(rng.integers(1, 4)):
        if rng.random() < 0.5:
            width, height = rng.integers(side // 6, side * 3 // 5, 2)
            left, top = rng.integers(0, side - width), rng.integers(0, side - height)
            draw.rectangle([int(left), int(top), int(left + width), int(top + height)], fill=255)
        else:
            brush = int(rng.integers(side // 16, side // 5))
            x, y = rng.uniform(0, side, 2)
            angle = rng.uniform(0, 2 * math.pi)
            for _ in range(rng.integers(3, 9)):
                angle += rng.uniform(-1, 1)
                reach = rng.uniform(side / 16, side / 4)
                after = x + reach * math.cos(angle), y + reach * math.sin(angle)
                draw.line([(x, y), after], fill=255, width=brush)
                draw.circle(after, brush / 2, fill=255)
                x, y = after
    mask = np.asarray(sheet, np.float32) / 255
    return mask if mask.any() else np.ones_like(mask)
