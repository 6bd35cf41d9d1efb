"""Files of other programs, recognised by the names and shapes of their tensors, never by the name of the file."""

import functools
import importlib.util
import math
from dataclasses import dataclass, replace
from pathlib import Path

from engines.checkpoints import autoencoders, embeddings, files, lora, stable_diffusion, taming
from engines.errors import BadCheckpoint

NEVER_SAID = (  # families that no file of ours is of
    "spandrel", "diffusers", stable_diffusion.FAMILY, autoencoders.TINY_ENCODER, lora.FAMILY, embeddings.FAMILY,
    taming.FAMILY,
)  # fmt: skip
UPSCALERS = "upscalers"  # the folder of what is left to spandrel, if nobody here knows it


@dataclass(frozen=True)
class Layout:
    """What a file holds: a model of a `family` by its `config`.

    `names` maps the tensors of ours to those in the file, or to `files.Rows` of them, and is None where they are
    called alike; what is `unused` in the file has no part in the model. Where a model lies in two files, the other
    one is `beside`.
    """

    family: str | None
    config: dict | None
    names: dict | None = None
    unused: tuple[str, ...] = ()
    beside: Path | None = None


def recognised(path):
    """The `Layout` of a safetensors file and its metadata; the family is None for what nobody knows.

    A file of ours says itself what it is. What is not known but lies in a folder `UPSCALERS` is of the family
    "spandrel". Raises `BadCheckpoint` for a file that cannot be read, for half a model whose other half is not
    there, and if spandrel is not installed.
    """
    path = Path(path)
    stamps = files.stamp(path), files.stamp(path.with_name(autoencoders.CONFIG))
    layout, metadata = _recognised(path, stamps)
    if layout.family == autoencoders.TINY and layout.names and "encoder.0.weight" not in layout.names:
        layout = replace(layout, beside=autoencoders.encoder_beside(path))
    if layout.family is None and path.parent.name == UPSCALERS:
        if importlib.util.find_spec("spandrel") is None:
            raise BadCheckpoint(
                f"{path.name} is of no kind known here; more are known to spandrel: "
                "`.venv/bin/pip install spandrel`, then start the studio again."
            )
        layout = Layout("spandrel", {})
    return layout, metadata


@functools.lru_cache(maxsize=4096)
def _recognised(path, stamps):
    # the page asks for all models whenever it shows a choice of them, and large files have large headers
    tensors, metadata = files.read_header(path)
    if metadata.get("family") in NEVER_SAID:
        return Layout(None, None), metadata
    if "family" in metadata:
        return Layout(metadata["family"], metadata.get("config")), metadata
    layout = detect(tensors)
    if layout.family in autoencoders.CLASSES:
        layout.config["autoencoder"]["norm_groups"] = autoencoders.groups(path)
    return layout, metadata


def detect(tensors):
    """The `Layout` of a file of another program by its `tensors`, name to (dtype, shape), as `read_header` tells."""
    shapes = {name: shape for name, (_, shape) in tensors.items()}
    known = stable_diffusion.detect, taming.detect, autoencoders.detect, lora.detect, embeddings.detect
    for look in (_rrdb, _srvgg, *known):
        try:
            found = look(shapes)
        except (IndexError, KeyError, TypeError, ValueError, ZeroDivisionError):
            continue  # names as known, and shapes as never seen
        if found:
            return Layout(*found)
    return Layout(None, None)


def _rrdb(shapes):
    first, dense = shapes.get("conv_first.weight"), shapes.get("body.0.rdb1.conv1.weight")
    scale = {3: 4, 12: 2, 48: 1}.get(first[1]) if first and dense else None
    if scale is None:
        return None
    blocks = 1 + max(int(name.split(".")[1]) for name in shapes if name.startswith("body."))
    return "rrdb", {"ch": first[0], "growth": dense[0], "blocks": blocks, "scale": scale}


def _srvgg(shapes):
    first, slope = shapes.get("body.0.weight"), shapes.get("body.1.weight")
    if not (first and slope and len(first) == 4 and first[1] == 3 and len(slope) == 1):
        return None
    last = max(int(name.split(".")[1]) for name in shapes if name.startswith("body."))
    scale = math.isqrt(shapes[f"body.{last}.weight"][0] // 3)
    return "srvgg", {"ch": first[0], "blocks": last // 2 - 1, "scale": scale}
