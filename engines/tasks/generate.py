"""Words, noise or a picture to new pictures: by latent diffusion, or by the tokens of a VQGAN."""

import time

import torch

from engines import pictures, pipelines, tensors
from engines.diffusion import guidance, samplers, schedules
from engines.errors import AtelierError, BadRequest
from engines.requests import GenerateResult, Picture, Progress, alone, choose
from engines.text import prompt
from engines.vqgan import decoding

PIXELS_AT_ONCE = 2**20  # of a batch; more pictures are drawn batch after batch
PREVIEWS = 8  # a batch
SHORT = "Memory was short, so it was drawn one row of a batch at a time; fewer or smaller pictures are quicker."


@torch.no_grad()
def generate(request, model, on_progress=None):
    """The pictures of a `GenerateRequest` by a `LatentDiffusion` model, a `TokenGenerator` or a `Pipeline`.

    `on_progress(Progress)` is called after each step, with a preview in some; `Cancelled` raised from
    it ends the task there. Where memory runs out, the nets go over one row at a time instead, and the result says so.
    Raises `BadRequest` for what this model cannot draw.
    """
    started = time.monotonic()
    _check(request, model)
    draw = DRAW[model.family]
    batches = _batches(request)
    finished, each = [], _at_once
    for number, (request, batch) in enumerate(batches):

        def report(index, count, look, number=number):
            if on_progress:
                preview = _preview(look) if index < count and index % max(1, count // PREVIEWS) == 0 else None
                on_progress(Progress(number * count + index, len(batches) * count, preview))

        try:
            drawn = draw(request, model, batch, report, each)
        except torch.OutOfMemoryError:
            if each is tensors.row_by_row:
                raise
            drawn = None
        if drawn is None:  # what the failure held is free by now
            each = tensors.row_by_row
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            drawn = draw(request, model, batch, report, each)
        if not torch.isfinite(drawn).all():
            raise AtelierError("The picture came out without numbers; lower the guidance or choose another sampler.")
        finished += map(Picture, tensors.to_images(drawn), _seeds(request, batch))
    note = SHORT if each is tensors.row_by_row else ""
    return GenerateResult(tuple(finished), time.monotonic() - started, note=note)


def _at_once(function):
    # a net as it is: all rows at once
    return function


def _batches(request):
    # requests, and which of their pictures are drawn at once
    if choose(request.prompt, 0) != request.prompt:  # each picture has words of its own
        return [(alone(request, index), range(1)) for index in range(request.count)]
    at_once = max(1, PIXELS_AT_ONCE // (request.width * request.height))
    return [
        (request, range(first, min(first + at_once, request.count))) for first in range(0, request.count, at_once)
    ]


def _check(request, model):
    multiple = model.size_multiple
    if request.width % multiple or request.height % multiple:
        raise BadRequest(
            f"The size is {request.width}x{request.height}; "
            f"this model draws widths and heights in multiples of {multiple}."
        )
    if model.family == pipelines.FAMILY:
        pipelines.check(request, model)
    else:
        check_words(request, model)


def check_words(request, model):
    """Raise `BadRequest` if a request has more words than the model reads."""
    longest = model.config.text.context_length
    texts = {
        "prompt": prompt.readings(choose(request.prompt.strip(), request.seed), request.style),
        "negative": [prompt.weighted(request.negative.strip())],
    }
    for name in texts:
        count = max(model.tokenizer.count(text) for text in texts[name])
        if count > longest:
            raise BadRequest(f"The {name} has {count} tokens with its style; this model reads {longest}: shorten it.")


def _seeds(request, batch):
    return [alone(request, i).seed for i in batch]


def _variations(request, batch):
    return [alone(request, i).variation_seed for i in batch]


def _words(request, model, count):
    """What the model is told: `(share, conds)` for each stage of the words to follow, and of those to keep away from.

    `conds` are as `guided` takes them.
    """
    asked = choose(request.prompt.strip(), request.seed)
    stages = [
        (share, [(model.words([prompt.styled(part, request.style)] * count), weight)
                 for part, weight in prompt.composed(text)])
        for share, text in prompt.stages(asked)
    ]  # fmt: skip
    return stages, model.words([prompt.weighted(request.negative.strip())] * count)


def _source(request, model):
    """The picture to start from as the model's latents or tokens, `(1, ...)`."""
    image = pictures.fit(pictures.from_png(request.image), request.width, request.height)
    return model.encode(tensors.from_image(image).to(model.device))


def _preview(look):
    images = tensors.to_images(look())
    return pictures.grid(images, 1 if len(images) == 1 else 2)


# ---------------------------------------------------------------- latent diffusion (Rombach et al., 2022)


def _diffuse(request, model, batch, report, each):
    """The pictures `(B, 3, H, W)` of a batch, step by step out of noise."""
    sigmas = schedules.by_name(request.scheduler)(model.noise, request.steps)
    interval = guidance.interval_of_steps(sigmas, request.cfg_start, request.cfg_end)
    if request.image is not None:
        sigmas = schedules.tail(sigmas, request.strength)
    stages, uncond = _words(request, model, len(batch))
    around = {}
    if model.inpaints:
        around = {"concat": model.nothing_around(len(batch), request.height, request.width)}
    models = []
    for share, conds in stages:
        conds = [(cond | around, weight) for cond, weight in conds]
        told = conds, uncond | around, request.cfg_scale
        models.append(
            (share, guidance.guided(each(model.denoiser()), *told, rescale=request.cfg_rescale, interval=interval))
        )
    denoise = guidance.by_stages(models, sigmas)
    x = _start(request, model, batch) * sigmas[0].item()
    if request.image is not None:
        x = _source(request, model) + x
    x = samplers.by_name(request.sampler)(
        denoise,
        x,
        sigmas.to(model.device),
        callback=lambda step: report(step.index, step.count, lambda: model.decode(step.denoised[:4])),
        noise_sampler=samplers.noise_sampler_from_seeds(_seeds(request, batch), x.shape[1:], model.device),
    )
    return each(model.decode)(x)


def _start(request, model, batch):
    """Noise from the seeds, leaning towards the variation seeds."""
    factor = model.first_stage.config.factor
    shape = (model.config.unet.out_channels, request.height // factor, request.width // factor)
    noise = tensors.noise(_seeds(request, batch), shape)
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
        _seeds(request, batch), height, width, _variations(request, batch), request.variation_strength
    )
    tokens = torch.zeros(len(batch), height, width, dtype=torch.long, device=model.device)
    hidden = torch.ones_like(tokens, dtype=torch.bool)
    if request.image is not None:
        tokens = _source(request, model).expand_as(tokens)
        first = chance.gumbel(1)[..., 0].argsort(1).argsort(1) < round(request.strength * height * width)
        hidden = first.view(tokens.shape).to(model.device)
    tokens = fill(
        request, model, tokens, hidden, chance,
        lambda step: report(step.index, step.count, lambda: model.decode(step.tokens[:4])), each,
    )  # fmt: skip
    return each(model.decode)(tokens)


def fill(request, model, tokens, hidden, chance, callback=None, each=_at_once):
    """The maps `tokens (B, h, w)` with the places of `hidden` filled by the words of a request, as it asks.

    `each` says how the net goes over the rows of a batch.
    """
    order = decoding.by_halton(*tokens.shape[1:]) if request.order == "halton" else decoding.by_confidence
    stages, uncond = _words(request, model, len(tokens))
    net = each(model.transformer)
    models = [(share, decoding.guided(net, conds, uncond, request.cfg_scale)) for share, conds in stages]
    return decoding.decode(
        decoding.by_stages(models, request.steps),
        tokens,
        hidden,
        chance,
        steps=request.steps,
        corrections=request.corrections,
        order=order,
        temperature=request.temperature,
        top_k=request.top_k,
        callback=callback,
    )


DRAW = {"latent-diffusion": _diffuse, "token-transformer": _fill, pipelines.FAMILY: pipelines.draw}
