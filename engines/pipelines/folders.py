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

WEIGHTS = {"diffusers": "diffusion_pytorch_model", "transformers": "model"}  # names of files, by library
VARIANTS = (None, "fp16")  # of the files of a folder, the first that is whole
SPARE = {"safety_checker", "text_encoder_3", "tokenizer_3"}  # parts that can be absent, the first always
# pipelines whose net is a transformer; those of a UNet are known by what they can be called with
TRANSFORMERS = ("PixArtAlphaPipeline", "PixArtSigmaPipeline", "StableDiffusion3Pipeline", "AmusedPipeline")
DRAWS = (
    "used are those of a UNet that draw from words and noise, under a mask, or by one ControlNet, and "
    + ", ".join(name.removesuffix("Pipeline") for name in TRANSFORMERS)
)  # fmt: skip
SCHEDULER = "scheduler_config.json"
LARGEST = 10**7  # of whole numbers in a configuration, and of numbers that a net has beside its weights
OLDER = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # parts of an attention in old files


def load(folder, precision=torch.float32):
    """The `Pipeline` in a folder, in a `precision`, a dtype.

    Raises `BadCheckpoint` for one that diffusers cannot build from safetensors alone.
    """
    from diffusers import DiffusionPipeline

    folder = Path(folder)
    parts = files.read_json(folder / files.PIPELINE)
    if not isinstance(parts, dict):
        raise BadCheckpoint(f"{folder.name} does not name the parts of its pipeline; copy the folder again.")
    if any(name != Path(name).name for name in parts):
        raise BadCheckpoint(f"{folder.name} has a part outside of its folder; it cannot be used.")
    weights = {name: _weights(folder / name, kind) for name, kind in parts.items()}
    variant = None if all(None in found for found in weights.values() if found) else VARIANTS[1]
    for name, found in weights.items():
        if (folder / name / SCHEDULER).exists():
            _read_config(folder / name / SCHEDULER)
        if found:
            _check_weights(folder / name, parts[name], found.get(variant) or found[None])
    absent = {name: None for name in SPARE & parts.keys() if name == "safety_checker" or parts[name] == [None, None]}
    try:
        pipe = DiffusionPipeline.from_pretrained(
            folder, torch_dtype=precision, local_files_only=True, use_safetensors=True, trust_remote_code=False,
            variant=variant, **absent,
        )
    except Exception as error:  # diffusers raises anything
        first = str(error).strip().partition("\n")[0][:200]
        raise BadCheckpoint(f"{folder.name} is no pipeline that diffusers can open: {first}.") from error
    model = _drawing(pipe, folder)
    if model is None:
        raise BadCheckpoint(f"{folder.name} is a {type(pipe).__name__}; {DRAWS}.")
    model.pipe.set_progress_bar_config(disable=True)
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise BadCheckpoint(f"{folder.name} holds NaN or infinite values in {name}; it cannot be used.")
    return model


def _drawing(pipe, folder):
    # the `Pipeline`, or None for what is not used
    from diffusers import AutoPipelineForText2Image

    if type(pipe).__name__ == "AmusedPipeline":
        return Pipeline(pipe)
    net = getattr(pipe, "transformer" if type(pipe).__name__ in TRANSFORMERS else "unet", None)
    if net is None or getattr(pipe, "vae", None) is None:
        return None
    if not {"prompt", "latents"} <= takes(pipe) or "control_image" in takes(pipe):
        return None
    same = net.config.get("in_channels") == pipe.vae.config.get("latent_channels")
    if "mask_image" in takes(pipe) and same:
        pipe = AutoPipelineForText2Image.from_pipe(pipe)
    model = Pipeline(pipe, _adapted(pipe, folder))
    return model if model.inpaints or same and (model.shown or "image" not in takes(pipe)) else None


def _adapted(pipe, folder):
    # whether there is an IP-Adapter in a folder, which is read into its pipeline
    adapters = sorted(folder.glob(files.ADAPTERS))
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


def _weights(folder, kind):
    """The files of the weights of a part, `(library, class)`, by `VARIANTS`; nothing for one that has none."""
    library = kind[0] if isinstance(kind, list) and len(kind) == 2 else None
    if not isinstance(library, str) or library not in WEIGHTS:
        return {}
    found = {}
    for variant in VARIANTS:
        middle = f".{variant}" if variant else ""
        whole = folder / f"{WEIGHTS[library]}{middle}.safetensors"
        index = folder / f"{WEIGHTS[library]}.safetensors.index{middle}.json"
        if index.exists():
            shards = files.read_json(index)
            shards = shards.get("weight_map") if isinstance(shards, dict) else None
            shards = list(shards.values()) if isinstance(shards, dict) else [None]
            if whole.exists() or not all(isinstance(name, str) and name == Path(name).name for name in shards):
                raise BadCheckpoint(f"{folder.name}/{index.name} does not tell its files apart; copy the folder again.")
            found[variant] = [folder / name for name in sorted(set(shards))]
        elif whole.is_file():
            found[variant] = [whole]
    return found


def _check_weights(folder, kind, paths):
    """Raise `BadCheckpoint` if the weights of a part, `(library, class)`, do not fit its configuration.

    They lie in `paths`. Before any is read: the libraries take memory for whatever a configuration says, and make up
    what is missing.
    """
    import diffusers
    import transformers

    library, name = kind
    net = getattr({"diffusers": diffusers, "transformers": transformers}[library], str(name), None)
    config = _read_config(folder / "config.json")
    headers = {path: files.read_header(path)[0] for path in paths}
    there = set().union(*headers.values())
    if inspect.isclass(net) and issubclass(net, diffusers.ModelMixin):
        model = models.outline(folder, paths, lambda: net.from_config(config))
        built = model.state_dict()
        names = {re.sub(rf"\b({'|'.join(OLDER)})\b", lambda match: OLDER[match[1]], name): name for name in there}
        unused = ()
    elif inspect.isclass(net) and issubclass(net, transformers.PreTrainedModel):
        model = models.outline(folder, paths, lambda: net(net.config_class.from_dict(config)))
        built = _untied(model)
        found = {name.removeprefix("text_model."): name for name in there}
        names = {name: found.get(name.removeprefix("text_model."), name) for name in built}
        unused = there - set(names.values())  # such as positions, of which older files tell
    else:
        return
    if sum(buffer.numel() for buffer in model.buffers()) > LARGEST + sum(path.stat().st_size for path in paths):
        raise BadCheckpoint(f"{folder.name}/config.json tells of more than its weights; copy the folder again.")
    shapes = {name: value.shape for name, value in built.items()}
    for path, header in headers.items():  # what none of them has, the first lacks
        lacking = path == paths[0]
        own = {name: shape for name, shape in shapes.items()
               if names.get(name) in header or lacking and names.get(name) not in there}  # fmt: skip
        files.check(path, own, names, unused)


def _read_config(path):
    config = files.read_json(path)
    if _largest(config) > LARGEST:  # which could be a list's length before there is a layer to be counted
        raise BadCheckpoint(f"{path.parent.name}/{path.name} has a number above {LARGEST}; copy the folder again.")
    return config


def _largest(config):
    # whole number anywhere in it
    if isinstance(config, dict | list):
        return max(map(_largest, config.values() if isinstance(config, dict) else config), default=0)
    return config if isinstance(config, int) else 0


def _untied(net):
    # the state of a net of transformers without what it says twice
    return {name: value for name, value in net.state_dict().items() if name not in (net._tied_weights_keys or ())}
