"""Words, noise or a picture to new pictures: by latent diffusion, or by the tokens of a VQGAN."""

import time

import torch

from engines import pictures, tensors
from engines.diffusion import samplers, schedules
from engines.diffusion.few_steps import FewStepDiffusion
from engines.errors import BadRequest
from engines.pipelines import calls
from engines.pipelines.pipeline import Pipeline
from engines.requests import GenerateResult, Picture, alone, choose
from engines.tasks import drawing
from engines.vqgan import decoding, gpt


@torch.no_grad()
def generate(request, model, on_progress=None):
    """The pictures of a `GenerateRequest` by a `LatentDiffusion` model, a `TokenGenerator`, a `RasterGenerator`
    or a `Pipeline`.

    `on_progress(Progress)` is called after each step, with a preview in some; `Cancelled` raised from
    it ends the task there. Where memory runs out, the nets go over one row at a time instead, and the result says so.
    Raises `BadRequest` for what this model cannot draw.
    """
    started = time.monotonic()
    size = request.width, request.height
    model, told = drawing.of_size(model, *size)
    _check(request, model)
    images, note = drawing.in_batches(request, model, size, DRAW[model.family], on_progress)
    finished = map(Picture, images, drawing.seeds(request, range(request.count)))
    return GenerateResult(tuple(finished), time.monotonic() - started, note=" ".join(filter(None, (told, note))))


def _check(request, model):
    multiple = model.size_multiple
    if request.width % multiple or request.height % multiple:
        raise BadRequest(
            f"The size is {request.width}x{request.height}; "
            f"this model draws widths and heights in multiples of {multiple}."
        )
    if model.family == Pipeline.family:
        calls.check(request, model)
    elif model.family == gpt.RasterGenerator.family:
        _check_first(request, model)
    else:
        drawing.check_words(request, model)
    if model.family == FewStepDiffusion.family:
        _check_jumps(request, model)


def _variations(request, batch):
    return [alone(request, i).variation_seed for i in batch]


def _source(request, model):
    """The picture to start from as the model's latents or tokens, `(1, ...)`."""
    image = pictures.fit(pictures.from_png(request.image), request.width, request.height)
    return model.encode(tensors.from_image(image).to(model.device))


# ---------------------------------------------------------------- latent diffusion (Rombach et al., 2022)


def _diffuse(request, model, batch, report, each):
    """The pictures `(B, 3, H, W)` of a batch, step by step out of noise."""
    sampler, levels = _walk(request, model)
    sigmas = levels
    if request.image is not None:
        sigmas = schedules.tail(levels, request.strength)
    x = _start(request, model, batch) * sigmas[0].item()
    if request.image is not None:
        x = _source(request, model) + x
    size = request.width, request.height
    around = model.nothing_around(len(batch), *size[::-1]) if model.inpaints else None
    x = sampler(
        drawing.guided_denoiser(request, model, levels, sigmas, len(batch), each, size, around),
        x,
        sigmas.to(model.device),
        callback=lambda step: report(step.index, step.count, lambda: model.decode(step.denoised[:4])),
        noise_sampler=samplers.noise_sampler_from_seeds(drawing.seeds(request, batch), x.shape[1:], model.device),
    )
    return each(model.decode)(x)


def _walk(request, model):
    """The sampler, and the sigmas from noise to a picture."""
    if model.family == FewStepDiffusion.family:  # from stretch to stretch, as it learned
        return samplers.sample_euler, schedules.sgm_uniform(model.noise, request.steps)
    return samplers.by_name(request.sampler), schedules.by_name(request.scheduler)(model.noise, request.steps)


def _check_jumps(request, model):
    least, (low, high) = model.few_steps.steps, model.few_steps.scales
    if request.steps < least:
        raise BadRequest(f"This model draws in {least} steps; ask for {least} or more.")
    if not low <= request.cfg_scale <= high:
        raise BadRequest(f"This model learned guidance from {low:g} to {high:g}; set it between them.")
    fixed = {name: request.__dataclass_fields__[name].default for name in ("cfg_rescale", "cfg_start", "cfg_end")}
    if request.negative.strip() or any(getattr(request, name) != value for name, value in fixed.items()):
        raise BadRequest(
            "This model has its guidance within: it knows no negative words and no more settings of guidance. Take "
            f"them out, or draw with “{model.base}”."
        )


def _start(request, model, batch):
    """Noise from the seeds, leaning towards the variation seeds."""
    factor = model.first_stage.config.factor
    shape = (model.config.unet.out_channels, request.height // factor, request.width // factor)
    noise = tensors.noise(drawing.seeds(request, batch), shape)
    if request.variation_strength:
        other = tensors.noise(_variations(request, batch), shape)
        noise = tensors.slerp(noise, other, request.variation_strength)
    return noise.to(model.device)


# ---------------------------------------------------------------- tokens (Chang et al., 2022)


def _fill(request, model, batch, report, each):
    """The pictures `(B, 3, H, W)` of a batch, token by token; from a picture, `strength` of its tokens are redrawn."""
    factor = model.first_stage.config.factor
    height, width = request.height // factor, request.width // factor
    chance = decoding.Chance(
        drawing.seeds(request, batch), height, width, _variations(request, batch), request.variation_strength
    )
    tokens = torch.zeros(len(batch), height, width, dtype=torch.long, device=model.device)
    hidden = torch.ones_like(tokens, dtype=torch.bool)
    if request.image is not None:
        tokens = _source(request, model).expand_as(tokens)
        first = chance.gumbel(1)[..., 0].argsort(1).argsort(1) < round(request.strength * height * width)
        hidden = first.view(tokens.shape).to(model.device)
    tokens = drawing.fill(
        request, model, tokens, hidden, chance,
        lambda step: report(step.index, step.count, lambda: model.decode(step.tokens[:4])), each,
    )  # fmt: skip
    return each(model.decode)(tokens)


# ---------------------------------------------------------------- one token after the other (Esser et al., 2021)


def _check_first(request, model):
    size = model.size
    if (request.width, request.height) != (size, size):
        raise BadRequest(f"The size is {request.width}x{request.height}; this model draws {size}x{size} alone.")
    if request.image is not None:
        raise BadRequest("This model begins from nothing; take the picture out, or choose another model.")
    if request.negative.strip() or request.style or request.cfg_scale > 1:
        raise BadRequest("This model knows no guidance, negative words or styles; set guidance to 1, and them to none.")
    model.first(choose(request.prompt.strip(), request.seed))


def _follow(request, model, batch, report, each):
    """The pictures `(B, 3, H, W)` of a batch, token by token, row by row."""
    if each is tensors.row_by_row and len(batch) > 1:
        return torch.cat([_follow(request, model, range(i, i + 1), report, each) for i in batch])
    side = model.config.side
    chance = decoding.Chance(
        drawing.seeds(request, batch), side, side, _variations(request, batch), request.variation_strength
    )
    first = model.first(choose(request.prompt.strip(), request.seed))
    tokens = gpt.follow(
        model.transformer,
        torch.full((len(batch),), first, device=model.device),
        chance.gumbel(model.config.n_embed),
        temperature=request.temperature,
        top_k=request.top_k,
        top_p=request.top_p,
        callback=lambda index, tokens: report(
            index, side**2, lambda: model.decode(tokens[:4].unflatten(1, (side, side)))
        ),
    )
    return each(model.decode)(tokens.unflatten(1, (side, side)))


DRAW = {
    "latent-diffusion": _diffuse, FewStepDiffusion.family: _diffuse, "token-transformer": _fill,
    "taming-transformer": _follow, Pipeline.family: calls.draw,
}  # fmt: skip
