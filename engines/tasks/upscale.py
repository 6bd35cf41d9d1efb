"""A picture at more pixels, tile by tile: memory is bounded by the tile, and no tile shows where it ends."""

import hashlib
import math
import time

import cv2
import numpy as np
import torch
from PIL import Image

from engines import blending, pictures, tensors
from engines.errors import BadRequest
from engines.requests import MAX_SIDE, GenerateResult, Picture, Progress
from engines.tasks.adjust import cleaned, finished

BLURRED = 8  # pixels round a place that resampling and sharpening look at
CELL = 32  # pixels a side of the squares of noise, which lie where they lie however the tiles are cut


@torch.no_grad()
def upscale(request, model, on_progress=None):
    """The picture of an `UpscaleRequest` by an `Upscaler`, a net of `esrgan` or `classical.Resampling`.

    It is of the size that is asked for to the pixel; what is transparent stays so, at smooth edges. Raises
    `BadRequest` for a result above `MAX_SIDE` a side.
    """
    started = time.monotonic()
    colour, alpha = _opened(request)
    height, width = alpha.shape
    size = _larger(width, height, request.scale)
    if max(size) > MAX_SIDE:
        raise BadRequest(
            f"{width}x{height} pixels times {request.scale:g} are {size[0]}x{size[1]}; up to {MAX_SIDE} a side can be "
            f"made: choose at most {math.floor(10 * MAX_SIDE / max(width, height)) / 10:g} times."
        )
    made = finished(request, PAINT[model.family](request, model, colour, size, on_progress))
    if alpha.min() < 255:
        made = np.dstack([made, cv2.resize(alpha, size, interpolation=cv2.INTER_CUBIC)])
    return _result(request, made, started)


@torch.no_grad()
def spot(request, model, on_progress=None):
    """The square of a `SpotRequest` as it would be of the whole picture: to the bit, for whole numbers of times.

    A square that reaches beyond the picture is moved into it, or cut.
    """
    started = time.monotonic()
    colour, alpha = _opened(request)
    width, height = (min(request.side, side) for side in alpha.shape[::-1])
    left, top = min(request.left, alpha.shape[1] - width), min(request.top, alpha.shape[0] - height)
    reach = getattr(model, "reach", 0) * (request.looks if request.detail else 1)
    context = 2 * reach + BLURRED  # of all passes, the later of which look less far, and of what is done after them
    box = max(0, top - context), max(0, left - context), top + height + context, left + width + context
    part = np.ascontiguousarray(colour[box[0] : box[2], box[1] : box[3]])
    size = _larger(*part.shape[1::-1], request.scale)
    made = finished(request, PAINT[model.family](request, model, part, size, on_progress, box[:2]))
    above, before = round((top - box[0]) * request.scale), round((left - box[1]) * request.scale)
    width, height = _larger(width, height, request.scale)
    return _result(request, made[above : above + height, before : before + width], started)


def _opened(request):
    """The colours `(H, W, 3)` uint8 of a picture, cleaned up and continued where nobody sees them, and its alpha."""
    source = np.asarray(pictures.from_png(request.image, "RGBA"))
    colour, alpha = np.ascontiguousarray(source[..., :3]), source[..., 3]
    if alpha.min() < 255:  # colours that nobody sees must not be seen at the edges
        colour = blending.membrane(colour.astype(np.float32), alpha > 0).round().astype(np.uint8)
    return cleaned(request, colour, alpha), alpha


def _larger(width, height, scale):
    return tuple(max(1, round(side * scale)) for side in (width, height))


def _result(request, made, started):
    seed = request.seed if request.detail else None
    return GenerateResult((Picture(Image.fromarray(made), seed),), time.monotonic() - started)


# ---------------------------------------------------------------- diffusion


