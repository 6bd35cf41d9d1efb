"""Autoencoders of other programs: taming-transformers, latent-diffusion, and diffusers.

The nets are those of `engines.vqgan.autoencoder`, which calls their parts as the first two do; diffusers calls them
otherwise. All shapes are told from the tensors.
"""

import re

GROUPS = 32  # of every group norm that was published
UNUSED = ("loss.", "model_ema.", "quantize.re_embed")  # discriminators and moving averages of the training

# diffusers' name of a part, and ours, in the order in which they are put in place
RENAMED = (
    (r"\bconv_norm_out\b", "norm_out"),
    (r"\bconv_shortcut\b", "nin_shortcut"),
    (r"\bgroup_norm\b", "norm"),
    (r"\b(to_out\.0|proj_attn)\b", "proj_out"),
    (r"\bto_([qkv])\b", r"\1"),
    (r"\bquery\b", "q"),
    (r"\bkey\b", "k"),
    (r"\bvalue\b", "v"),
    (r"\bmid_block\.resnets\.0\b", "mid.block_1"),
    (r"\bmid_block\.resnets\.1\b", "mid.block_2"),
    (r"\bmid_block\.attentions\.0\b", "mid.attn_1"),
    (r"\bresnets\b", "block"),
    (r"\battentions\b", "attn"),
    (r"\b(down|up)samplers\.0\b", r"\1sample"),
    (r"\bdown_blocks\b", "down"),
)


def detect(shapes):
    """`(family, config, names, unused)` of the autoencoder among `shapes`, name to shape; None where there is none.

    The layers of what is found need not be complete, nor all of them known: loading tells.
    """
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
    codes = found.get("quantize.embedding.weight")
    if codes:
        return "vqgan", {"autoencoder": config, "codebook": {"n_embed": codes[0]}}, names, unused
    return "kl", {"autoencoder": config}, names, unused


def _ours(name, levels):
    """What we call a tensor that a file calls `name`, whose decoder has so many `levels`."""
    for theirs, ours in RENAMED:
        name = re.sub(theirs, ours, name)
    return re.sub(r"\bup_blocks\.(\d+)\b", lambda match: f"up.{levels - 1 - int(match[1])}", name)


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


def count(found, pattern):
    """How many numbers, from 0 on, the group of `pattern` takes among the names of `found`.

    Raises `ValueError` for more than there are names.
    """
    counted = 1 + max(int(match[1]) for match in map(re.compile(pattern).match, found) if match)
    if counted > len(found):
        raise ValueError(f"{counted} layers of {len(found)} tensors")
    return counted
