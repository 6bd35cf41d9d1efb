"""Autoencoders of other programs: taming-transformers, latent-diffusion, TAESD, and diffusers.

The nets are those of `engines.vqgan`, which call their parts as the first three do; diffusers calls them otherwise. All
shapes are told from the tensors.
"""

import itertools
import json
import re

from engines.errors import BadCheckpoint

TINY, TINY_ENCODER = "taesd", "taesd-encoder"  # families; as published, the tiny one's halves have a file each
FIRST_STAGE = "first_stage_model."  # before the names where the file was taken out of a Stable Diffusion
CLASSES = {"vqgan": "VQModel", "kl": "AutoencoderKL"}  # of diffusers
WEIGHTS, CONFIG = "diffusion_pytorch_model.safetensors", "config.json"  # of a net, as diffusers calls them
GROUPS = 32  # of every group norm that was published, unless diffusers says otherwise
UNUSED = ("loss.", "model_ema.", "quantize.re_embed")  # discriminators and moving averages of the training

# diffusers' name of a part, and ours, in the order in which the one takes the place of the other
RENAMED = {
    "conv_norm_out": "norm_out", "conv_shortcut": "nin_shortcut", "group_norm": "norm",
    "to_out.0": "proj_out", "to_q": "q", "to_k": "k", "to_v": "v",
    "mid_block.resnets.0": "mid.block_1", "mid_block.resnets.1": "mid.block_2", "mid_block.attentions.0": "mid.attn_1",
    "resnets": "block", "attentions": "attn", "downsamplers.0": "downsample", "upsamplers.0": "upsample",
    "down_blocks": "down", "up_blocks": "up",
}  # fmt: skip
OLDER = {"proj_attn": "proj_out", "query": "q", "key": "k", "value": "v"}  # of diffusers, and ours


def detect(shapes):
    """`(family, config, names, unused)` of the autoencoder among `shapes`, name to shape; None where there is none.

    The layers of what is found need not be complete, nor all of them known: loading tells.
    """
    if tiny := _tiny(shapes):
        return tiny
    if shapes and all(name.startswith(FIRST_STAGE) for name in shapes):
        inner = detect({name.removeprefix(FIRST_STAGE): shape for name, shape in shapes.items()})
        return inner and _within(FIRST_STAGE, *inner)
    if "encoder.conv_in.weight" not in shapes:
        return None
    # diffusers counts the levels of the decoder from the deepest
    levels = len({name.split(".")[2] for name in shapes if name.startswith("decoder.up_blocks.")})
    names = {_ours(name, levels): name for name in shapes}
    if not {"encoder.conv_in.weight", "decoder.conv_in.weight", "post_quant_conv.weight"} <= set(names):
        return None
    found = {name: shapes[theirs] for name, theirs in names.items()}
    config = _config(found)
    unused = tuple(theirs for name, theirs in names.items() if name.startswith(UNUSED))
    if codes := found.get("quantize.embedding.weight"):
        return "vqgan", {"autoencoder": config, "codebook": {"n_embed": codes[0]}}, names, unused
    if codes := found.get("quantize.embed.weight"):
        return "vqgan", {"autoencoder": config, "codebook": {"n_embed": codes[0], "gumbel": True}}, names, unused
    return "kl", {"autoencoder": config}, names, unused


def _within(prefix, family, config, names, unused):
    names = {ours: prefix + theirs for ours, theirs in names.items()}
    return family, config, names, tuple(prefix + name for name in unused)


def latents(config):
    """The channels of the latents of an autoencoder by the config of its family, and the pixels a side of one."""
    config = config.get("autoencoder", config)
    levels = config["blocks"] if "blocks" in config else config["ch_mult"]
    return config["embed_dim"], config.get("patch", 1) * 2 ** (len(levels) - 1)


def _ours(name, levels):
    """What we call a tensor that a file calls `name`, whose decoder has so many `levels`."""
    return _renamed(_upwards(name, levels), RENAMED | OLDER)


def in_diffusers(name, levels):
    """What diffusers calls the tensor `name` of an autoencoder of ours that has so many `levels`."""
    return _upwards(_renamed(name, {ours: theirs for theirs, ours in RENAMED.items()}), levels)


