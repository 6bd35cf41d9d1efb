"""Words, noise or a picture to new pictures, by latent diffusion (Rombach et al., 2022)."""

import dataclasses
import time

import torch

from engines import pictures, tensors
from engines.diffusion import samplers, schedules
from engines.diffusion.guidance import guided, interval_of_steps
from engines.errors import AtelierError, BadRequest
from engines.requests import GenerateResult, Picture, Progress
from engines.text.captions import compose

PIXELS_AT_ONCE = 2**20  # of a batch; more pictures are drawn batch after batch
PREVIEWS = 8  # a batch


@torch.no_grad()
def generate(request, model, on_progress=None):
    """The pictures of a `GenerateRequest` by a `LatentDiffusion` model.

    `on_progress(Progress)` is called after each step, with a preview in some; `Cancelled` raised from
    it ends the task there. Raises `BadRequest` for what this model cannot draw.
    """
    started, device = time.monotonic(), model.latent_mean.device
    _check(request, model)
    sigmas = schedules.by_name(request.scheduler)(model.noise, request.steps)
    interval = interval_of_steps(sigmas, request.cfg_start, request.cfg_end)
    if request.image is not None:
        sigmas = schedules.tail(sigmas, request.strength)
    at_once = max(1, PIXELS_AT_ONCE // (request.width * request.height))
    batches = [range(first, min(first + at_once, request.count)) for first in range(0, request.count, at_once)]
    finished = []
    for number, batch in enumerate(batches):

        def report(step, number=number):
            if on_progress:
                index, count = number * step.count + step.index, len(batches) * step.count
                on_progress(Progress(index, count, _preview(step, model)))

        x = _start(request, model, batch, sigmas, device)
        fresh = samplers.noise_sampler_from_seeds(_seeds(request, batch), x.shape[1:], device)
        denoise = _guided(request, model, len(batch), interval)
        x = samplers.by_name(request.sampler)(denoise, x, sigmas.to(device), callback=report, noise_sampler=fresh)
        drawn = model.decode(x)
        if not torch.isfinite(drawn).all():
            raise AtelierError("The picture came out without numbers; lower the guidance or choose another sampler.")
        finished += map(Picture, tensors.to_images(drawn), _seeds(request, batch))
    return GenerateResult(tuple(finished), time.monotonic() - started)


def alone(request, index):
    """The request that draws picture `index` of `request` and nothing else."""
    return dataclasses.replace(
        request,
        count=1,
        seed=(request.seed + index) % 2**32,
        variation_seed=(request.variation_seed + index) % 2**32,
    )


def _check(request, model):
    multiple = model.size_multiple
    if request.width % multiple or request.height % multiple:
        raise BadRequest(
            f"The size is {request.width}x{request.height}; "
            f"this model draws widths and heights in multiples of {multiple}."
        )
    longest = model.config.text.context_length
    for name in ("prompt", "negative"):
        count = model.tokenizer.count(compose(getattr(request, name), request.style if name == "prompt" else ""))
        if count > longest:
            raise BadRequest(f"The {name} has {count} tokens with its style; this model reads {longest}: shorten it.")


def _seeds(request, batch):
    return [alone(request, i).seed for i in batch]


def _start(request, model, batch, sigmas, device):
    # noise from the seeds, leaning towards the variation seeds, over the latents of a picture if there is one
    factor = model.first_stage.config.factor
    shape = (model.config.unet.out_channels, request.height // factor, request.width // factor)
    noise = tensors.noise(_seeds(request, batch), shape)
    if request.variation_strength:
        other = tensors.noise([alone(request, i).variation_seed for i in batch], shape)
        noise = tensors.slerp(noise, other, request.variation_strength)
    x = noise.to(device) * sigmas[0].item()
    if request.image is None:
        return x
    source = pictures.fit(pictures.from_png(request.image), request.width, request.height)
    return model.encode(tensors.from_image(source).to(device)) + x


def _guided(request, model, count, interval):
    extra = {"concat": model.nothing_around(count, request.height, request.width)} if model.inpaints else {}
    words = compose(request.prompt.strip(), request.style)
    cond = model.words([words] * count) | extra
    uncond = model.words([request.negative.strip()] * count) | extra
    return guided(
        model.denoiser(), cond, uncond, request.cfg_scale, rescale=request.cfg_rescale, interval=interval
    )


def _preview(step, model):
    every = max(1, step.count // PREVIEWS)
    if step.index % every or step.index == step.count:
        return None
    images = tensors.to_images(model.decode(step.denoised[:4]))
    return pictures.grid(images, 1 if len(images) == 1 else 2)
