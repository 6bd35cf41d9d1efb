"""Pipelines of diffusers from the artist's folders: the peer in the same worker, from the same seeds and noise.

A folder that names its parts in `files.PIPELINE` is a model. Nothing is fetched, no code of the folder is run, and
weights are read from safetensors alone.
"""

import inspect
import re
from pathlib import Path

import torch

from engines import pictures, tensors
from engines.checkpoints import files, models
from engines.errors import BadCheckpoint, BadRequest
from engines.requests import alone
from engines.text.captions import compose

FAMILY = "diffusers"
# the scheduler's class for each sampler that diffusers has too, and what it is built with
SCHEDULERS = {
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {}),
    "dpmpp_2m_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "dpm_2": ("KDPM2DiscreteScheduler", {}),
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "lcm": ("LCMScheduler", {}),
}
SPACINGS = {
    "linear": {},
    "karras": {"use_karras_sigmas": True},
    "exponential": {"use_exponential_sigmas": True},
    "sgm_uniform": {"timestep_spacing": "trailing"},
}


WEIGHTS = {"diffusers": "diffusion_pytorch_model.safetensors", "transformers": "model.safetensors"}
LARGEST = 10**7  # of whole numbers in a configuration
OLDER = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # parts of an attention in old files


class Pipeline:
    """A pipeline of diffusers with what the engine asks of its models."""

    family = FAMILY

    def __init__(self, pipe):
        self.pipe = pipe
        self.scheduler = pipe.scheduler

    def to(self, device):
        self.pipe.to(device)
        return self

    def state_dict(self):
        """The weights of all nets of the pipeline, by part and name."""
        nets = {name: part for name, part in self.pipe.components.items() if isinstance(part, torch.nn.Module)}
        return {f"{name}.{key}": value for name, net in nets.items() for key, value in net.state_dict().items()}

    @property
    def precision(self):
        """The dtype that the nets compute in."""
        return self.pipe.unet.dtype

    @property
    def size_multiple(self):
        """Pixels that both sides of a picture must be a multiple of."""
        return self.pipe.vae_scale_factor

    def decode(self, latents):
        """Pictures `(B, 3, H, W)` of the pipeline's latents."""
        vae = self.pipe.vae
        return vae.decode((latents / vae.config.scaling_factor).to(vae.dtype)).sample.float()


def load(folder, precision=torch.float32):
    """The `Pipeline` in a folder, in a `precision`, a dtype.

    Raises `BadCheckpoint` for one that diffusers cannot build from safetensors alone.
    """
    from diffusers import DiffusionPipeline

    folder = Path(folder)
    parts = files.read_json(folder / files.PIPELINE)
    if not isinstance(parts, dict):
        raise BadCheckpoint(f"{folder.name} does not name the parts of its pipeline; copy the folder again.")
    for name, kind in parts.items():
        if name != Path(name).name:
            raise BadCheckpoint(f"{folder.name} has a part outside of its folder; it cannot be used.")
        _check_weights(folder / name, kind)
    try:
        options = {"safety_checker": None} if "safety_checker" in parts else {}
        pipe = DiffusionPipeline.from_pretrained(
            folder, torch_dtype=precision, local_files_only=True, use_safetensors=True, trust_remote_code=False,
            **options,
        )
    except Exception as error:  # diffusers raises anything
        first = str(error).strip().partition("\n")[0][:200]
        raise BadCheckpoint(f"{folder.name} is no pipeline that diffusers can open: {first}.") from error
    takes = _takes(pipe)
    if not hasattr(pipe, "unet") or not hasattr(pipe, "vae") or "latents" not in takes or "image" in takes:
        raise BadCheckpoint(f"{folder.name} is a {type(pipe).__name__}; those that draw from words and noise are used.")
    pipe.set_progress_bar_config(disable=True)
    model = Pipeline(pipe)
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise BadCheckpoint(f"{folder.name} holds NaN or infinite values in {name}; it cannot be used.")
    return model


