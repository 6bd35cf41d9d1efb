"""Textual inversion (Gal et al., 2023): vectors that stand in a text where tokens would, in a file of their own."""

import contextlib
from pathlib import Path

from engines.checkpoints import files
from engines.errors import BadCheckpoint

FAMILY = "embedding"
MOST = 75  # vectors, as many as words in a text of CLIP


def detect(shapes):
    """`(FAMILY, config)` if there is one tensor alone among `shapes`, name to shape, and it holds vectors; else None.

    The config tells its name under `tensor`, and how many `vectors` of which `width` there are. It is called
    `emb_params`, or as the word that the vectors were trained for.
    """
    if len(shapes) != 1:
        return None
    ((name, shape),) = shapes.items()
    vectors, width = shape if len(shape) > 1 or not name.startswith("<") else (1, *shape)
    if "." in name or not 1 <= vectors <= MOST:  # layers have dots in their names
        return None
    return FAMILY, {"tensor": name, "vectors": vectors, "width": width}


@contextlib.contextmanager
def readable(model, chosen):
    """Inside, a `LatentDiffusion` reads each sign of `chosen`, sign to the path of a file, as the vectors of that file.

    After it, however it is left, it reads as before. Raises `BadCheckpoint` for vectors of another width than the
    model's words, and for a model with more than one text encoder.
    """
    import torch
    from torch import nn

    from engines.text.encoder import TextEncoder

    if not chosen:
        yield
        return
    if sum(isinstance(module, TextEncoder) for module in model.modules()) != 1:
        raise BadCheckpoint(f"“{model.name}” reads words twice, which no embedding does; draw with another model.")
    table = model.text.text_model.embeddings.token_embedding
    words, rows, ids = table.weight, [table.weight], {}
    for sign, path in chosen.items():
        vectors = _vectors(Path(path))
        if vectors.shape[1] != words.shape[1]:
            raise BadCheckpoint(
                f"The vectors of {Path(path).name} are {vectors.shape[1]} wide, and the words of “{model.name}” "
                f"{words.shape[1]}; choose an embedding that was made for this kind of model."
            )
        first = sum(map(len, rows))
        ids[sign] = range(first, first + len(vectors))
        rows.append(vectors.to(words))
    try:
        table.weight = nn.Parameter(torch.cat(rows), requires_grad=False)
        model.tokenizer.added = ids
        yield
    finally:
        table.weight, model.tokenizer.added = words, {}


def _vectors(path):
    shapes = {name: shape for name, (_, shape) in files.read_header(path)[0].items()}
    _, config = detect(shapes)
    return files.load(path, shapes)[config["tensor"]].view(config["vectors"], config["width"])