def _renamed(name, table):
    for before, after in table.items():
        name = re.sub(rf"\b{re.escape(before)}\b", after, name)
    return name


def _upwards(name, levels):
    return re.sub(r"\bup_blocks\.(\d+)\b", lambda match: f"up_blocks.{levels - 1 - int(match[1])}", name)


def _config(found):
    """The fields of an `AutoencoderConfig`."""
    ch, in_channels = found["encoder.conv_in.weight"][:2]
    levels = count(found, r"encoder\.down\.(\d+)\.block")
    blocks = count(found, r"encoder\.down\.0\.block\.(\d+)")
    widths = [found[f"encoder.down.{level}.block.{blocks - 1}.conv2.weight"][0] for level in range(levels)]
    attention = [level for level in range(levels) if f"encoder.down.{level}.attn.0.q.weight" in found]
    return {
        "in_channels": in_channels,
        "ch": ch,
        "ch_mult": [width // ch for width in widths],
        "num_res_blocks": blocks,
        "attention_levels": attention,
        "z_channels": found["decoder.conv_in.weight"][1],
        "embed_dim": found["post_quant_conv.weight"][1],
        "norm_groups": GROUPS,
    }


def _tiny(shapes):
    # a whole one by diffusers, which does not count the bound before the decoder, or the half in a published file
    names = {}
    for theirs in shapes:
        if match := re.fullmatch(r"(encoder|decoder)\.layers\.(\d+)\.(.+)", theirs):
            half, number, rest = match.groups()
            names[f"{half}.{int(number) + (half == 'decoder')}.{rest}"] = theirs
    family, half = TINY, "decoder"
    if "1.conv.0.weight" in shapes or "3.conv.0.weight" in shapes:
        family, half = (TINY_ENCODER, "encoder") if "0.weight" in shapes else (TINY, "decoder")
        names = {f"{half}.{theirs}": theirs for theirs in shapes}
    if not names:
        return None
    return family, _tiny_config({name: shapes[theirs] for name, theirs in names.items()}, half), names, ()


def _tiny_config(found, half):
    """The fields of a `TinyAutoencoderConfig`, as one `half` tells them."""
    numbers = [int(match[1]) for match in map(re.compile(rf"{half}\.(\d+)\.weight").fullmatch, found) if match]
    numbers.sort()  # of what stands between the blocks
    blocks = [
        sum(f"{half}.{number}.conv.0.weight" in found for number in range(*pair))
        for pair in itertools.pairwise(numbers)
    ]
    first, last = (found[f"{half}.{number}.weight"] for number in (numbers[0], numbers[-1]))
    if half == "encoder":
        return {"ch": first[0], "blocks": blocks, "embed_dim": last[0]}
    return {"ch": first[0], "blocks": blocks[::-1], "embed_dim": first[1]}


def encoder_beside(path):
    """The file of the encoder that belongs to the tiny decoder in the file `path`, called alike.

    Raises `BadCheckpoint` where it is not there.
    """
    found = path.with_name(path.name.replace("decoder", "encoder"))
    if found == path or not found.is_file():
        raise BadCheckpoint(
            f"{path.name} is the decoder of a tiny autoencoder alone; put its encoder beside it, and let their names "
            "differ by “decoder” and “encoder”."
        )
    return found


def groups(path):
    """The groups of every group norm of the autoencoder in a file: no tensor tells, but diffusers beside its own."""
    beside = path.with_name(CONFIG)
    if path.name != WEIGHTS or not beside.is_file():
        return GROUPS
    try:
        return int(json.loads(beside.read_text(encoding="utf-8")).get("norm_num_groups", GROUPS))
    except (AttributeError, OSError, TypeError, ValueError) as error:
        raise BadCheckpoint(f"{path.parent.name}/{CONFIG} cannot be read; copy the folder again.") from error


def count(found, pattern):
    """How many numbers, from 0 on, the group of `pattern` takes among the names of `found`.

    Raises `ValueError` for more than there are names.
    """
    counted = 1 + max(int(match[1]) for match in map(re.compile(pattern).match, found) if match)
    if counted > len(found):
        raise ValueError(f"{counted} layers of {len(found)} tensors")
    return counted
