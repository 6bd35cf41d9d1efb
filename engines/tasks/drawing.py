"""What tasks share that draw by words: batches, what the model is told, and how it follows."""

from functools import partial

import torch

from engines import pictures, tensors
from engines.diffusion import guidance
from engines.diffusion.latent import LatentDiffusion
from engines.diffusion.tiled import Tiled
from engines.errors import AtelierError, BadRequest
from engines.requests import Progress, alone, choose
from engines.text import prompt
from engines.vqgan import decoding
from engines.vqgan.autoencoder import VQGAN, Larger

PIXELS_AT_ONCE = 2**20  # of a batch; more pictures are drawn batch after batch
PREVIEWS = 8  # a batch
SHORT = "Memory was short, so it was drawn one row of a batch at a time; fewer or smaller pictures are quicker."
WHOLE = "At this size things may repeat themselves; in multiples of {multiple} pixels they are drawn whole."
TILED = "Memory was short, so the autoencoder went tile by tile, whose tones may differ a little; smaller pictures fit."


def in_batches(request, model, size, draw, on_progress=None):
    """The pictures of a request, one of `Drawn`, of `size` `(width, height)`, as PIL, and a note on how it went.

    `draw(request, model, batch, report, each)` gives the `(B, 3, H, W)` of the pictures in the range `batch`; it calls
    `report(index, count, look)` after each step, where `look()` would give what is to be seen, and lets nets go
    over the rows of a batch as `each` says. Where memory runs out, they go over one row at a time instead. The
    autoencoder of a `LatentDiffusion` does so by itself, and then goes over tiles, so that nothing is drawn anew.
    """
    batches = _batches(request, size)
    finished, each, stage = [], at_once, None
    if isinstance(model, LatentDiffusion):
        stage = Tiled(model.first_stage)
        model = model.drawing_with(stage)
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
        finished += tensors.to_images(drawn)
    short = each is tensors.row_by_row or bool(stage and stage.by_rows), bool(stage and stage.by_tiles)
    return finished, " ".join(note for note, held in zip((SHORT, TILED), short, strict=True) if held)


def of_size(model, width, height):
    """The model to draw pictures of that size with, and a note on it.

    It is that with the VQGAN's head for larger pictures, if it has one and so comes nearer to the size that it learned:
    nets that know one size repeat themselves on larger ones.
    """
    stage = getattr(model, "first_stage", None)
    if not isinstance(stage, VQGAN) or not stage.config.larger or width * height < 2 * model.size**2:
        return model, ""
    larger = model.drawing_with(Larger(stage))
    if width % larger.size_multiple or height % larger.size_multiple:
        return model, WHOLE.format(multiple=larger.size_multiple)
    return larger, ""


def as_stage(on_progress, number, count):
    """The progress of one of `count` stages as that of all of them; None where nobody is told."""
    if on_progress is None:
        return None
    return lambda at: on_progress(Progress(number * at.count + at.index, count * at.count, at.preview))


def at_once(function):
    """A net as it is: all rows of a batch at once."""
    return function


def _batches(request, size):
    # requests, and which of their pictures are drawn at once
    if choose(request.prompt, 0) != request.prompt:  # each picture has words of its own
        return [(alone(request, index), range(1)) for index in range(request.count)]
    many = max(1, PIXELS_AT_ONCE // (size[0] * size[1]))
    return [(request, range(first, min(first + many, request.count))) for first in range(0, request.count, many)]


def _preview(look):
    images = tensors.to_images(look())
    return pictures.grid(images, 1 if len(images) == 1 else 2)


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


def seeds(request, batch):
    """The seeds of the pictures `batch` of a request."""
    return [alone(request, i).seed for i in batch]


def _words(request, wanted, unwanted, count):
    """What the model is told: `(share, conds)` for each stage of the words to follow, and of those to keep away from.

    `conds` are as `guided` takes them. `wanted(texts)` and `unwanted(texts)` are what the model makes of them.
    """
    asked = choose(request.prompt.strip(), request.seed)
    stages = [
        (share, [(wanted([prompt.styled(part, request.style)] * count), weight)
                 for part, weight in prompt.composed(text)])
        for share, text in prompt.stages(asked)
    ]  # fmt: skip
    return stages, unwanted([prompt.weighted(request.negative.strip())] * count)


def guided_denoiser(request, model, levels, sigmas, count, each, size, around=None):
    """A `model(x, sigma) -> denoised` of a `LatentDiffusion` that follows the words of a request, for `count` rows.

    `levels` are those of all its steps, of which `sigmas` are gone; `size` `(width, height)` is that of what is drawn
    at once, in pixels; a net that inpaints is told what lies `around (count, ...)`. One that was distilled is told the
    guidance, which is in what it draws already.
    """
    interval = guidance.interval_of_steps(levels, request.cfg_start, request.cfg_end)
    wanted, unwanted = (partial(model.words, size=size, wanted=follow) for follow in (True, False))
    stages, uncond = _words(request, wanted, unwanted, count)
    told = {} if around is None else {"concat": around}
    scale = request.cfg_scale
    if model.config.unet.guidance_dim:
        told["guidance"], scale = torch.full((count,), scale, device=model.device), 1.0
    models = []
    for share, conds in stages:
        conds = [(cond | told, weight) for cond, weight in conds]
        options = {"rescale": request.cfg_rescale, "interval": interval}
        models.append((share, guidance.guided(each(model.denoiser()), conds, uncond | told, scale, **options)))
    return guidance.by_stages(models, sigmas)


def fill(request, model, tokens, hidden, chance, callback=None, each=at_once):
    """The maps `tokens (B, h, w)` with the places of `hidden` filled by the words of a request, as it asks.

    `each` says how the net goes over the rows of a batch.
    """
    order = decoding.by_halton(*tokens.shape[1:]) if request.order == "halton" else decoding.by_confidence
    stages, uncond = _words(request, model.words, model.words, len(tokens))
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
        top_p=request.top_p,
        callback=callback,
    )
