"""Pipelines of diffusers from the artist's folders, checked before they take memory.

A folder that names its parts in `files.PIPELINE` is a model. Nothing is fetched, no code of the folder is run, and
weights are read from safetensors alone.
"""

import inspect
import re
from pathlib import Path

import torch

from engines.checkpoints import files, models
from engines.errors import BadCheckpoint
from engines.pipelines.pipeline import Pipeline, takes

WEIGHTS = {"diffusers": "diffusion_pytorch_model.safetensors", "transformers": "model.safetensors"}
DRAWS = "those that draw from words and noise, under a mask, or guided by one ControlNet, are used"
LARGEST = 10**7  # of whole numbers in a configuration
OLDER = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # parts of an attention in old files


def load(folder, precision=torch.float32):
    """The `Pipeline` in a folder, in a `precision`, a dtype.

    Raises `BadCheckpoint` for one that diffusers cannot build from safetensors alone.
    """
    from diffusers import AutoPipelineForText2Image, DiffusionPipeline

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
    refused = BadCheckpoint(f"{folder.name} is a {type(pipe).__name__}; {DRAWS}.")
    if not hasattr(pipe, "unet") or not hasattr(pipe, "vae") or not {"prompt", "latents"} <= takes(pipe):
        raise refused
    sees, paints = (net.config.get(name) for net, name in ((pipe.unet, "in_channels"), (pipe.vae, "latent_channels")))
    if "mask_image" in takes(pipe) and sees == paints:
        pipe = AutoPipelineForText2Image.from_pipe(pipe)
    model = Pipeline(pipe, _adapted(pipe, folder))
    draws = model.inpaints or sees == paints and (model.shown or "image" not in takes(pipe))
    if not draws or "control_image" in takes(pipe):
        raise refused
    pipe.set_progress_bar_config(disable=True)
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise BadCheckpoint(f"{folder.name} holds NaN or infinite values in {name}; it cannot be used.")
    return model


def _adapted(pipe, folder):
    # whether there is an IP-Adapter in a folder, which is read into its pipeline
    adapters = sorted({*folder.glob("ip_adapter*.safetensors"), *folder.glob("ip-adapter*.safetensors")})
    if not adapters:
        return False
    fits = "ip_adapter_image" in takes(pipe) and "image" not in takes(pipe) and pipe.image_encoder is not None
    if len(adapters) > 1 or not fits:
        raise BadCheckpoint(
            f"{folder.name} has an IP-Adapter; one alone is used, by a pipeline that begins from noise and has an "
            "image_encoder."
        )
    files.read_header(adapters[0])
    try:
        pipe.load_ip_adapter(
            str(folder), subfolder="", weight_name=adapters[0].name, image_encoder_folder=None, local_files_only=True
        )
    except Exception as error:  # as above
        raise BadCheckpoint(f"{adapters[0].name} is no IP-Adapter that fits the net of {folder.name}.") from error
    return True


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
