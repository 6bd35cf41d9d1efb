"""A picture through an autoencoder and back, with its tokens and what was lost on the way."""

import colorsys
import math
import time

import numpy as np
import torch
from PIL import Image

from engines import metrics, pictures, tensors
from engines.errors import AtelierError, BadPicture
from engines.requests import Progress, ReconstructResult
from engines.vqgan.quantizer import usage

DIFFERENCE_GAIN = 4  # a quarter of the full range is shown white


@torch.no_grad()
def reconstruct(request, model, on_progress=None):
    """What a `VQGAN` or `KLAutoencoder` makes of the picture of a `ReconstructRequest`."""
    started = time.monotonic()
    source = _reduced(pictures.from_png(request.image), request.max_side)
    if min(source.size) < 16:
        raise BadPicture(f"The picture is {source.width}x{source.height} pixels; it needs at least 16 on each side.")
    x = tensors.from_image(source)
    padded = tensors.pad_to_multiple(x, model.config.factor).to(next(model.parameters()).device)
    latents = model.encode(padded)
    tokens = model.quantize(latents).indices if model.family == "vqgan" else None
    y = model.decode(latents)[..., : source.height, : source.width].cpu()
    if not torch.isfinite(y).all():
        raise AtelierError("The reconstruction came out without numbers; this model's weights are not sound.")
    y = tensors.from_image(tensors.to_images(y)[0])  # measured as it is saved, in 8 bits
    if on_progress:
        on_progress(Progress(1, 1))
    of_tokens = {} if tokens is None else _of_tokens(tokens[0].cpu(), model, source)
    return ReconstructResult(
        source=source,
        reconstruction=tensors.to_images(y)[0],
        difference=_difference(x, y),
        psnr=metrics.psnr(x, y),
        ssim=metrics.ssim(x, y),
        seconds=time.monotonic() - started,
        **of_tokens,
    )


def _of_tokens(indices, model, source):
    n_embed = model.codebook_config.n_embed
    used, perplexity = usage(indices, n_embed)
    return {
        "indices": indices.numpy(),
        "token_map": token_map(indices.numpy(), model.config.factor, source.size),
        "bits_per_pixel": indices.numel() * math.log2(n_embed) / (source.width * source.height),
        "codes_used": used,
        "n_embed": n_embed,
        "perplexity": perplexity,
    }


def token_map(indices, factor, size):
    """Tokens `(h, w)` as a picture of `size`, `factor` pixels a side each; a code has one colour everywhere."""
    codes, places = np.unique(indices, return_inverse=True)
    colours = np.array([_colour(int(code)) for code in codes], np.uint8)
    small = Image.fromarray(colours[places.reshape(indices.shape)])
    return small.resize((small.width * factor, small.height * factor), Image.Resampling.NEAREST).crop((0, 0, *size))


def _colour(code):
    # Steps of the golden ratio round the circle of hues keep neighbours in the codebook apart.
    hue = code * 0.6180339887 % 1
    return [round(255 * part) for part in colorsys.hls_to_rgb(hue, 0.45 + 0.2 * (code % 3) / 2, 0.65)]


def _difference(x, y):
    heat = (x - y).abs().mean(1, keepdim=True) * DIFFERENCE_GAIN - 1
    return tensors.to_images(heat.expand(-1, 3, -1, -1))[0]


def _reduced(image, max_side):
    scale = max_side / max(image.size)
    if scale >= 1:
        return image
    return image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.LANCZOS)
