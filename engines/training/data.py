"""Training pictures: folders, captions and digits as arrays in memory, and the fixed held-out tenth."""

import gzip
import hashlib
import json
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from engines.errors import BadRequest
from engines.pictures import SUFFIXES
from engines.text.captions import BACKGROUNDS


@dataclass(frozen=True)
class Example:
    """One training picture: uint8 `(H, W, 3)` or, if it has transparency, `(H, W, 4)`."""

    name: str
    pixels: np.ndarray
    text: str = ""
    text_zh: str = ""
    style: str = ""
    aliases: tuple[str, ...] = ()

    @property
    def held_out(self):
        """Whether this is one of the fixed tenth that no training sees, by the hash of caption and style.

        Uncaptioned pictures go by their file name.
        """
        key = f"{self.text}|{self.style}" if self.text else self.name
        return hashed(key) % 10 == 0


def hashed(text):
    """A whole number below 2^32 that is the same for a text everywhere."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def held_out_sets(examples):
    """The held-out examples as `{"icons": [...], "photographs": [...]}`, by whether they have transparency."""
    sets = {"icons": [], "photographs": []}
    for example in examples:
        if example.held_out:
            sets["icons" if example.pixels.shape[2] == 4 else "photographs"].append(example)
    return sets


def load(path, size):
    """Every picture under `path`, reduced for training at `size x size` pixels.

    `path` is a folder of pictures, with an optional `metadata.jsonl` (`file_name`, `text`) or a
    `.txt` beside each picture, in any depth of sub-folders, or a folder with an IDX file of digits.
    Pictures with transparency are icons and shrink to `size`; others keep a shorter side of up to
    `2 * size`, so that crops of them differ. Raises `BadRequest` if there is nothing to learn from.
    """
    path = Path(path)
    if not path.is_dir():
        raise BadRequest(f"There is no folder {path}; give a folder of pictures to train on.")
    digits = sorted(path.glob("*images*idx3*"))
    if digits:
        return [example for file in digits for example in _load_idx(file)]
    captions = {}
    for table in sorted(path.rglob("metadata.jsonl")):
        captions |= _captions(table)
    examples = []
    for file in sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES):
        row = captions.get(file, {})
        examples.append(
            Example(
                name=file.name,
                pixels=_pixels(file, size),
                text=row.get("text") or _note(file.with_suffix(".txt")),
                text_zh=row.get("text_zh") or "",
                style=row.get("style") or "",
                aliases=tuple(row.get("aliases") or ()),
            )
        )
    if not examples:
        raise BadRequest(f"There are no pictures in {path}; PNG, JPEG and WebP are read.")
    return examples


def not_held_out(examples):
    """The examples to learn from; raises `BadRequest` if every one is held out."""
    seen = [example for example in examples if not example.held_out]
    if not seen:
        raise BadRequest("Every picture of the folder is held out from training; add more pictures.")
    return seen


def _captions(table):
    """The rows of a `metadata.jsonl` by the pictures they describe."""
    try:
        with open(table, encoding="utf-8-sig") as lines:  # Windows editors put a mark before the text
            rows = [json.loads(line) for line in lines if line.strip()]
        if any(not isinstance(row.get(name) or "", str) for row in rows for name in ("text", "text_zh", "style")):
            raise ValueError("a caption that is no text")
        return {table.parent / row["file_name"]: row for row in rows}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadRequest(
            f"{table} cannot be read; each of its lines must be a JSON object with file_name and text."
        ) from error


def _note(file):
    """The caption in the `.txt` beside a picture, if there is one."""
    try:
        return file.read_text(encoding="utf-8-sig").strip() if file.exists() else ""
    except (OSError, ValueError) as error:
        raise BadRequest(f"{file.name} cannot be read as a caption; save it as UTF-8 text.") from error


def _pixels(file, size):
    try:
        with Image.open(file) as image:
            transparent = image.has_transparency_data
            image = image.convert("RGBA" if transparent else "RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadRequest(f"{file.name} cannot be read as a picture; remove it from the training folder.") from error
    shorter = min(image.size)
    target = size if transparent else min(max(shorter, size), 2 * size)
    if shorter != target:
        scale = target / shorter
        image = image.resize([max(target, round(side * scale)) for side in image.size], Image.Resampling.LANCZOS)
    return np.asarray(image)


def _load_idx(file):
    try:
        with gzip.open(file) if file.suffix == ".gz" else open(file, "rb") as stream:
            data = stream.read()
        magic, count, height, width = struct.unpack(">IIII", data[:16])
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise BadRequest(f"{file.name} cannot be read as an IDX file of pictures; copy it again.") from error
    if magic != 2051 or not count * height * width or len(data) != 16 + count * height * width:
        raise BadRequest(f"{file.name} is no IDX file of pictures; expected magic 2051 and {count} whole pictures.")
    digits = np.frombuffer(data, np.uint8, offset=16).reshape(count, height, width, 1).repeat(3, axis=3)
    return [Example(name=f"{file.name}#{i}", pixels=digits[i]) for i in range(count)]


def on_background(pixels, colour):
    """RGB pixels of a picture, its transparency laid over one colour."""
    if pixels.shape[2] == 3:
        return pixels
    alpha = pixels[..., 3:].astype(np.uint16)
    over = pixels[..., :3] * alpha + np.array(colour, np.uint16) * (255 - alpha)
    return ((over + 127) // 255).astype(np.uint8)


def crop(pixels, side, rng):
    """A random `side x side` window; whether to mirror it is the caller's choice."""
    if side > min(pixels.shape[:2]):
        raise BadRequest(
            f"A picture of {pixels.shape[1]}x{pixels.shape[0]} pixels has no window of {side}x{side}; "
            "train with smaller crops or larger pictures."
        )
    top = rng.integers(pixels.shape[0] - side + 1)
    left = rng.integers(pixels.shape[1] - side + 1)
    return pixels[top : top + side, left : left + side]


def window(pixels, side, rng):
    """A random square window at least `side` wide, at any place and of any size, reduced to `side x side`."""
    width = int(rng.integers(side, max(side, min(pixels.shape[:2])), endpoint=True))  # too small a one, `crop` refuses
    cut = Image.fromarray(crop(pixels, width, rng))
    return np.asarray(cut.resize((side, side), Image.Resampling.LANCZOS))


def evenly(rows, count):
    """Up to `count` of `rows`, as far apart as they can be."""
    count = min(count, len(rows))
    return [rows[i * len(rows) // count] for i in range(count)]


def middle(pixels, side):
    """The `side x side` window in the middle, on white."""
    pixels = on_background(pixels, (255, 255, 255))
    top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    return np.ascontiguousarray(pixels[top : top + side, left : left + side])


def random_background(rng):
    """A background `(name, colour)`: white half of the time, else one of the named colours."""
    names = list(BACKGROUNDS)
    name = "white" if rng.random() < 0.5 else names[rng.integers(len(names))]
    return name, BACKGROUNDS[name]
