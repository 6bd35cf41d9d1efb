"""Files of other programs, recognised by the names and shapes of their tensors, never by the name of the file."""

import importlib.util
import math
from pathlib import Path

from engines.errors import BadCheckpoint

UPSCALERS = "upscalers"  # the folder of what is left to spandrel, if nobody here knows it


def completed(path, tensors, metadata):
    """The `metadata` of a file, with `family` and `config` told from its `tensors` where it names no family itself.

    What is not known but lies in a folder `UPSCALERS` is of the family "spandrel". Raises `BadCheckpoint` if that
    is not installed.
    """
    if "family" in metadata:
        return metadata
    found = detect(tensors)
    if found is None and Path(path).parent.name == UPSCALERS:
        if importlib.util.find_spec("spandrel") is None:
            raise BadCheckpoint(
                f"{Path(path).name} is of no kind known here; more are known to spandrel: "
                "`.venv/bin/pip install spandrel`, then start the studio again."
            )
        found = "spandrel", {}
    return metadata | dict(zip(("family", "config"), found, strict=True)) if found else metadata


def detect(tensors):
    """`(family, config)` of a file by its `tensors`, name to (dtype, shape), as `files.read_header` tells; or None."""
    shapes = {name: shape for name, (_, shape) in tensors.items()}
    try:
        return next(filter(None, (look(shapes) for look in (_rrdb, _srvgg))), None)
    except (IndexError, ValueError, ZeroDivisionError):  # names as known, and shapes as never seen
        return None


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
