"""Textual inversion (Gal et al., 2023): vectors that stand in a text where tokens would, in a file of their own."""

import contextlib
from pathlib import Path

from engines.checkpoints import files
from engines.errors import BadCheckpoint

FAMILY = "embedding"
XL = ("clip_l", "clip_g")  # the tensors of Stable Diffusion XL, in the order of its readers
MOST = 75  # vectors, as many as words in a text of CLIP


def detect(shapes):
    """`(FAMILY, config)` if there is nothing but vectors among `shapes`, name to shape; else None.

    That is one tensor, called `emb_params` or as the word that the vectors were trained for, or the two of XL, one for
    each reader. The config tells their names under `tensors`, how many `vectors` there are, and their `widths`.
    """
    tensors = XL if shapes.keys() == set(XL) else tuple(shapes)
    if len(tensors) != 1 and tensors != XL:
        return None
    found = [(1, *shape) if len(shape) == 1 and name.startswith("<") else shape for name, shape in shapes.items()]
    (vectors, *_), widths = found[0], tuple(dict(zip(shapes, found, strict=True))[name][1] for name in tensors)
    if any(len(shape) != 2 or shape[0] != vectors for shape in found):
        return None
    if "." in tensors[0] or not 1 <= vectors <= MOST:  # layers have dots in their names
        return None
    return FAMILY, {"tensors": tensors, "vectors": vectors, "widths": widths}


@contextlib.contextmanager
def readable(model, chosen):
    """Inside, a `LatentDiffusion` reads each sign of `chosen`, sign to the path of a file, as the vectors of that file.

    After it, however it is left, it reads as before. Raises `BadCheckpoint` for vectors of another width than the
    model's words.
    """
    import torch
    from torch import nn

    if not chosen:
        yield
        return
    tables = [getattr(model, name).text_model.embeddings.token_embedding for _, name in model.readers]
    words = [table.weight for table in tables]
    rows, ids, first = [[weight] for weight in words], {}, len(words[0])
    for sign, path in chosen.items():
        vectors = _vectors(Path(path))
        found, expected = ([rows.shape[1] for rows in each] for each in (vectors, words))
        if found != expected:
            raise BadCheckpoint(
                f"The vectors of {Path(path).name} are {_told(found)} wide, and the words of “{model.name}” "
                f"{_told(expected)}; choose an embedding that was made for this kind of model."
            )
        ids[sign] = range(first, first + len(vectors[0]))
        first += len(vectors[0])
        for parts, more in zip(rows, vectors, strict=True):
            parts.append(more.to(parts[0]))
    try:
        for table, parts in zip(tables, rows, strict=True):
            table.weight = nn.Parameter(torch.cat(parts), requires_grad=False)
        for tokenizer, _ in model.readers:
            tokenizer.added = ids
        yield
    finally:
        for table, weight in zip(tables, words, strict=True):
            table.weight = weight
        for tokenizer, _ in model.readers:
            tokenizer.added = {}


def _told(widths):
    return " and ".join(map(str, widths))


def _vectors(path):
    """The vectors of a file for each reader of words, `(n, width)`."""
    shapes = {name: shape for name, (_, shape) in files.read_header(path)[0].items()}
    _, config = detect(shapes)
    tensors = files.load(path, shapes)
    return [tensors[name].view(config["vectors"], -1) for name in config["tensors"]]
