"""Stable Diffusion 1, 2 and XL as they are published, in a single file or as a folder of diffusers.

In a single file the UNet and the autoencoder are called as here. The text encoder of version 1 is CLIP's as
transformers writes it; that of version 2 is OpenCLIP's, whose attention holds queries, keys and values in one matrix;
XL has one of each, and its refiner one of OpenCLIP's. What no tensor tells, how the latents are scaled and what the net
predicts, follows from the version. In a folder each part has a file and a configuration of its own, and the UNet's
layers are counted level by level.
"""

import functools
import re
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from engines.checkpoints import autoencoders, files
from engines.checkpoints.files import Rows
from engines.errors import BadCheckpoint
from engines.text.tokenizer import SETTINGS, WHOLE, from_folder

FAMILY = "stable-diffusion"
UNET, FIRST_STAGE = "model.diffusion_model.", autoencoders.FIRST_STAGE
CLIP, OPENCLIP = "transformer.text_model.", "model."  # of the encoders of words, in the order in which they read
READERS = (
    f"cond_stage_model.{CLIP}", f"cond_stage_model.{OPENCLIP}",
    f"conditioner.embedders.0.{CLIP}", f"conditioner.embedders.0.{OPENCLIP}", f"conditioner.embedders.1.{OPENCLIP}",
)  # fmt: skip
# buffers, moving averages and what only the training needs
UNUSED = (
    "model_ema.", "betas", "alphas_cumprod", "sqrt_", "log_one_minus", "posterior_", "scale_factor",
    "logvar", f"{FIRST_STAGE}loss.", "v_pred",
)  # fmt: skip
UNREAD = ("embeddings.position_ids", "logit_scale", "attn_mask")  # of an encoder of words
PROJECTION = "text_projection"  # of pooled words, which XL's UNet is told
SPREAD, SPREAD_XL = 1 / 0.18215, 1 / 0.13025  # of the latents (Rombach et al., 2022, appendix G)
HEAD = 64  # channels of a head of the text encoders, and of version 2's UNet
HEADS = 8  # of every attention of version 1's UNet
PIPELINES = [f"StableDiffusion{xl}{use}Pipeline" for xl in ("", "XL") for use in ("", "Inpaint", "Img2Img")]
ENCODERS = {"text_encoder": "text", "text_encoder_2": "text_2"}  # of words: their folders, and what they are here
WEIGHTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"} | dict.fromkeys(ENCODERS, "model")
SCHEDULER = "scheduler/scheduler_config.json"
PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0", "flow_prediction": "flow"}
NOISE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "num_train_timesteps": 1000}
VOCABULARY = ("vocab.json", "merges.txt")  # in two files, and not WHOLE
HUB = "openai/clip-vit-large-patch14"  # whose vocabulary all versions read
# what a net predicts and the size that it learned at, by whether it predicts the noise; what it does must be looked at
LOOKED_AT = {True: {"prediction": "eps", "size": 512}, False: {"prediction": "v", "size": 768}}
SIZE_XL = 1024

