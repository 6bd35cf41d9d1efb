"""Stable Diffusion 1 and 2 as they are published, in a single file or as a folder of diffusers.

In a single file the UNet and the autoencoder are called as here. The text encoder of version 1 is CLIP's as
transformers writes it; that of version 2 is OpenCLIP's, whose attention holds queries, keys and values in one matrix.
What no tensor tells, how the latents are scaled and what the net predicts, follows from the version. In a folder each
part has a file and a configuration of its own, and the UNet's layers are counted level by level.
"""

import functools
import re
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from engines.checkpoints import autoencoders, files
from engines.checkpoints.files import Rows
from engines.errors import BadCheckpoint
from engines.text.tokenizer import CLIPTokenizer

FAMILY = "stable-diffusion"
UNET, FIRST_STAGE = "model.diffusion_model.", "first_stage_model."
CLIP, OPENCLIP = "cond_stage_model.transformer.text_model.", "cond_stage_model.model."
# buffers, moving averages and what only the training needs
UNUSED = (
    "model_ema.", "betas", "alphas_cumprod", "sqrt_", "log_one_minus", "posterior_", "scale_factor",
    "logvar", "cond_stage_model.transformer.text_model.embeddings.position_ids", f"{FIRST_STAGE}loss.",
    f"{OPENCLIP}logit_scale", f"{OPENCLIP}text_projection", f"{OPENCLIP}attn_mask",
)  # fmt: skip
SPREAD = 1 / 0.18215  # of the latents (Rombach et al., 2022, appendix G)
HEAD = 64  # channels of a head of the text encoders, and of version 2's UNet
HEADS = 8  # of every attention of version 1's UNet
PIPELINES = ("StableDiffusionPipeline", "StableDiffusionInpaintPipeline", "StableDiffusionImg2ImgPipeline")
WEIGHTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
CONFIGS = ("unet/config.json", "vae/config.json", "text_encoder/config.json", "scheduler/scheduler_config.json")
PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
NOISE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "num_train_timesteps": 1000}
VOCABULARY, WHOLE = ("vocab.json", "merges.txt"), "tokenizer.json"  # in two files, or in one
HUB = "openai/clip-vit-large-patch14"  # whose vocabulary both versions read
# what a net predicts and the size that it learned at, by whether it predicts the noise; what it does must be looked at
LOOKED_AT = {True: {"prediction": "eps", "size": 512}, False: {"prediction": "v", "size": 768}}

# diffusers' names of the UNet's parts, and the published ones
UNET_TOP = {
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
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
    second = any(name.startswith(OPENCLIP) for name in shapes)
    names |= _openclip(shapes) if second else {
        f"text.text_model.{name.removeprefix(CLIP)}": name for name in shapes if name.startswith(CLIP)
    }  # fmt: skip
    unused = tuple(name for name in shapes if name.startswith(UNUSED))
    names = {ours: theirs for ours, theirs in names.items() if theirs not in unused}
    found = {ours: shapes[Rows.of(theirs).name] for ours, theirs in names.items()}
    unet = _unet(found, {"head_dim": HEAD} if second else {"num_heads": HEADS})
    # of version 2 there are nets for both; of those that paint into pictures there are none that predict the velocity
    unsure = second and unet["in_channels"] == unet["out_channels"]
    config = {
        "unet": unet,
        "text": _text(found, second),
        "first_stage": stage,
        "latent_mean": [0.0] * unet["out_channels"],
        "latent_std": SPREAD,
        **LOOKED_AT[not unsure],
    }
    return FAMILY, config, names, unused


def _openclip(shapes):
    names = {}
    for theirs in (name.removeprefix(OPENCLIP) for name in shapes if name.startswith(OPENCLIP)):
        if theirs in OPENCLIP_TOP:
            names[f"text.text_model.{OPENCLIP_TOP[theirs]}"] = OPENCLIP + theirs
        elif match := re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+?)[._](weight|bias)", theirs):
            layer = f"text.text_model.encoder.layers.{match[1]}"
            if match[2] == "attn.in_proj":
                for part, which in enumerate("qkv"):
                    names[f"{layer}.self_attn.{which}_proj.{match[3]}"] = Rows(OPENCLIP + theirs, part, 3)
            elif match[2] in OPENCLIP_LAYER:
                names[f"{layer}.{OPENCLIP_LAYER[match[2]]}.{match[3]}"] = OPENCLIP + theirs
    return names


