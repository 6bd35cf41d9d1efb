"""What a request asks of a pipeline of diffusers, and the pictures that come of it."""

import torch

from engines import pictures, tensors
from engines.errors import BadRequest
from engines.pipelines import schedulers
from engines.pipelines.pipeline import takes
from engines.requests import alone
from engines.text.captions import compose

# what a pipeline must take where a field of a request is not as it is at first
NEEDS = {"negative": "negative_prompt", "cfg_rescale": "guidance_rescale", "cfg_start": None, "cfg_end": None}


def check(request, model):
    """Raise `BadRequest` for what a pipeline cannot be asked."""
    pipe = _pipe(request, model)
    refused = [name for name, needed in NEEDS.items() if needed not in takes(pipe)]
    if pipe is not model.pipe:
        refused.append("variation_strength")  # the noise is its own, from our seeds
    for name in refused:
        field = type(request).__dataclass_fields__.get(name)
        if field and getattr(request, name) != field.default:
            raise BadRequest(f"{type(pipe).__name__} of diffusers has no {name}; set it back, or choose our models.")
    if pipe is not model.pipe and int(request.steps * request.strength) < 1:
        raise BadRequest(
            f"A strength of {request.strength} leaves nothing of {request.steps} steps; "
            f"ask for at least {-(-1 // request.strength):.0f} steps."
        )


def _pipe(request, model):
    # the pipeline of diffusers that does what is asked
    if request.image is None:
        return model.pipe
    pipe = model.of("Image2Image")
    if pipe is None:
        kind = type(model.pipe).__name__
        raise BadRequest(f"{kind} of diffusers begins from noise alone; take the picture out, or choose another model.")
    return pipe


def draw(request, model, batch, report, each):
    """The pictures `(B, 3, H, W)` of a batch by a `Pipeline`, from the noise that our own models begin with.

    From a picture, the pipeline of diffusers that does so makes its noise of the same seeds. `each` is
    `tensors.row_by_row` where memory is short: the pictures are then drawn one by one.
    """
    if each is tensors.row_by_row and len(batch) > 1:
        return torch.cat([draw(request, model, range(i, i + 1), report, each) for i in batch])
    size = request.width, request.height
    if request.image is None:
        given = {"latents": _noise(request, model, batch)}
    else:
        picture = pictures.fit(pictures.from_png(request.image), *size)
        given = {"image": [picture] * len(batch), "strength": request.strength}
    return _called(_pipe(request, model), request, model, batch, report, size, given)


def _noise(request, model, batch):
    # the latents to begin with, leaning towards the variation seeds
    multiple = model.pipe.vae_scale_factor
    shape = (model.net.config.in_channels, request.height // multiple, request.width // multiple)
    asked = [alone(request, i) for i in batch]
    noise = tensors.noise([one.seed for one in asked], shape)
    if request.variation_strength:
        others = tensors.noise([one.variation_seed for one in asked], shape)
        noise = tensors.slerp(noise, others, request.variation_strength)
    return noise.to(model.pipe.device, model.precision)


def _called(pipe, request, model, batch, report, size, given):
    """The pictures `(B, 3, H, W)`, of `size` `(width, height)`, of a call with what is `given` beside the words."""
    pipe.scheduler = schedulers.chosen(request, model.scheduler)

    def stepped(pipe, index, timestep, values):
        report(index + 1, pipe.num_timesteps, lambda: model.decode(values["latents"][:4]))
        return values

    words = compose(request.prompt.strip(), request.style)
    given = {
        "prompt": [words] * len(batch),
        "negative_prompt": [request.negative.strip()] * len(batch),
        "width": size[0],
        "height": size[1],
        "num_inference_steps": request.steps,
        "guidance_scale": request.cfg_scale,
        "guidance_rescale": request.cfg_rescale,
        "generator": [tensors.generator(alone(request, i).seed) for i in batch],
        "callback_on_step_end": stepped,
        "output_type": "pil",
    } | given
    drawn = pipe(**{name: value for name, value in given.items() if name in takes(pipe)}).images
    return torch.cat([tensors.from_image(pictures.fit(image, *size)) for image in drawn])
