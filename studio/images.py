"""What the browser and the disk send, as pictures; and pictures with their record, as PNG."""

import io
import json
import os
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin

from engines.errors import BadPicture
from engines.requests import MAX_PIXELS

FORMATS = ("PNG", "JPEG", "WEBP")
MIN_SIDE = 8
RECORD = "atelier"  # the name of the PNG text that holds the record


def read_picture(source):
    """The RGB picture in a path, bytes or binary stream: upright by EXIF, transparency laid over white.

    Raises `BadPicture` for what is no whole PNG, JPEG or WebP, or is outside the limits; the number of
    pixels is checked before they are decoded.
    """
    with _open(source) as image:
        if min(image.size) < MIN_SIDE:
            raise BadPicture(
                f"The picture is {image.width}x{image.height} pixels; it needs at least {MIN_SIDE} on each side."
            )
        try:
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I;16") or image.mode == "I":
                # Pillow cuts 16 bits off at 255 instead of scaling them.
                return Image.fromarray((np.asarray(image).astype(np.uint32) // 257).astype(np.uint8)).convert("RGB")
            if image.has_transparency_data:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            return image.convert("RGB")
        except (OSError, ValueError, SyntaxError) as error:
            raise BadPicture("The picture is damaged or was cut short; save or download it again.") from error


def read_record(source):
    """The record inside a PNG of this studio. Raises `BadPicture` if there is none."""
    with _open(source) as image:
        text = getattr(image, "text", {}).get(RECORD)
    try:
        record = json.loads(text)
        if isinstance(record["request"], dict):
            return record
    except (TypeError, ValueError, KeyError):
        pass
    raise BadPicture("This picture holds no settings: only PNG files made by Atelier, unchanged since, hold them.")


def png_bytes(image):
    """The picture as PNG."""
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def write_png(path, image, record):
    """Write a PNG with its `record` inside: a temporary file, synced, then renamed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = PngImagePlugin.PngInfo()
    text.add_itxt(RECORD, json.dumps(record, ensure_ascii=False))
    temporary = path.with_name(path.name + ".part")
    try:
        with open(temporary, "wb") as stream:
            image.save(stream, "PNG", pnginfo=text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _open(source):
    stream = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        with warnings.catch_warnings():
            # Pillow warns of large pictures; the limit below is ours.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(stream, formats=FORMATS)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadPicture("This is no picture that can be read: use a PNG, JPEG or WebP file.") from error
    if image.width * image.height > MAX_PIXELS:
        millions = image.width * image.height / 1e6
        image.close()
        raise BadPicture(f"The picture has {millions:.0f} million pixels; up to {MAX_PIXELS // 10**6} million are read.")
    return image
