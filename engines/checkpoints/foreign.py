"""Files of other programs, recognised by the names and shapes of their tensors, never by the name of the file."""

import math


def completed(tensors, metadata):
    """The `metadata` of a file, with `family` and `config` told from its `tensors` where it names no family itself."""
    found = None if "family" in metadata else detect(tensors)
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