def _unet(found, heads):
    """The fields of a `UNetConfig`; `heads` are those that no tensor tells."""
    ch, in_channels = found["unet.input_blocks.0.0.weight"][:2]
    widths, attention, depth, context = [ch], [], 1, 0
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
            depth = autoencoders.count(found, rf"unet\.input_blocks\.{numbers[0]}\.1\.transformer_blocks\.(\d+)\.")
    return {
        "in_channels": in_channels,
        "out_channels": found["unet.out.2.weight"][0],
        "ch": ch,
        "ch_mult": [width // ch for width in widths[1:]],
        "num_res_blocks": len(blocks[0]),
        "attention_levels": attention,
        "context_dim": context,
        **heads,
        "transformer_depth": depth,
        "use_linear_projection": len(found["unet.middle_block.1.proj_in.weight"]) == 2,
    }


def _text(found, second):
    """The fields of a `TextConfig`; version 2 reads the states before the last layer."""
    vocabulary, width = found["text.text_model.embeddings.token_embedding.weight"]
    return {
        "vocab_size": vocabulary,
        "context_length": found["text.text_model.embeddings.position_embedding.weight"][0],
        "width": width,
        "layers": autoencoders.count(found, r"text\.text_model\.encoder\.layers\.(\d+)\."),
        "heads": max(1, width // HEAD),
        "activation": "gelu" if second else "quick_gelu",
        "end_token": vocabulary - 1,
        "skip_last": int(second),
    }


# ---------------------------------------------------------------- folders of diffusers


def in_folder(folder):
    """`(config, parts)` of the pipeline in a folder, where `parts` are `(path, names, unused)` of each file of weights.

    None for a pipeline of another kind. Raises `BadCheckpoint` for one of these that our engine does not know.
    """
    folder = Path(folder)
    parts = [folder / files.PIPELINE, *(folder / name for name in CONFIGS), *_weights(folder).values()]
    return _in_folder(folder, tuple(map(files.stamp, parts)))


@functools.lru_cache(maxsize=64)
def _in_folder(folder, stamps):
    # once for each content of its files: the page asks for all models whenever it shows a choice of them
    try:
        if files.read_json(folder / files.PIPELINE).get("_class_name") not in PIPELINES:
            return None
        return _described(folder, *(files.read_json(folder / name) for name in CONFIGS))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise BadCheckpoint(f"{folder.name} is no Stable Diffusion 1 or 2 that can be read; copy it again.") from error


def _weights(folder):
    return {part: folder / part / f"{name}.safetensors" for part, name in WEIGHTS.items()}


def _described(folder, unet, vae, text, scheduler):
    strange = [name for name, value in NOISE.items() if scheduler.get(name, value) != value]
    if strange:
        raise BadCheckpoint(f"{folder.name} was trained with another {strange[0]} than Stable Diffusion 1 and 2.")
    paths = _weights(folder)
    shapes = {
        part: {name: shape for name, (_, shape) in files.read_header(path)[0].items()} for part, path in paths.items()
    }
    _, stage, stage_names, _ = autoencoders.detect(shapes["vae"])
    stage["autoencoder"]["norm_groups"] = vae.get("norm_num_groups", autoencoders.GROUPS)
    blocks = unet.get("layers_per_block", 2)
    attention = ["CrossAttn" in kind for kind in unet["down_block_types"]]
    bare = {name.removeprefix("text_model."): name for name in shapes["text_encoder"]}
    named = {
        "unet": {f"unet.{_published(name, blocks, attention)}": name for name in shapes["unet"]},
        "vae": {f"first_stage.{ours}": name for ours, name in stage_names.items()},
        "text_encoder": {f"text.text_model.{ours}": name for ours, name in bare.items()},
    }
    found = {ours: shapes[part][name] for part, names in named.items() for ours, name in names.items()}
    heads = unet.get("num_attention_heads") or unet.get("attention_head_dim", HEADS)
    # a list tells of each level: as many as make heads of one size
    first = heads[0] if isinstance(heads, list) else 0
    heads = {"head_dim": unet["block_out_channels"][0] // first} if first else {"num_heads": heads}
    config = {
        "unet": _unet(found, heads) | {"norm_groups": unet.get("norm_num_groups", autoencoders.GROUPS)},
        "text": _text(found, False) | {"activation": text["hidden_act"], "heads": text["num_attention_heads"]},
        "first_stage": stage,
        "latent_mean": [0.0] * unet["out_channels"],
        "latent_std": 1 / vae.get("scaling_factor", 1 / SPREAD),
        "prediction": PREDICTIONS[scheduler.get("prediction_type", "epsilon")],
        "size": (unet.get("sample_size") or 64) * 2 ** (len(stage["autoencoder"]["ch_mult"]) - 1),
    }
    unused = tuple(name for name in shapes["text_encoder"] if name.endswith("position_ids"))
    return config, [(paths[part], names, unused) for part, names in named.items()]


def _published(name, blocks, attention):
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


# ---------------------------------------------------------------- words


def with_tokenizer(config, path):
    """The `config` of the model at `path` with its tokenizer; raises `BadCheckpoint` as `vocabulary` does."""
    return config | {"tokenizer": tokenizer(config, path).to_json()}


def tokenizer(config, path):
    """The tokenizer of the model at `path` of that `config`; raises `BadCheckpoint` as `vocabulary` does."""
    padding = 0 if config["text"]["skip_last"] else None  # of OpenCLIP
    folder = vocabulary(path)
    stamps = tuple(files.stamp(folder / name) for name in (*VOCABULARY, WHOLE))
    return _tokenizer(folder, stamps, config["text"]["context_length"], padding)


@functools.lru_cache(maxsize=16)
def _tokenizer(folder, stamps, context_length, padding):
    # tokens are counted with every word that is written
    return CLIPTokenizer.from_folder(folder, context_length, padding)


def vocabulary(path):
    """The folder that holds the vocabulary for the model at `path`: `vocab.json` and `merges.txt`, or `tokenizer.json`.

    It is called `tokenizer` and lies in the model's own folder, beside it or above it, up to `models`; else it is what
    is already on this machine of the hub. Raises `BadCheckpoint` with what to do where there is none.
    """
    path = Path(path).resolve()
    for folder in (path, *path.parents):
        found = folder / "tokenizer"
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