def _check_weights(folder, kind):
    """Raise `BadCheckpoint` if the weights of a part, `(library, class)`, do not fit its configuration.

    Before any is read: the libraries take memory for whatever a configuration says, and make up what is missing.
    """
    import diffusers
    import transformers

    library, name = kind if isinstance(kind, list) and len(kind) == 2 else (None, None)
    path = folder / WEIGHTS.get(library, "")
    if library not in WEIGHTS or not isinstance(name, str) or not path.is_file():
        return  # no net, or one in many files
    net = getattr({"diffusers": diffusers, "transformers": transformers}[library], name, None)
    config = files.read_json(folder / "config.json")
    if _largest(config) > LARGEST:  # which could be a list's length before there is a layer to be counted
        raise BadCheckpoint(f"{folder.name}/config.json has a number above {LARGEST}; copy the folder again.")
    there = files.read_header(path)[0]
    if inspect.isclass(net) and issubclass(net, diffusers.ModelMixin):
        built = models.outline(folder, [path], lambda: net.from_config(config).state_dict())
        names = {re.sub(rf"\b({'|'.join(OLDER)})\b", lambda match: OLDER[match[1]], name): name for name in there}
        unused = ()
    elif inspect.isclass(net) and issubclass(net, transformers.PreTrainedModel):
        built = models.outline(folder, [path], lambda: _untied(net(net.config_class.from_dict(config))))
        found = {name.removeprefix("text_model."): name for name in there}
        names = {name: found.get(name.removeprefix("text_model."), name) for name in built}
        unused = there.keys() - set(names.values())  # such as positions, of which older files tell
    else:
        return
    files.check(path, {name: value.shape for name, value in built.items()}, names, unused)


def _largest(config):
    # whole number anywhere in it
    if isinstance(config, dict | list):
        return max(map(_largest, config.values() if isinstance(config, dict) else config), default=0)
    return config if isinstance(config, int) else 0


def _untied(net):
    # the state of a net of transformers without what it says twice
    return {name: value for name, value in net.state_dict().items() if name not in (net._tied_weights_keys or ())}


def check(request, model):
    """Raise `BadRequest` for what a pipeline cannot be asked."""
    if request.image is not None:
        raise BadRequest("A pipeline of diffusers begins from noise here; take the picture out, or choose our models.")
    for name in ("cfg_start", "cfg_end"):
        if getattr(request, name) != type(request).__dataclass_fields__[name].default:
            raise BadRequest(f"A pipeline of diffusers has no {name}; set it back, or choose our models.")


def _scheduler(request, model):
    import diffusers

    name, options = SCHEDULERS.get(request.sampler, ("", {}))
    spacing = SPACINGS.get(request.scheduler)
    kind = getattr(diffusers, name, None)
    if kind is None:
        raise BadRequest(f"A pipeline of diffusers has no {request.sampler}; choose among: {', '.join(SCHEDULERS)}.")
    if spacing is None or not spacing.keys() <= inspect.signature(kind).parameters.keys():
        raise BadRequest(f"{request.sampler} of diffusers knows no {request.scheduler} schedule; choose linear.")
    flows = model.scheduler.config.get("prediction_type") == "flow_prediction"
    if flows and (spacing or "use_flow_sigmas" not in inspect.signature(kind).parameters):
        raise BadRequest("A flow is drawn by diffusers with dpmpp_2m or unipc and the linear schedule; choose those.")
    return kind.from_config(model.scheduler.config, **options, **spacing)


def draw(request, model, batch, report, each):
    """The pictures `(B, 3, H, W)` of a batch by a `Pipeline`, from the noise that our own models begin with.

    `each` is `tensors.row_by_row` where memory is short: the pictures are then drawn one by one.
    """
    if each is tensors.row_by_row and len(batch) > 1:
        return torch.cat([draw(request, model, range(i, i + 1), report, each) for i in batch])
    pipe, multiple = model.pipe, model.pipe.vae_scale_factor
    pipe.scheduler = _scheduler(request, model)
    shape = (pipe.unet.config.in_channels, request.height // multiple, request.width // multiple)
    seeds = [alone(request, i).seed for i in batch]
    noise = tensors.noise(seeds, shape)
    if request.variation_strength:
        others = [alone(request, i).variation_seed for i in batch]
        noise = tensors.slerp(noise, tensors.noise(others, shape), request.variation_strength)

    def stepped(pipe, index, timestep, values):
        report(index + 1, len(pipe.scheduler.timesteps), lambda: model.decode(values["latents"][:4]))
        return values

    words = compose(request.prompt.strip(), request.style)
    given = {
        "prompt": [words] * len(batch),
        "negative_prompt": [request.negative.strip()] * len(batch),
        "height": request.height,
        "width": request.width,
        "num_inference_steps": request.steps,
        "guidance_scale": request.cfg_scale,
        "guidance_rescale": request.cfg_rescale,
        "latents": noise.to(pipe.device, pipe.unet.dtype),
        "generator": [tensors.generator(seed) for seed in seeds],
        "callback_on_step_end": stepped,
        "output_type": "pil",
    }
    takes = _takes(pipe)
    drawn = pipe(**{name: value for name, value in given.items() if name in takes}).images
    return torch.cat([tensors.from_image(pictures.fit(image, request.width, request.height)) for image in drawn])


def _takes(pipe):
    return inspect.signature(type(pipe).__call__).parameters