# diffusers' names of the UNet's parts, and the published ones
UNET_TOP = {
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
}  # fmt: skip
UNET_BLOCK = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
OPENCLIP_LAYER = {
    "ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}  # fmt: skip
OPENCLIP_TOP = {
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}


def detect(shapes):
    """`(FAMILY, config, names, unused)` of the parts among `shapes`, or None where they are not there."""
    if f"{UNET}input_blocks.0.0.weight" not in shapes or f"{FIRST_STAGE}quant_conv.weight" not in shapes:
        return None
    names = {f"unet.{name.removeprefix(UNET)}": name for name in shapes if name.startswith(UNET)}
    inner = {name.removeprefix(FIRST_STAGE): shape for name, shape in shapes.items() if name.startswith(FIRST_STAGE)}
    _, stage, stage_names, _ = autoencoders.detect(inner)
    names |= {f"first_stage.{ours}": FIRST_STAGE + theirs for ours, theirs in stage_names.items()}
    unused = [name for name in shapes if name.startswith(UNUSED)]
    readers = _readers([prefix for prefix in READERS if any(name.startswith(prefix) for name in shapes)])
    large = f"{UNET}label_emb.0.0.weight" in shapes
    for prefix, ours in readers.items():
        unread = UNREAD if large else (*UNREAD, PROJECTION)
        unused += [f"{prefix}{name}" for name in unread if f"{prefix}{name}" in shapes]
        names |= {f"{ours}.{name}": theirs for name, theirs in _encoder(shapes, prefix).items()}
    names = {ours: theirs for ours, theirs in names.items() if Rows.of(theirs).name not in unused}
    found = {ours: Rows.of(theirs).shape(shapes) for ours, theirs in names.items()}
    second = any(prefix.endswith(f".{OPENCLIP}") for prefix in readers)
    unet = _unet(found, {"head_dim": HEAD} if second else {"num_heads": HEADS})
    config = {
        "unet": unet,
        **{ours: _text(found, ours, prefix.endswith(f".{OPENCLIP}"), large)
           for prefix, ours in readers.items()},
        "first_stage": stage,
        "latent_mean": [0.0] * unet["out_channels"],
        "latent_std": SPREAD,
    }
    config |= LOOKED_AT[not is_unsure(config)]
    if large:
        config |= {"latent_std": SPREAD_XL, "size": SIZE_XL, "prediction": "v" if "v_pred" in shapes else "eps"}
    return FAMILY, config, names, tuple(unused)


def _readers(places):
    """What the encoders of words at these `places`, in the order in which they read, are here, by their place."""
    return dict(zip(places, list(ENCODERS.values())[: len(places)], strict=True))


def is_unsure(config):
    """Whether a single file of that `config` leaves open what its net predicts.

    Of version 2 there are nets for both; of those that paint into pictures there are none that predict the velocity.
    """
    unet, text = config["unet"], config["text"]
    return text["skip_last"] and text["hidden_norm"] and unet["in_channels"] == unet["out_channels"]


def _encoder(shapes, prefix):
    """Our names of the tensors of an encoder of words, and where they are."""
    theirs = [name.removeprefix(prefix) for name in shapes if name.startswith(prefix)]
    if prefix.endswith(f".{CLIP}"):
        return {f"text_model.{name}": prefix + name for name in theirs}
    names = {}
    for name in theirs:
        if name == PROJECTION:
            names[f"{PROJECTION}.weight"] = Rows(prefix + name, transposed=True)
        elif name in OPENCLIP_TOP:
            names[f"text_model.{OPENCLIP_TOP[name]}"] = prefix + name
        elif match := re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+?)[._](weight|bias)", name):
            layer = f"text_model.encoder.layers.{match[1]}"
            if match[2] == "attn.in_proj":
                for part, which in enumerate("qkv"):
                    names[f"{layer}.self_attn.{which}_proj.{match[3]}"] = Rows(prefix + name, part, 3)
            elif match[2] in OPENCLIP_LAYER:
                names[f"{layer}.{OPENCLIP_LAYER[match[2]]}.{match[3]}"] = prefix + name
    return names


