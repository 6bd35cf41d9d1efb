"""Transformers of taming-transformers as published, with their VQGAN in one file.

A class, or the token that stands for none, comes before the tokens of a picture and is one of the same vocabulary. No
tensor tells which of the two, nor the heads: both follow from the published configurations.
"""

import math

from engines.checkpoints import autoencoders
from engines.errors import BadCheckpoint

FAMILY = "taming-transformer"
GPT = "transformer."
HEADS, HEADS_OF = 16, {1536: 24}  # of every published one, and by their width of those that have others
CLASSES = {(16384, 1536): 1000, (1024, 1664): 0}  # by codes and width: of ImageNet, and none of FFHQ and CelebA-HQ


def detect(shapes):
    """`(FAMILY, config, names, unused)` of a GPT and a VQGAN among `shapes`, name to shape; None where there is none.

    Raises `BadCheckpoint` for one that reads more than a class before the picture.
    """
    if f"{GPT}tok_emb.weight" not in shapes or f"{GPT}pos_emb" not in shapes:
        return None
    inner = {name.removeprefix(autoencoders.FIRST_STAGE): shape for name, shape in shapes.items()
             if name.startswith(autoencoders.FIRST_STAGE)}  # fmt: skip
    _, stage, stage_names, stage_unused = autoencoders.detect(inner)
    unused = [autoencoders.FIRST_STAGE + name for name in stage_unused]
    unused += [name for name in shapes if name.startswith(GPT) and name.endswith(".attn.mask")]
    names = {f"first_stage.{ours}": autoencoders.FIRST_STAGE + theirs for ours, theirs in stage_names.items()}
    names |= {name: name for name in shapes if name.startswith(GPT)}
    names = {ours: theirs for ours, theirs in names.items() if theirs not in unused}
    n_embed, width = shapes[f"{GPT}tok_emb.weight"]
    side = math.isqrt(shapes[f"{GPT}pos_emb"][1])
    if side**2 != shapes[f"{GPT}pos_emb"][1]:
        raise BadCheckpoint(
            "A transformer that draws by a map of depth, segments or coordinates is not run here; "
            "choose one that draws by a class or by nothing."
        )
    config = {
        "n_embed": n_embed,
        "side": side,
        "width": width,
        "layers": autoencoders.count(shapes, r"transformer\.blocks\.(\d+)\."),
        "heads": HEADS_OF.get(width, HEADS),
        "classes": CLASSES.get((n_embed, width)),
        "first_stage": stage,
        "size": side * autoencoders.latents(stage)[1],
    }
    return FAMILY, config, names, tuple(unused)
