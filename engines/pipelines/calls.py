"""What a request asks of a pipeline of diffusers, and the pictures that come of it."""

import torch
from PIL import Image

from engines import pictures, tensors
from engines.errors import BadRequest
from engines.pipelines import schedulers
from engines.pipelines.pipeline import takes
from engines.requests import InpaintRequest, alone, choose
from engines.text.captions import compose

# what a pipeline must take where a field of a request is not as it is at first
NEEDS = {
    "negative": "negative_prompt", "cfg_rescale": "guidance_rescale", "cfg_start": None, "cfg_end": None, "jumps": None,
}  # fmt: skip
OF_TOKENS = ("order", "temperature", "top_k", "top_p", "corrections")  # fields that our own token models alone know


def check(request, model):
    """Raise `BadRequest` for what a pipeline cannot be asked."""
    pipe = _pipe(request, model)
    refused = [name for name, needed in NEEDS.items() if needed not in takes(pipe)]
    if model.fills:
        refused += OF_TOKENS
    if model.fills or request.image is not None and not model.shown:
        refused.append("variation_strength")  # the noise is the pipeline's own, by our seeds
    for name in refused:
        field = type(request).__dataclass_fields__.get(name)
        if field and getattr(request, name) != field.default:
            raise BadRequest(f"{type(pipe).__name__} of diffusers has no {name}; set it back, or choose our models.")
    prompt = choose(request.prompt.strip(), request.seed)
    for name, text in {"prompt": compose(prompt, request.style), "negative": request.negative.strip()}.items():
        count, longest = model.reads(text)
        if count > longest:
            raise BadRequest(f"The {name} has {count} tokens with its style; this model reads {longest}: shorten it.")


def _pipe(request, model):
    """The pipeline of diffusers that does what is asked, by the parts of a `Pipeline`."""
    if model.shown and request.image is None:
        raise BadRequest("This pipeline of diffusers goes by a picture, too; choose one, or another model.")
    if model.shown and not isinstance(request, InpaintRequest):
        return model.pipe
    if isinstance(request, InpaintRequest) or model.inpaints:
        task, otherwise = "Inpainting", "paints under no mask; choose another model"
    elif request.image is not None:
        task, otherwise = "Image2Image", "begins from noise alone; take the picture out, or choose another model"
    else:
        return model.pipe
    pipe = None if model.shown else model.of(task)
    if pipe is None:
        raise BadRequest(f"{type(model.pipe).__name__} of diffusers {otherwise}.")
    return pipe


def draw(request, model, batch, report, each):
    """The pictures `(B, 3, H, W)` of a batch by a `Pipeline`, from the noise that our own models begin with.

    From a picture, the pipeline of diffusers that does so makes its noise of the same seeds; one that inpaints has all
    under its mask. `each` is `tensors.row_by_row` where memory is short: the pictures are then drawn one by one, as
    they are where they are tokens, which are drawn by one generator.
    """
    if len(batch) > 1 and (model.fills or each is tensors.row_by_row):
        return _one_by_one(batch, report, lambda row, told: draw(request, model, row, told, each))
    size = request.width, request.height
    picture = Image.new("RGB", size)
    if request.image is not None:
        picture = pictures.fit(pictures.from_png(request.image), *size)
    if model.shown:
        given = {model.shown: picture, "controlnet_conditioning_scale": request.strength}
        if model.adapted:
            model.pipe.set_ip_adapter_scale(request.strength)
    elif request.image is not None:
        given = {"image": [picture] * len(batch), "strength": _strong(request, request.strength)}
    else:
        given = {"image": [picture] * len(batch), "strength": 1.0} if model.inpaints else {}
    if model.inpaints:
        given["mask_image"] = [Image.new("L", size, 255)] * len(batch)
    if not model.fills and (request.image is None or model.shown):
        given["latents"] = _noise(request, model, batch)
    return _called(request, model, batch, report, size, given)


def paint(request, model, batch, x, strength, report, each):
    """Pictures `(B, 3, H, W)` of `x (1, 3, H, W)` painted anew wherever `strength (1, 1, H, W)` is above 0.

    A pipeline knows one strength, the greatest that is there, and whole latents: all that the mask touches are new.
    """
    if len(batch) > 1 and each is tensors.row_by_row:
        return _one_by_one(batch, report, lambda row, told: paint(request, model, row, x, strength, told, each))
    places = torch.nn.functional.max_pool2d((strength > 0).float(), model.pipe.vae_scale_factor)
    hole = torch.nn.functional.interpolate(places, strength.shape[2:])
    (picture,), (mask,) = tensors.to_images(x), tensors.to_images(2 * hole.expand(-1, 3, -1, -1) - 1)
    given = {
        "image": [picture] * len(batch),
        "mask_image": [mask] * len(batch),
        "strength": _strong(request, round(strength.max().item(), 4)),  # as it was asked for, not in float32
    }
    return _called(request, model, batch, report, picture.size, given)


def _one_by_one(batch, report, draw):
    # what `draw(row, report)` gives for the rows of a batch, whose progress is that of all
    def told(number):
        return lambda index, count, look: report(number * count + index, len(batch) * count, look)

    return torch.cat([draw(range(i, i + 1), told(number)) for number, i in enumerate(batch)])


def _strong(request, strength):
    # of so many steps the pipelines go whole ones
    if int(request.steps * strength) < 1:
        raise BadRequest(
            f"A strength of {strength:g} leaves nothing of {request.steps} steps; ask for at least "
            f"{-(-1 // strength):.0f} steps."
        )
    return strength


def _noise(request, model, batch):
    # the latents to begin with, leaning towards the variation seeds
    multiple = model.pipe.vae_scale_factor
    shape = (model.pipe.vae.config.latent_channels, request.height // multiple, request.width // multiple)
    asked = [alone(request, i) for i in batch]
    noise = tensors.noise([one.seed for one in asked], shape)
    if request.variation_strength:
        others = tensors.noise([one.variation_seed for one in asked], shape)
        noise = tensors.slerp(noise, others, request.variation_strength)
    return noise.to(model.pipe.device, model.precision)


def _called(request, model, batch, report, size, given):
    """The pictures `(B, 3, H, W)`, of `size` `(width, height)`, of a call with what is `given` beside the words."""
    pipe = _pipe(request, model)
    if not model.fills:
        pipe.scheduler = schedulers.chosen(request, model.scheduler, "strength" in given)
    generators = [tensors.generator(alone(request, i).seed) for i in batch]

    def stepped(pipe, index, timestep, values):
        report(index + 1, pipe.num_timesteps, lambda: model.decode(values["latents"][:4]))
        return values

    def stepped_once(index, timestep, latents):  # as older pipelines tell of it
        report(index + 1, request.steps, lambda: model.decode(latents[:4]))

    given = {
        "prompt": [compose(request.prompt.strip(), request.style)] * len(batch),
        "width": size[0],
        "height": size[1],
        "num_inference_steps": request.steps,
        "guidance_scale": request.cfg_scale,
        "guidance_rescale": request.cfg_rescale,
        "generator": generators[0] if model.fills else generators,
        "callback_on_step_end": stepped,
        "callback": stepped_once,
        "clean_caption": False,  # the words and the size are as they are asked for
        "use_resolution_binning": False,
        "output_type": "pil",
    } | given
    if request.negative.strip():  # what stands for no words, the pipeline knows
        given["negative_prompt"] = [request.negative.strip()] * len(batch)
    drawn = pipe(**{name: value for name, value in given.items() if name in takes(pipe)}).images
    return torch.cat([tensors.from_image(pictures.fit(image, *size)) for image in drawn])