def _by_diffusion(request, model, picture, size, on_progress, corner=(0, 0)):
    """`picture (H, W, 3)` uint8 at a `(width, height)`, each tile as it would be of the whole picture.

    `corner` is where it begins in that: its top and its left.
    """
    looks = request.looks if request.detail else 1

    def enlarge(small, scale, number, box):
        times = math.prod(passes[:number])
        above, before = (times * place for place in corner)
        box = box[0] + above, box[1] + before, box[2] + above, box[3] + before

        def noise(index):
            return _noise((request.seed, number, index), 3 * scale**2, box).to(model.device)

        # wear is taken away at once; what is enlarged again is clean
        wear = request.denoise * (number == 0)
        return model.sample(small, scale, noise=noise, steps=looks, wear=wear, detail=request.detail)

    passes = _passes(request.scale, model.config.scales)
    if not passes and (request.denoise or request.detail):  # of the same size, and better
        passes = [min(model.config.scales)]
    return _in_passes(request, model, picture, size, passes, model.reach * looks, enlarge, on_progress)


def _by_net(request, model, picture, size, on_progress, corner=(0, 0)):
    """The same by a net of one scale, which knows of no noise and no wear."""

    def enlarge(small, scale, number, box):
        return model((small + 1) / 2).clamp(0, 1) * 2 - 1

    if model.scale == 1 and request.scale > 1:
        raise BadRequest("This model cleans pictures up and enlarges none; choose 1 times, or another model.")
    passes = _passes(request.scale, (model.scale,)) or [model.scale]
    return _in_passes(request, model, picture, size, passes, model.reach, enlarge, on_progress)


def _in_passes(request, model, picture, size, passes, margin, enlarge, on_progress):
    """Pass after pass to that size or above, then reduced to it."""
    counts, height, width = [], *picture.shape[:2]
    for scale in passes:
        counts.append(math.ceil(height / request.tile) * math.ceil(width / request.tile))
        height, width = height * scale, width * scale
    done = 0

    def told():
        nonlocal done
        done += 1
        if on_progress:
            on_progress(Progress(done, sum(counts)))

    for number, scale in enumerate(passes):
        picture = _by_tiles(request, model, picture, scale, number, margin, enlarge, told)
    if picture.shape[1::-1] != size:
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    return picture


def _passes(scale, scales):
    """Steps of the `scales` whose product is `scale` or the least above; the large ones first."""
    found, left = [], scale
    while left > 1:
        found.append(next((step for step in sorted(scales) if step >= left), max(scales)))
        left /= found[-1]
    return sorted(found, reverse=True)


def _by_tiles(request, model, picture, scale, number, margin, enlarge, told):
    """One pass: tile by tile with a `margin` round it, which is as much as its pixels depend on."""
    height, width = picture.shape[:2]
    side = request.tile
    made = np.empty((height * scale, width * scale, 3), np.uint8)
    for top in range(0, height, side):
        for left in range(0, width, side):
            above, before = min(margin, top), min(margin, left)
            box = top - above, left - before, min(top + side + margin, height), min(left + side + margin, width)
            small = tensors.from_image(Image.fromarray(picture[box[0] : box[2], box[1] : box[3]])).to(model.device)
            (tile,) = tensors.to_images(enlarge(small, scale, number, box))
            inner = np.asarray(tile)[above * scale :, before * scale :][: side * scale, : side * scale]
            made[top * scale : (top + side) * scale, left * scale : (left + side) * scale] = inner
            told()
    return made


def _noise(key, channels, box):
    """Standard normal noise `(1, channels, h, w)` of the places of a `box`, the same for each place in any box."""
    top, left, bottom, right = box
    first_row, first_column = top // CELL, left // CELL
    rows = [
        torch.cat([_cell((*key, row, column), channels) for column in range(first_column, -(-right // CELL))], dim=2)
        for row in range(first_row, -(-bottom // CELL))
    ]
    sheet = torch.cat(rows, dim=1)
    top, left = top - first_row * CELL, left - first_column * CELL
    return sheet[None, :, top : top + box[2] - box[0], left : left + box[3] - box[1]]


def _cell(key, channels):
    seed = int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "big") >> 1
    return torch.randn((channels, CELL, CELL), generator=tensors.generator(seed))


# ---------------------------------------------------------------- without weights


def _by_filter(request, model, picture, size, on_progress, corner=(0, 0)):
    made = model.enlarge(picture, size)
    if on_progress:
        on_progress(Progress(1, 1))
    return made


PAINT = {
    "upscaler": _by_diffusion,
    "rrdb": _by_net,
    "srvgg": _by_net,
    "spandrel": _by_net,
    "classical-upscaling": _by_filter,
}
