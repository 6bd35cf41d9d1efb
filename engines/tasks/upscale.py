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
from engines.requests import GenerateResult, Picture, Progress

LARGEST = 16_384  # pixels a side of a result
CELL = 32  # pixels a side of the squares of noise, which lie where they lie however the tiles are cut


@torch.no_grad()
def upscale(request, model, on_progress=None):
    """The picture of an `UpscaleRequest` by an `Upscaler` or by `classical.Resampling`.

    It is of the size that is asked for to the pixel; what is transparent stays so, at smooth edges. Raises
    `BadRequest` for a result above `LARGEST` a side.
    """
    started = time.monotonic()
    source = np.asarray(pictures.from_png(request.image, "RGBA"))
    height, width = source.shape[:2]
    size = tuple(max(1, round(side * request.scale)) for side in (width, height))
    if max(size) > LARGEST:
        raise BadRequest(
            f"{width}x{height} pixels times {request.scale:g} are {size[0]}x{size[1]}; up to {LARGEST} a side can be "
            f"made: choose at most {math.floor(10 * LARGEST / max(width, height)) / 10:g} times."
        )
    colour, alpha = source[..., :3], source[..., 3]
    if alpha.min() < 255:  # colours that nobody sees must not be seen at the edges
        colour = blending.membrane(colour.astype(np.float32), alpha > 0).round().astype(np.uint8)
    made = PAINT[model.family](request, model, np.ascontiguousarray(colour), size, on_progress)
    if alpha.min() < 255:
        made = np.dstack([made, cv2.resize(alpha, size, interpolation=cv2.INTER_CUBIC)])
    seed = request.seed if request.detail else None
    return GenerateResult((Picture(Image.fromarray(made), seed),), time.monotonic() - started)


# ---------------------------------------------------------------- diffusion


def _by_diffusion(request, model, picture, size, on_progress):
    """`picture (H, W, 3)` uint8 at a `(width, height)`: enlarged in passes to that or above, then reduced to it."""
    passes = _passes(request.scale, model.config.scales)
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
        # wear is taken away at once; what is enlarged again is clean
        picture = _by_tiles(request, model, picture, scale, request.denoise * (number == 0), number, told)
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


def _by_tiles(request, model, picture, scale, wear, number, told):
    """One pass: each tile with as much around it as its pixels depend on, so that it is as of the whole picture."""
    height, width = picture.shape[:2]
    steps = request.looks if request.detail else 1
    margin, side = model.reach * steps, request.tile
    made = np.empty((height * scale, width * scale, 3), np.uint8)
    for top in range(0, height, side):
        for left in range(0, width, side):
            above, before = min(margin, top), min(margin, left)
            box = top - above, left - before, min(top + side + margin, height), min(left + side + margin, width)
            small = tensors.from_image(Image.fromarray(picture[box[0] : box[2], box[1] : box[3]])).to(model.device)

            def noise(index, box=box):
                return _noise((request.seed, number, index), 3 * scale**2, box).to(model.device)

            (tile,) = tensors.to_images(
                model.sample(small, scale, noise=noise, steps=steps, wear=wear, detail=request.detail)
            )
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


def _by_filter(request, model, picture, size, on_progress):
    made = model.enlarge(picture, size)
    if on_progress:
        on_progress(Progress(1, 1))
    return made


PAINT = {"upscaler": _by_diffusion, "classical-upscaling": _by_filter}
