"""Masks: which pixels of a picture are painted anew, and how they are read, shaped and proposed.

A mask is `(H, W)` float32 in [0, 1]; 1 = repaint, 0 = keep. What lies between is painted with that strength.
"""

import io

import cv2
import numpy as np
from PIL import Image

from engines import pictures
from engines.errors import BadPicture, BadRequest


def from_png(data, size):
    """The mask in the bytes of a request, for a picture of `size` as `(width, height)`.

    Where a mask is transparent in some places, how opaque it is counts, whatever the colour of the brush;
    otherwise how bright. Raises `BadPicture` if it cannot be read, `BadRequest` if it is of another size.
    """
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            image = image.convert("RGBA")
    except (OSError, ValueError, SyntaxError) as error:
        raise BadPicture("The mask of this request cannot be read; paint or choose it again.") from error
    if image.size != size:
        raise BadRequest(
            f"The mask has {image.width}x{image.height} pixels and the picture {size[0]}x{size[1]}; "
            "give a mask of the size of the picture."
        )
    values = np.asarray(image)
    alpha = values[..., 3]
    return (values[..., :3].max(2) if alpha.min() == 255 else alpha).astype(np.float32) / 255


def to_png(mask):
    """The mask as the bytes of a grey PNG, white = repaint."""
    return pictures.to_png(Image.fromarray(np.round(mask * 255).astype(np.uint8)))


# ---------------------------------------------------------------- shape


def grow(mask, pixels):
    """The mask with its edges moved outwards by `pixels`; fewer than 0 shrink it."""
    size = 2 * abs(pixels) + 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    return cv2.dilate(mask, disc) if pixels > 0 else cv2.erode(mask, disc)


def feather(mask, pixels):
    """How much of the new is seen `(H, W)`: all wherever anything is painted, and round it less and less.

    The rim falls to exactly 0 over `pixels`.
    """
    far = cv2.distanceTransform((mask == 0).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    falling = np.clip(1 - far / (pixels + 1), 0, 1)
    return falling * falling * (3 - 2 * falling)  # smooth at both ends


def bounds(mask):
    """The smallest `(left, top, right, bottom)` that holds all that is painted; None for an empty mask."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def around(box, shape, margin, least, rim=0):
    """A square round a `box`, with a share `margin` of its longer side more on each side, and `least` pixels wide.

    At least `rim` pixels are on each side. What would reach over an edge of the picture, of `shape` as
    `(height, width)`, is taken at the other side, as far as there is room.
    """
    left, top, right, bottom = box
    longer = max(right - left, bottom - top)
    side = max(least, longer + 2 * max(round(margin * longer), rim))
    height, width = shape
    left, right = _widened(left, right, side, width)
    top, bottom = _widened(top, bottom, side, height)
    return left, top, right, bottom


def parts(mask, margin, least):
    """The smallest boxes `(left, top, right, bottom)`, row by row, that hold all that is painted part by part.

    A part is so small that `least` pixels show it with a share `margin` of it on each side, but no smaller than
    twice what is painted is thick: it is not cut where a model should see it whole.
    """
    left, top, right, bottom = bounds(mask)
    far = cv2.distanceTransform((mask > 0).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5).max()
    thick = 2 * min(far, max(mask.shape))  # without an edge anywhere it would be endless
    side = max(1, int(least / (1 + 2 * margin)), int(2 * thick))
    found = []
    for y in range(top, bottom, side):
        for x in range(left, right, side):
            box = bounds(mask[y : min(y + side, bottom), x : min(x + side, right)])
            if box:
                found.append((x + box[0], y + box[1], x + box[2], y + box[3]))
    return found


def _widened(low, high, side, whole):
    lacking = side - (high - low)
    low, high = low - lacking // 2, high + lacking - lacking // 2
    if low < 0:
        low, high = 0, high - low
    if high > whole:
        low, high = low - (high - whole), whole
    return max(0, low), high


# ---------------------------------------------------------------- proposals


def scratches(picture, strength, width=9):
    """Where thin bright or dark structures lie on `picture (H, W, 3)` uint8: scratches, dust, cracks.

    What a closing or an opening by a disc of `width` pixels fills is thinner than that (top-hat transform;
    Serra, 1982). It must stand out from the spread of its neighbourhood, the less the higher `strength` in
    [0, 1] is, and goes on from there as far as it stands out half as much (hysteresis; Canny, 1986).
    """
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width))
    bright, dark = (cv2.morphologyEx(grey, what, disc) for what in (cv2.MORPH_TOPHAT, cv2.MORPH_BLACKHAT))
    thin = np.maximum(bright, dark)
    reach = (8 * width + 1, 8 * width + 1)
    usual = cv2.blur(thin, reach)
    spread = np.sqrt(np.maximum(cv2.blur(thin * thin, reach) - usual * usual, 0))
    needed = (6 - 4 * strength) * spread + 24 * (1 - strength) + 6
    count, pieces = cv2.connectedComponents((thin > usual + needed / 2).astype(np.uint8))
    found = np.zeros(count, np.float32)
    found[pieces[thin > usual + needed]] = 1
    # a pixel more on each side: the edge of a scratch is blurred into the picture
    return grow(found[pieces], 1)


def transparent(alpha):
    """Where a picture of `alpha (H, W)` uint8 is not opaque, as strongly as it is not."""
    return 1 - alpha.astype(np.float32) / 255


def of_colour(picture, colour, reach):
    """Where `picture (H, W, 3)` uint8 is within `reach` of the `colour` (three of 0..255), by CIE76 in CIELAB."""
    lab = cv2.cvtColor(picture.astype(np.float32) / 255, cv2.COLOR_RGB2Lab)
    wanted = cv2.cvtColor(np.float32([[colour]]) / 255, cv2.COLOR_RGB2Lab)
    return (np.linalg.norm(lab - wanted, axis=2) <= reach).astype(np.float32)


def from_places(places, least, shape):
    """What has `least` or more of a coarse map `places (h, w)`, as a mask of `shape` `(height, width)`."""
    fine = cv2.resize(places.astype(np.float32), shape[::-1], interpolation=cv2.INTER_LINEAR)
    return (fine >= least).astype(np.float32)


def extended(picture, mask, left, top, right, bottom):
    """Picture `(H, W, 4)` and mask with so many pixels more on each side, which are to be painted.

    The new pixels repeat the edge, for what looks at them; nothing of that stays.
    """
    sides = (top, bottom, left, right)
    wide = cv2.copyMakeBorder(picture, *sides, cv2.BORDER_REPLICATE)
    return wide, cv2.copyMakeBorder(mask, *sides, cv2.BORDER_CONSTANT, value=1)
