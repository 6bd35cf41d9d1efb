"""A picture as the tokens of a VQGAN, in an `.npz` file: a small fraction of its PNG. Needs no torch."""

import io
import re
import zipfile
from dataclasses import dataclass

import numpy as np

from engines.errors import BadPicture

MAX_BYTES = 16_000_000  # unpacked; a picture of 40 megapixels has 0.7 million tokens at a factor of 8
_DAMAGED = "This file holds no tokens that can be read; choose an .npz that this studio saved."


@dataclass(frozen=True)
class Tokens:
    """What a file holds: the map of codes `(h, w)`, the `(width, height)` of its picture, and the model's SHA-256."""

    indices: np.ndarray
    size: tuple[int, int]
    model: str


def to_bytes(tokens):
    """The `.npz` of `Tokens`."""
    stream = io.BytesIO()
    kind = np.uint16 if tokens.indices.max(initial=0) < 2**16 else np.uint32
    np.savez_compressed(
        stream, indices=tokens.indices.astype(kind), size=np.array(tokens.size, np.uint32), model=np.array(tokens.model)
    )
    return stream.getvalue()


def from_bytes(data):
    """The `Tokens` in the bytes of a file. Raises `BadPicture` for any that `to_bytes` did not write."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(part.file_size for part in archive.infolist()) > MAX_BYTES:
                raise BadPicture("This file unpacks to more tokens than a picture can have; choose another.")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            indices, size, model = arrays["indices"], arrays["size"], arrays["model"]
        if indices.dtype.kind != "u":
            raise ValueError("codes are whole numbers from 0")
        indices, size, model = indices.astype(np.int64), tuple(int(side) for side in size), str(model)
    except BadPicture:
        raise
    except Exception as error:  # a zip can be wrong in more ways than its libraries have names for
        raise BadPicture(_DAMAGED) from error
    if indices.ndim != 2 or not indices.size or len(size) != 2 or min(size) < 1:
        raise BadPicture(_DAMAGED)
    if not re.fullmatch("[0-9a-f]{64}", model):
        raise BadPicture(_DAMAGED)
    return Tokens(indices, size, model)
