"""A picture made bigger and drawn over: enlarged first, then a second pass of the latent diffusion model."""

import math
import time

import torch

from engines import pictures, tensors
from engines.diffusion import samplers, schedules
from engines.diffusion.windows import fused, windows_at_once
from engines.errors import BadRequest
from engines.requests import GenerateResult, Picture, UpscaleRequest
from engines.tasks import drawing
from engines.tasks.upscale import upscale

LARGEST = 4096  # pixels a side of a result
SIDE = 1024  # pixels a side that the autoencoder sees at once
SHARED = 0.25  # of a side that two windows of the autoencoder share


@torch.no_grad()
def refine(request, model, upscaler, on_progress=None):
    """The pictures of a `RefineRequest` by a `LatentDiffusion`, of the size that `upscaler` makes of the source.

    The model sees windows of its own size, which agree at every step; memory grows with the latents alone. What is
    transparent stays so. Raises `BadRequest` for a result above `LARGEST` a side, and for too many words.
    """
    started = time.monotonic()
    drawing.check_words(request, model)
    longest = max(pictures.size_of(request.image))
    if longest * request.scale > LARGEST:
        raise BadRequest(
            f"{longest} pixels times {request.scale:g} are more than the {LARGEST} a side that can be drawn over; "
            f"choose at most {math.floor(10 * LARGEST / longest) / 10:g} times."
        )
    larger = UpscaleRequest(image=request.image, scale=request.scale)
    image = upscale(larger, upscaler, drawing.as_stage(on_progress, 0, 2)).pictures[0].image
    x = tensors.pad_to_multiple(tensors.from_image(image), model.size_multiple).to(model.device)

    def draw(request, model, batch, report, each):
        return _drawn_over(request, model, batch, x, report, each)

    images, note = drawing.in_batches(request, model, x.shape[:1:-1], draw, drawing.as_stage(on_progress, 1, 2))
    made = [made.crop((0, 0, *image.size)) for made in images]
    if image.mode == "RGBA":
        for picture in made:
            picture.putalpha(image.getchannel("A"))
    finished = map(Picture, made, drawing.seeds(request, range(request.count)))
    return GenerateResult(tuple(finished), time.monotonic() - started, note=note)


def _drawn_over(request, model, batch, x, report, each):
    """The pictures `(B, 3, H, W)` of a batch: `x (1, 3, H, W)` under the noise of some of the last steps, and out."""
    factor, rows = model.first_stage.config.factor, len(batch)
    side, seeds = model.size // factor, drawing.seeds(request, batch)
    levels = schedules.by_name(request.scheduler)(model.noise, request.steps)
    sigmas = schedules.tail(levels, request.strength)
    known = fused(model.encode, x, SIDE // factor, SHARED, taken=factor)
    height, width = known.shape[2:]
    count = rows * windows_at_once(height, width, side, request.overlap)
    size = tuple(factor * min(side, length) for length in (width, height))  # of a window
    around = model.nothing_around(count, *size[::-1]) if model.inpaints else None
    windowed = drawing.guided_denoiser(request, model, levels, sigmas, count, each, size, around)

    def denoise(x, sigma):
        return fused(lambda rows: windowed(rows, sigma[:1].expand(len(rows))), x, side, request.overlap)

    def decode(latents):
        return fused(each(model.decode), latents, SIDE // factor, SHARED, given=factor)

    latents = samplers.by_name(request.sampler)(
        denoise,
        known + sigmas[0].item() * tensors.noise(seeds, known.shape[1:]).to(known),
        sigmas.to(model.device),
        callback=lambda step: report(step.index, step.count, lambda: decode(step.denoised[:4])),
        noise_sampler=samplers.noise_sampler_from_seeds(seeds, known.shape[1:], model.device),
    )
    return decode(latents)
