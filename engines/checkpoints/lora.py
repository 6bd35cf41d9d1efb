"""LoRA (Hu et al., 2021): what is added to some weights of a model, as products of narrow matrices, in its own file.

Files call the layers by diffusers' names or by the published ones, with dots or with underscores (kohya); here all are
compared with underscores. With convolutions (LoCon) there may be a third factor between the two.
"""

import contextlib
import json
import re
from pathlib import Path

from engines.checkpoints import files, stable_diffusion
from engines.errors import BadCheckpoint

FAMILY = "lora"
# the factor that a tensor is, and the layer that it belongs to
FACTOR = re.compile(r"(.+?)[._](?:lora[._]|lora_linear_layer\.)(down|up|mid|A|B)(?:\.\w+)?\.weight")
ALPHA = re.compile(r"(.+?)(?:[._]lora)?\.alpha")
FACTORS = {"A": "down", "B": "up"}  # PEFT's names of them
NETS = {  # how the names of layers begin, and the net of ours that they lie in
    "lora_unet_": "unet", "unet_": "unet",
    "lora_te1_": "text", "lora_te2_": "text_2", "lora_te_": "text",
    "text_encoder_2_": "text_2", "text_encoder_": "text",
}  # fmt: skip
ANY_UNET = re.compile(r"(down|up|input|output)_blocks_|mid(dle)?_block_|conv_(in|out)\b|time_emb")
SETTINGS, BESIDE = "lora_adapter_metadata", "adapter_config.json"  # of PEFT: in the header, or in a file of its own


def detect(shapes):
    """`(FAMILY, {})` if among `shapes`, name to shape, there are two factors of one weight; else None."""
    for factors in _layers(shapes)[0].values():
        if {"down", "up"} <= factors.keys() and shapes[factors["up"]][1] in shapes[factors["down"]][:1]:
            return FAMILY, {}
    return None


def _layers(names):
    """The names of each layer's factors, `{layer: {factor: name}}`, and the names that are of none."""
    layers, rest = {}, []
    for name in names:
        if found := FACTOR.fullmatch(name):
            layers.setdefault(found[1], {})[FACTORS.get(found[2], found[2])] = name
        elif found := ALPHA.fullmatch(name):
            layers.setdefault(found[1], {})["alpha"] = name
        else:
            rest.append(name)
    return layers, rest


@contextlib.contextmanager
def merged(model, chosen):
    """Inside, the weights of a `LatentDiffusion` hold what is `chosen`: pairs of the path of a file and its weight.

    After it, however it is left, they are what they were before, to the last bit. Raises `BadCheckpoint` for a file
    that does not fit the model, with the first three of its tensors that do not.
    """
    from torch import nn

    before = {}
    try:
        for path, weight in chosen:
            for module, added in _additions(Path(path), model):
                before.setdefault(module, module.weight)
                changed = (module.weight.float() + weight * added).to(module.weight)
                module.weight = nn.Parameter(changed, requires_grad=False)
        yield
    finally:
        for module, kept in before.items():
            module.weight = kept


def _additions(path, model):
    """Each layer of a model that a file tells of, and what is added to its weight."""
    shapes = {name: shape for name, (_, shape) in files.read_header(path)[0].items()}
    layers, strange = _layers(shapes)
    modules, places = _modules(model), {}
    for layer, factors in layers.items():
        module = modules.get(_ours(layer, model.config.unet))
        told = {factor: shapes[name] for factor, name in factors.items()}
        if module is None or not _fits(told, module.weight.shape):
            strange += factors.values()
        else:
            places[layer] = module
    if strange:
        more = f" and {len(strange) - 3} more" if len(strange) > 3 else ""
        raise BadCheckpoint(
            f"{path.name} does not fit “{model.name}”, which has no place of that name and shape for "
            f"{', '.join(strange[:3])}{more}; choose a LoRA that was made for this kind of model."
        )
    tensors, settings = files.load(path, shapes), _settings(path)
    for layer, module in places.items():
        told = {factor: tensors[name].to(module.weight.device) for factor, name in layers[layer].items()}
        rank = told["down"].shape[0]
        scale = told["alpha"].item() / rank if "alpha" in told else _scale(settings, layer, rank, path)
        yield module, scale * _product(told, module.weight.shape)


