"""The codes of a VQGAN as pictures: what each of them draws among its own kind."""

import colorsys
import time

import numpy as np
import torch
from PIL import Image

from engines import tensors
from engines.errors import BadRequest
from engines.requests import CodebookResult, Progress

COLUMNS = 64
AT_ONCE = 256  # codes decoded together


@torch.no_grad()
def codebook(request, model, on_progress=None):
    """One patch a code: the middle of a map of 3x3 equal tokens, decoded."""
    if model.family != "vqgan":
        raise BadRequest("This model has no codebook; choose a VQGAN.")
    started = time.monotonic()
    n_embed, factor = model.codebook_config.n_embed, model.config.factor
    device, patches = next(model.parameters()).device, []
    for first in range(0, n_embed, AT_ONCE):
        codes = torch.arange(first, min(first + AT_ONCE, n_embed), device=device)
        drawn = model.decode_indices(codes[:, None, None].expand(-1, 3, 3))
        patches += tensors.to_images(drawn[..., factor : 2 * factor, factor : 2 * factor])
        if on_progress:
            on_progress(Progress(len(patches), n_embed))
    rows = -(-n_embed // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * factor, rows * factor))
    for code, patch in enumerate(patches):
        sheet.paste(patch, (code % COLUMNS * factor, code // COLUMNS * factor))
    order = sorted(range(n_embed), key=lambda code: _colour_key(patches[code]))
    return CodebookResult(sheet, COLUMNS, factor, tuple(order), time.monotonic() - started)


def _colour_key(patch):
    """Greys first, from dark to light, then the colours round the circle."""
    red, green, blue = np.asarray(patch).reshape(-1, 3).mean(0) / 255
    hue, light, saturation = colorsys.rgb_to_hls(red, green, blue)
    chroma = saturation * (1 - abs(2 * light - 1))
    return (0, light) if chroma < 0.08 else (1, int(hue * 24), light)
