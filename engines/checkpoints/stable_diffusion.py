"""Stable Diffusion 1 and 2 in a single file, as they are published: UNet, autoencoder and text encoder side by side.

The UNet and the autoencoder are called there as here. The text encoder of version 1 is CLIP's as transformers writes
it; that of version 2 is OpenCLIP's, whose attention holds queries, keys and values in one matrix. What no tensor
tells, how the latents are scaled and what the net predicts, follows from the version.
"""

import re
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from engines.checkpoints import autoencoders
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
HUB = "openai/clip-vit-large-patch14"  # whose vocabulary both versions read
# what a net predicts and the size that it learned at, by whether it predicts the noise; what it does must be looked at
LOOKED_AT = {True: {"prediction": "eps", "size": 512}, False: {"prediction": "v", "size": 768}}

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
    found = {
        ours: shapes[theirs] if isinstance(theirs, str) else shapes[theirs.name] for ours, theirs in names.items()
    }
    unet = _unet(found, second)
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


def _unet(found, second):
    """The fields of a `UNetConfig`."""
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
        "num_heads": HEADS,
        "head_dim": HEAD if second else 0,
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


def with_tokenizer(config, path):
    """The `config` of the model at `path` with its tokenizer; raises `BadCheckpoint` as `vocabulary` does."""
    return config | {"tokenizer": tokenizer(config, path).to_json()}


def tokenizer(config, path):
    """The tokenizer of the model at `path` of that `config`; raises `BadCheckpoint` as `vocabulary` does."""
    padding = 0 if config["text"]["skip_last"] else None  # of OpenCLIP
    return CLIPTokenizer.from_files(*vocabulary(path), config["text"]["context_length"], padding)


def vocabulary(path):
    """The files `vocab.json` and `merges.txt` for the model at `path`.

    They are looked for in folders called `tokenizer` beside the model and above it, up to `models`, and then among
    what is already on this machine of the hub. Raises `BadCheckpoint` with what to do where there are none.
    """
    path = Path(path).resolve()
    for folder in path.parents:
        files = folder / "tokenizer" / "vocab.json", folder / "tokenizer" / "merges.txt"
        if all(file.is_file() for file in files):
            return files
        if folder.name == "models":
            break
    cached = [try_to_load_from_cache(HUB, name) for name in ("vocab.json", "merges.txt")]
    if all(isinstance(file, str) for file in cached):
        return tuple(map(Path, cached))
    raise BadCheckpoint(
        f"{path.name} brings no vocabulary, and none is here: put vocab.json and merges.txt of {HUB} into a folder "
        "“tokenizer” beside it."
    )
