"""A model that draws, brought to another file of what it draws with: a VQGAN that was trained on, say."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from engines.checkpoints import files, models
from engines.errors import BadRequest

DECODING = ("decoder.", "post_quant_conv.")  # of an autoencoder, what may change and leave its latents as they are


def relink(row, before, after, out):
    """Write the model of `row`, which draws with the model `before`, to the file `out` as one that draws with `after`.

    Raises `BadRequest` unless `after` is for it what `before` was: an autoencoder of the same latents, whatever its
    decoder makes of them, or the same model that draws; and for a file that is there already.
    """
    out = Path(out)
    if out.exists():
        raise BadRequest(f"{out} is there already; choose a file that is not.")
    (frame, was), (other, now) = _what_counts(before), _what_counts(after)
    same = was.keys() == now.keys() and all(torch.equal(value, now[name]) for name, value in was.items())
    if (before.family, frame) != (after.family, other) or not same:
        raise BadRequest(
            f"“{row.id}” learned with “{before.name}”, and “{after.name}” is not the same in what counts for it; "
            "choose one that was trained on from it with its latents as they were."
        )
    _, metadata = files.read_header(row.path)
    link = {"name": after.name, "sha256": after.sha256}
    out.parent.mkdir(parents=True, exist_ok=True)
    files.save(out, load_file(row.path), metadata | {models.PARTS[row.family]: link})


def _what_counts(model):
    # what is to be the same of the description and of the weights
    state = models.own_weights(model)
    if model.family in models.DRAWING:
        return model.config, state
    latents = {name: value for name, value in state.items() if not name.startswith(DECODING)}
    return getattr(model, "codebook_config", None), latents