def _product(factors, shape):
    import torch

    up, down = factors["up"].flatten(1), factors["down"].flatten(1)
    if "mid" in factors:
        return torch.einsum("op,pqhw,qc->ochw", up, factors["mid"], down)
    return (up @ down).view(shape)


def _fits(factors, shape):
    # whether factors of those shapes make a weight of that one
    if not {"down", "up"} <= factors.keys() or factors.get("alpha", ()) not in ((), (1,)):
        return False
    (out, *inner), down, up = shape, factors["down"], factors["up"]
    if not down or not up:
        return False
    rank = down[0]
    if "mid" in factors:
        rank, *middle = up[1:2] + factors["mid"][1:]
        if factors["mid"][:1] != up[1:2] or middle != [down[0], *inner[1:]]:
            return False
        inner = inner[:1]
    return _bare(down[1:]) == _bare(inner) and _bare(up) == _bare((out, rank))


def _bare(shape):
    # a linear layer and a convolution of one pixel hold the same
    shape = list(shape)
    while len(shape) > 1 and shape[-1] == 1:
        shape.pop()
    return shape


# ---------------------------------------------------------------- names


def _modules(model):
    """The layers of a model that a LoRA can add to, by their names with underscores."""
    from torch import nn

    return {
        name.replace(".", "_"): module
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d)) and name.partition(".")[0] in NETS.values()
    }


def _ours(layer, config):
    """What a layer is called in a model whose UNet has that `config`, with underscores; anything for a strange name."""
    name = layer.replace(".", "_").removeprefix("base_model_model_").replace("_processor_", "_")
    begin = next((begin for begin in NETS if name.startswith(begin)), "")
    net = NETS.get(begin) or ("unet" if ANY_UNET.match(name) else "text")
    name = name.removeprefix(begin)
    if net == "unet":
        return f"unet_{_in_unet(name, config)}"
    name = re.sub(r"_to_([qkv])$", r"_\1_proj", re.sub(r"_to_out$", "_out_proj", name))
    return f"{net}_text_model_{name.removeprefix('text_model_')}"


def _in_unet(name, config):
    dotted = re.sub(r"^(down|up)_blocks_(\d+)_([a-z]+)_(\d+)_", r"\1_blocks.\2.\3.\4.", name)
    dotted = re.sub(r"^mid_block_([a-z]+)_(\d+)_", r"mid_block.\1.\2.", dotted)
    dotted = re.sub(r"_to_out$", "_to_out_0", dotted).replace("_embedding_", "_embedding.")
    attention = [level in config.attention_levels for level in range(len(config.ch_mult))]
    try:
        found = stable_diffusion.published(f"{dotted}.weight", config.num_res_blocks, attention)
    except IndexError:  # of a level that this net has not
        return name
    return found.removesuffix(".weight").replace(".", "_")


# ---------------------------------------------------------------- the settings of PEFT


def whole(path):
    """All that a LoRA is: its file, or the folder of it and its settings as PEFT writes them."""
    return path.parent if path.stem == "adapter_model" and path.with_name(BESIDE).exists() else path


def _settings(path):
    from safetensors import safe_open

    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(SETTINGS, "")
        if not text and whole(path) != path:
            text = path.with_name(BESIDE).read_text(encoding="utf-8")
        return dict(json.loads(text or "{}"))
    except (OSError, TypeError, ValueError) as error:
        raise BadCheckpoint(f"The settings of PEFT with {path.name} cannot be read; copy them again.") from error


def _scale(settings, layer, rank, path):
    """What the product of a layer is multiplied by: 1 where nothing is said of it."""
    part = next((f"{part}." for part in ("unet", "text_encoder", "text_encoder_2") if layer.startswith(f"{part}.")), "")
    try:
        patterns = settings.get(f"{part}alpha_pattern") or {}
        own = (alpha for end, alpha in patterns.items() if re.fullmatch(rf"(.*\.)?({end})", layer))
        alpha = next(own, settings.get(f"{part}lora_alpha", rank))
        return alpha / (rank**0.5 if settings.get(f"{part}use_rslora") else rank)
    except (AttributeError, TypeError, re.error) as error:
        raise BadCheckpoint(f"The settings of PEFT with {path.name} tell no scale; copy them again.") from error
