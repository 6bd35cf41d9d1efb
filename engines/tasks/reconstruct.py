"""A picture through an autoencoder and back, with its tokens and what was lost on the way."""

import colorsys
import math
import time

import numpy as np
import torch
from PIL import Image

from engines import metrics, pictures, requests, tensors
from engines.checkpoints import tokens as token_files
from engines.errors import AtelierError, BadPicture, BadRequest
from engines.requests import Progress, ReconstructResult
from engines.vqgan.quantizer import usage

DIFFERENCE_GAIN = 4  # a quarter of the full range is shown white


@torch.no_grad()
def reconstruct(request, model, on_progress=None):
    """What an autoencoder makes of the picture, or a `VQGAN` of the saved tokens, of a `ReconstructRequest`.

    Saved tokens must be of this very model: `model.sha256` is the hash of its file.
    """
    started = time.monotonic()
    device = next(model.parameters()).device
    source = x = tokens = None
    if request.tokens:
        tokens, size = opened(request.tokens, model)
        y = model.decode_indices(tokens.to(device))
    else:
        source = _reduced(pictures.from_png(request.image), request.max_side)
        size = source.size
        if min(size) < 16:
            raise BadPicture(f"The picture is {size[0]}x{size[1]} pixels; it needs at least 16 on each side.")
        x = tensors.from_image(source)
        latents = model.encode(tensors.pad_to_multiple(x, model.config.factor).to(device))
        if model.family == "vqgan":
            tokens = model.quantize(latents).indices
        y = model.decode(latents) if tokens is None else model.decode_indices(tokens)
    y = y[..., : size[1], : size[0]].cpu()
    if not torch.isfinite(y).all():
        raise AtelierError("The reconstruction came out without numbers; this model's weights are not sound.")
    image = tensors.to_images(y)[0]
    if on_progress:
        on_progress(Progress(1, 1))
    return ReconstructResult(
        reconstruction=image,
        seconds=time.monotonic() - started,
        **({} if x is None else _compared(source, x, tensors.from_image(image))),  # as it is saved, in 8 bits
        **({} if tokens is None else _of_tokens(tokens[0].cpu(), model, size)),
    )


def opened(data, model):
    """The tokens `(1, h, w)` in a file of the VQGAN `model`, and the `(width, height)` of their picture.

    Raises `BadPicture` or `BadRequest` for a file that is damaged or of another model.
    """
    if model.family != "vqgan":
        raise BadRequest("These are tokens, and this model has none; choose the VQGAN that they were made with.")
    saved = token_files.from_bytes(data)
    if saved.model != model.sha256:
        raise BadRequest(
            f"These tokens are of another model, whose file begins with {saved.model[:8]} in SHA-256; "
            "choose the one that they were made with."
        )
    height, width = saved.indices.shape
    factor = model.config.factor
    longest = requests.control(requests.ReconstructRequest, "max_side")["high"]
    if max(saved.indices.shape) * factor > longest + factor:
        raise BadPicture(f"The tokens in this file make a picture of over {longest} pixels a side; open a smaller one.")
    fits = saved.size[0] <= width * factor and saved.size[1] <= height * factor
    if saved.indices.max() >= model.codebook_config.n_embed or not fits:
        raise BadPicture("The tokens in this file contradict its model or its size; it is damaged.")
    return torch.from_numpy(saved.indices)[None], saved.size


def _compared(source, x, y):
    return {"source": source, "difference": _difference(x, y), "psnr": metrics.psnr(x, y), "ssim": metrics.ssim(x, y)}


def _of_tokens(indices, model, size):
    n_embed = model.codebook_config.n_embed
    used, perplexity = usage(indices, n_embed)
    return {
        "indices": indices.numpy(),
        "tokens": token_files.to_bytes(token_files.Tokens(indices.numpy(), size, model.sha256)),
        "token_map": token_map(indices.numpy(), model.config.factor, size),
        "bits_per_pixel": indices.numel() * math.log2(n_embed) / (size[0] * size[1]),
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
