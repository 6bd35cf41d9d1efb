"""Some tokens of a picture drawn anew by words, the others kept: inpainting by tokens (Chang et al., 2022, 4.3)."""

import time

import numpy as np
import torch

from engines import pictures
from engines.checkpoints import tokens as token_files
from engines.errors import BadRequest
from engines.requests import Progress, ResampleResult
from engines.tasks import drawing
from engines.tasks.reconstruct import opened
from engines.vqgan import decoding, editing


@torch.no_grad()
def resample(request, model, on_progress=None):
    """The tokens of a `ResampleRequest` with those under its mask drawn by the `TokenGenerator` `model`.

    The model looks at as many tokens at once as it learned to: a larger picture is done window by window,
    each with something of what lies around it, and its chance from `seed` plus the window's number.
    """
    started = time.monotonic()
    drawing.check_words(request, model)
    tokens, size = opened(request.tokens, model.first_stage)
    mask = _mask(request.mask, tokens.shape[1:])
    tokens = tokens.to(model.device)
    windows = editing.windows(mask, model.config.transformer.side)
    hidden = torch.from_numpy(mask)[None].to(model.device)
    for number, (window, cells) in enumerate(windows):
        here = (slice(None), *window)
        chance = decoding.Chance([(request.seed + number) % 2**32], *cells.shape)

        def report(step, number=number):
            if on_progress:
                on_progress(Progress(number * step.count + step.index, len(windows) * step.count))

        filled = drawing.fill(request, model, tokens[here], hidden[here], chance, report)
        now = torch.from_numpy(cells)[None].to(model.device)
        tokens[here] = torch.where(now, filled, tokens[here])
        hidden[here] &= ~now
    saved = token_files.Tokens(tokens[0].cpu().numpy(), size, model.first_stage.sha256)
    return ResampleResult(token_files.to_bytes(saved), time.monotonic() - started)


def _mask(png, shape):
    """Where the mask is white, `(h, w)` bool."""
    mask = np.asarray(pictures.from_png(png).convert("L")) > 127
    if mask.shape != tuple(shape):
        raise BadRequest(
            f"The mask has {mask.shape[1]}x{mask.shape[0]} pixels and the picture {shape[1]}x{shape[0]} tokens; "
            "give a pixel for each token."
        )
    if not mask.any():
        raise BadRequest("No token is marked to be drawn anew; mark some first.")
    return mask