def _unet(found, heads):
    """The fields of a `UNetConfig`; `heads` are those that no tensor tells."""
    ch, in_channels = found["unet.input_blocks.0.0.weight"][:2]
    widths, attention, depths, context = [ch], [], [], 0
    blocks = [[]]  # of each level: the numbers of its residual blocks
    for number in range(1, autoencoders.count(found, r"unet\.input_blocks\.(\d+)\.")):
        if f"unet.input_blocks.{number}.0.op.weight" in found:
            blocks.append([])
        else:
            blocks[-1].append(number)
    for level, numbers in enumerate(blocks):
        widths.append(found[f"unet.input_blocks.{numbers[0]}.0.out_layers.3.weight"][0])
        key = f"unet.input_blocks.{numbers[0]}.1.transformer_blocks.0.attn2.to_k.weight"
        if key in found:
            attention.append(level)
            context = found[key][1]
            depths.append(_depth(found, rf"input_blocks\.{numbers[0]}\.1"))
    depths.append(_depth(found, r"middle_block\.1"))
    label = found.get("unet.label_emb.0.0.weight", (0, 0))
    return {
        "in_channels": in_channels,
        "out_channels": found["unet.out.2.weight"][0],
        "ch": ch,
        "ch_mult": [width // ch for width in widths[1:]],
        "num_res_blocks": len(blocks[0]),
        "attention_levels": attention,
        "context_dim": context,
        **heads,
        "transformer_depth": depths[0] if len(set(depths)) == 1 else depths,
        "use_linear_projection": len(found["unet.middle_block.1.proj_in.weight"]) == 2,
        "adm_dim": label[1],
    }


def _depth(found, place):
    return autoencoders.count(found, rf"unet\.{place}\.transformer_blocks\.(\d+)\.")


def _text(found, ours, open_clip, large):
    """The fields of a `TextConfig`; version 2 and XL read the states before the last layer."""
    vocabulary, width = found[f"{ours}.text_model.embeddings.token_embedding.weight"]
    return {
        "vocab_size": vocabulary,
        "context_length": found[f"{ours}.text_model.embeddings.position_embedding.weight"][0],
        "width": width,
        "layers": autoencoders.count(found, rf"{ours}\.text_model\.encoder\.layers\.(\d+)\."),
        "heads": max(1, width // HEAD),
        "activation": "gelu" if open_clip else "quick_gelu",
        "end_token": vocabulary - 1,
        "skip_last": int(open_clip or large),
        "hidden_norm": not large,
        "projection": found.get(f"{ours}.{PROJECTION}.weight", (0,))[0],
    }


# ---------------------------------------------------------------- folders of diffusers


def in_folder(folder):
    """`(config, parts)` of the pipeline in a folder, where `parts` are `(path, names, unused)` of each file of weights.

    None for a pipeline of another kind, and for one with an IP-Adapter, which our engine has not. Raises
    `BadCheckpoint` for one of these that our engine does not know.
    """
    folder = Path(folder)
    if any(folder.glob(files.ADAPTERS)):
        return None
    parts = [folder / files.PIPELINE, folder / SCHEDULER, *(_config(folder, part) for part in WEIGHTS)]
    parts += [_weights(folder, part) for part in WEIGHTS]
    return _in_folder(folder, tuple(map(files.stamp, parts)))


@functools.lru_cache(maxsize=64)
def _in_folder(folder, stamps):
    # once for each content of its files: the page asks for all models whenever it shows a choice of them
    try:
        index = files.read_json(folder / files.PIPELINE)
        if index.get("_class_name") not in PIPELINES:
            return None
        parts = [part for part in WEIGHTS if index.get(part, [None])[0]]
        configs = {part: files.read_json(_config(folder, part)) for part in parts}
        return _described(folder, configs, files.read_json(folder / SCHEDULER))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise BadCheckpoint(f"{folder.name} is no Stable Diffusion that can be read; copy it again.") from error


def _weights(folder, part):
    return folder / part / f"{WEIGHTS[part]}.safetensors"


def _config(folder, part):
    return folder / part / "config.json"


def _described(folder, configs, scheduler):
    strange = [name for name, value in NOISE.items() if scheduler.get(name, value) != value]
    if strange:
        raise BadCheckpoint(f"{folder.name} was trained with another {strange[0]} than Stable Diffusion.")
    paths = {part: _weights(folder, part) for part in configs}
    shapes = {
        part: {name: shape for name, (_, shape) in files.read_header(path)[0].items()} for part, path in paths.items()
    }
    unet, vae = configs["unet"], configs["vae"]
    _, stage, stage_names, _ = autoencoders.detect(shapes["vae"])
    stage["autoencoder"]["norm_groups"] = vae.get("norm_num_groups", autoencoders.GROUPS)
    blocks = unet.get("layers_per_block", 2)
    attention = ["CrossAttn" in kind for kind in unet["down_block_types"]]
    named = {
        "unet": {f"unet.{published(name, blocks, attention)}": name for name in shapes["unet"]},
        "vae": {f"first_stage.{ours}": name for ours, name in stage_names.items()},
    }
    readers = _readers([part for part in ENCODERS if part in configs])
    for part, ours in readers.items():
        named[part] = {f"{ours}.{_in_encoder(name)}": name for name in shapes[part]}
    found = {ours: shapes[part][name] for part, names in named.items() for ours, name in names.items()}
    heads = unet.get("num_attention_heads") or unet.get("attention_head_dim", HEADS)
    # a list tells of each level: as many as make heads of one size
    last = heads[-1] if isinstance(heads, list) else 0
    heads = {"head_dim": unet["block_out_channels"][-1] // last} if last else {"num_heads": heads}
    shape = _unet(found, heads) | {"norm_groups": unet.get("norm_num_groups", autoencoders.GROUPS)}
    config = {
        "unet": shape,
        **{ours: _text(found, ours, False, bool(shape["adm_dim"])) | _told(configs[part])
           for part, ours in readers.items()},
        "first_stage": stage,
        "latent_mean": [0.0] * unet["out_channels"],
        "latent_std": 1 / vae.get("scaling_factor", 1 / SPREAD),
        "prediction": PREDICTIONS[scheduler.get("prediction_type", "epsilon")],
        "size": (unet.get("sample_size") or 64) * 2 ** (len(stage["autoencoder"]["ch_mult"]) - 1),
    }
    unused = tuple(name for part in readers for name in shapes[part] if name.endswith("position_ids"))
    return config, [(paths[part], names, unused) for part, names in named.items()]


def _in_encoder(name):
    bare = name.removeprefix("text_model.")
    return bare if bare.startswith(PROJECTION) else f"text_model.{bare}"


def _told(text):
    told = {"activation": text["hidden_act"], "heads": text["num_attention_heads"]}
    # transformers, too, takes a 2 for the last of the vocabulary: so it was once written of all
    end = text.get("eos_token_id", 2)
    return told if end == 2 else told | {"end_token": end}


def published(name, blocks, attention):
    """The published name of what diffusers calls `name` in a UNet of so many `blocks` a level.

    `attention` says of each level whether it has transformers.
    """
    for theirs, ours in UNET_TOP.items():
        if name.startswith(f"{theirs}."):
            return ours + name.removeprefix(theirs)
    if match := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)", name):
        kind, number, rest = match.groups()
        return f"middle_block.{1 if kind == 'attentions' else 2 * int(number)}.{_in_block(rest)}"
    match = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.+)", name)
    if match is None:
        return name
    way, level, kind, number, rest = match.groups()
    level, number = int(level), int(number)
    if kind == "downsamplers":
        return f"input_blocks.{(level + 1) * (blocks + 1)}.0.op.{rest.removeprefix('conv.')}"
    if kind == "upsamplers":  # after the last residual block of the level, and its transformer
        return f"output_blocks.{level * (blocks + 1) + blocks}.{1 + attention[-1 - level]}.{rest}"
    side, first = ("input", 1) if way == "down" else ("output", 0)
    place = first + level * (blocks + 1) + number
    return f"{side}_blocks.{place}.{int(kind == 'attentions')}.{_in_block(rest)}"


def _in_block(rest):
    part, _, leaf = rest.rpartition(".")
    return f"{UNET_BLOCK[part]}.{leaf}" if part in UNET_BLOCK else rest


def in_diffusers(names, blocks, attention):
    """What diffusers calls each of the published `names` in a UNet, as a dict: the inverse of `published`."""
    leaf = ".weight"
    modules = {
        published(module + leaf, blocks, attention).removesuffix(leaf): module
        for module in _modules(blocks, attention)
    }
    return {
        name: module + name.removeprefix(published)
        for name in names
        for published, module in modules.items()
        if name.startswith(f"{published}.")
    }


def _modules(blocks, attention):
    # what diffusers calls the parts of such a UNet
    places = ["mid_block.resnets.0", "mid_block.attentions.0", "mid_block.resnets.1"]
    for level in range(len(attention)):
        for way, count, attends in (("down", blocks, attention[level]), ("up", blocks + 1, attention[-1 - level])):
            kinds = ("resnets", "attentions") if attends else ("resnets",)
            places += [f"{way}_blocks.{level}.{kind}.{number}" for kind in kinds for number in range(count)]
            if level < len(attention) - 1:
                places.append(f"{way}_blocks.{level}.{way}samplers.0.conv")
    blocks = [f"{place}.{part}" for place in places if ".resnets." in place for part in UNET_BLOCK]
    return [*UNET_TOP, *blocks, *(place for place in places if ".resnets." not in place)]


# ---------------------------------------------------------------- words


def with_tokenizers(config, path):
    """The `config` of the model at `path` with a tokenizer for each reader; raises `BadCheckpoint` as `vocabulary`."""
    read = {"tokenizer": tokenizer(config, path).to_json()}
    return config | read | ({"tokenizer_2": tokenizer(config, path, "text_2").to_json()} if "text_2" in config else {})


def tokenizer(config, path, reader="text"):
    """The tokenizer by which a reader of the model at `path` reads; raises `BadCheckpoint` as `vocabulary` does."""
    padding = 0 if config[reader]["activation"] == "gelu" else None  # of OpenCLIP
    folder = vocabulary(path)
    stamps = tuple(files.stamp(folder / name) for name in (*VOCABULARY, WHOLE, *SETTINGS))
    return _tokenizer(folder, stamps, config[reader]["context_length"], padding)


@functools.lru_cache(maxsize=16)
def _tokenizer(folder, stamps, context_length, padding):
    # tokens are counted with every word that is written
    return from_folder(folder, context_length, padding)


def vocabulary(path):
    """The folder that holds the vocabulary for the model at `path`: `vocab.json` and `merges.txt`, or `tokenizer.json`.

    It is called `tokenizer`, or `tokenizer_2` in a refiner of XL, and lies in the model's own folder, beside it or
    above it, up to `models`; else it is what is already on this machine of the hub. Raises `BadCheckpoint` with what to
    do where there is none.
    """
    path = Path(path).resolve()
    for folder in (path, *path.parents):
        for found in (folder / "tokenizer", folder / "tokenizer_2"):
            if any(all((found / name).is_file() for name in names) for names in (VOCABULARY, (WHOLE,))):
                return found
        if folder.name == "models":
            break
    cached = [try_to_load_from_cache(HUB, name) for name in VOCABULARY]
    if all(isinstance(file, str) for file in cached):
        return Path(cached[0]).parent
    raise BadCheckpoint(
        f"{path.name} brings no vocabulary, and none is here: put vocab.json and merges.txt of {HUB} into a folder "
        "“tokenizer” beside it."
    )
