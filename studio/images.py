"""What the browser and the disk send, as pictures; and pictures with their record, as PNG."""

import base64
import contextlib
import hashlib
import io
import json
import os
import secrets
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageCms, PngImagePlugin

from engines.errors import BadPicture
from engines.requests import MAX_PIXELS
from studio import parameters

FORMATS = ("PNG", "JPEG", "WEBP")
MIN_SIDE = 8
RECORD = "atelier"  # the name of the PNG text that holds the record
DIFFERENCE = "difference"  # in a record: the picture in its request as the difference from this one
PngImagePlugin.MAX_TEXT_MEMORY = 192 * 2**20  # bytes: a record holds the picture that it began with
Image.MAX_IMAGE_PIXELS = None  # the limit is ours, on what people send; what is made from it may be larger

SRGB = ImageCms.createProfile("sRGB")
LOSSES = {  # what a file may hold that is not taken in as it is, and what the artist is told of it
    "profile": "Its colours were brought from its own ICC profile to sRGB.",
    "depth": "Its 16 bits a channel were rounded to 8.",
    "frames": "Only its first frame was taken.",
}

# What turns a picture upright, by its EXIF orientation.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_picture(source, transparent=False):
    """The RGB picture in a path, bytes or binary stream: upright by EXIF, in sRGB, transparency laid over white.

    With `transparent`, a picture that has transparency keeps it and is RGBA. What is lost, `losses` tells.

    Raises `BadPicture` for what is no whole PNG, JPEG or WebP, or is outside the limits; the number of
    pixels is checked before they are decoded.
    """
    with _open(source) as image:
        if min(image.size) < MIN_SIDE:
            raise BadPicture(
                f"The picture is {image.width}x{image.height} pixels; it needs at least {MIN_SIDE} on each side."
            )
        with _decoding():
            profile = image.info.get("icc_profile")
            image = _upright(image)
            if image.mode.startswith("I"):
                image = _eight_bits(image)
            image = _in_srgb(image, profile)
            if image.has_transparency_data:
                image = image.convert("RGBA")
                if transparent:
                    return image
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            return image.convert("RGB")


def losses(source):
    """The keys of `LOSSES` that tell what of a picture's file `read_picture` does not take in as it is."""
    with _open(source) as image, _decoding():
        found = {
            "profile": _profile(image.info.get("icc_profile")) is not None,
            "depth": image.format == "PNG" and _bits(image) > 8,
            "frames": getattr(image, "n_frames", 1) > 1,
        }
    return [key for key, lost in found.items() if lost]


def source_bytes(source, max_side):
    """What a request keeps of a picture: read, reduced to a longer side of `max_side` pixels, as PNG.

    Every picture that is made from it holds it too, so it is kept no larger than it is used.
    """
    image = read_picture(source)
    image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    return png_bytes(image)


def full_bytes(source):
    """What a request keeps of a picture of which every pixel counts: at its full size, with transparency, as PNG."""
    return png_bytes(read_picture(source, transparent=True))


def read_texts(source):
    """The texts inside a PNG by their names; none for other formats."""
    with _open(source, limit=None) as image, _decoding():
        return dict(getattr(image, "text", {}))


def read_record(source):
    """The record inside a PNG of this studio. Raises `BadPicture` if there is none.

    The picture that an inpainting began with is told by its hash alone; `whole_record` has it.
    """
    text = read_texts(source).get(RECORD)
    try:
        record = json.loads(text)
        request = record["request"]
        parts = [request.get(name) or "" for name in ("task", "image", "mask", "tokens")]
        if all(isinstance(part, str) for part in parts):
            return record
    except (TypeError, ValueError, KeyError, AttributeError, RecursionError):
        pass
    raise _no_record()


def whole_record(source):
    """`read_record` with all that its request holds, so that it can be drawn again.

    The picture that an inpainting began with stands in the file as its difference from the result, which is
    nothing but for what was painted.
    """
    record = read_record(source)
    change = record.pop(DIFFERENCE, None)
    if change is None:
        return record
    request = record["request"]
    try:
        with _open(source, limit=None) as image, _decoding():
            began = _differing(picture_in(change), image, request["left"], request["top"])
    except (ArithmeticError, KeyError, TypeError, ValueError) as error:
        raise _no_record() from error
    return record | {"request": request | {"image": base64.b64encode(png_bytes(began)).decode()}}


def _sparse(record, image):
    # the record as it stands in the file
    request = record["request"]
    if request.get("task") != "inpaint" or not request.get("image"):
        return record
    began, corner = picture_in(request["image"]), [request.get("left"), request.get("top")]
    if began.mode not in ("RGB", "RGBA") or not all(isinstance(place, int) and place < 2**16 for place in corner):
        return record  # of a stranger: it stays as it is
    change = png_bytes(_differing(began, image, *corner))
    return record | {
        "request": request | {"image": content(began)}, DIFFERENCE: base64.b64encode(change).decode()
    }  # fmt: skip


def picture_in(text):
    """The picture that a request as JSON holds. Raises `BadPicture` if it cannot be read."""
    with _decoding():
        image = _open(base64.b64decode(text))
        image.load()
        return image


def _differing(began, image, left, top):
    # `began`, bit by bit where it is not that part of `image` which it became; done twice, it is itself again
    there = image.convert(began.mode).crop((left, top, left + began.width, top + began.height))
    return Image.fromarray(np.asarray(began) ^ np.asarray(there))


def _no_record():
    return BadPicture("This picture holds no settings: only PNG files made by Atelier, unchanged since, hold them.")


def look(path, side):
    """A picture of our own, of any size, as RGBA with a longer side of at most `side`."""
    with Image.open(path, formats=("PNG",)) as image:
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
        return image.convert("RGBA")


def content(image):
    """What is seen in a picture as a short text: equal for the same pixels, however they were saved."""
    image = image.convert("RGBA")
    return hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()[:32]


def data_url(image):
    """The picture as PNG inside a URL."""
    return "data:image/png;base64," + base64.b64encode(png_bytes(image)).decode()


def png_bytes(image):
    """The picture as PNG."""
    return encoded(image, "PNG")


def encoded(image, form, **options):
    """The picture as a file of the format `form`; the `options` are Pillow's."""
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def write_png(path, image, record):
    """Write a PNG with its `record` inside, and its settings as A1111 writes them: synced, then renamed.

    Raises `OSError` if the disk refuses; what was half written is gone then, and an older file is as it was.
    """
    text = PngImagePlugin.PngInfo()
    text.add_itxt(RECORD, json.dumps(_sparse(record, image), ensure_ascii=False))
    for_others = parameters.to_text(record)
    if for_others:
        text.add_itxt("parameters", for_others)
    write_bytes(path, encoded(image, "PNG", pnginfo=text))


def write_bytes(path, data):
    """Write a file: a temporary one, synced, then renamed. Raises `OSError` as `write_png` does."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")  # two may write the same file at once
    try:
        with open(temporary, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _open(source, limit=MAX_PIXELS):
    stream = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        image = Image.open(stream, formats=FORMATS)
    except (OSError, ValueError, SyntaxError) as error:
        raise BadPicture("This is no picture that can be read: use a PNG, JPEG or WebP file.") from error
    if limit and image.width * image.height > limit:
        image.close()
        raise _too_large()
    return image


def _too_large():
    return BadPicture(f"The picture has more than {MAX_PIXELS // 10**6} million pixels; make it smaller and try again.")


@contextlib.contextmanager
def _decoding():
    try:
        yield
    except (OSError, ValueError, SyntaxError) as error:
        raise BadPicture("The picture is damaged or was cut short; save or download it again.") from error


def _upright(image):
    # `ImageOps.exif_transpose` also writes the other tags anew, and fails on those that are damaged.
    turn = UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation))
    return image if turn is None else image.transpose(turn)


def _bits(png):
    # of a channel in an open PNG: Pillow rounds those of colours without a word
    png.fp.seek(24)
    return png.fp.read(1)[0]


def _profile(data):
    # the ICC profile in the bytes of a file, or None where there is none, or none that changes anything
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(data)) if data else None
        known = profile and "sRGB" in ImageCms.getProfileDescription(profile)
    except (ImageCms.PyCMSError, OSError):  # damaged: colours are taken as they stand, as browsers do
        return None
    return None if known else profile


def _in_srgb(image, data):
    # `image` with the colours that the ICC profile `data` says it has
    profile = _profile(data)
    if profile is None:
        return image
    if image.mode in ("P", "PA", "LA", "La", "RGBa", "1"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    try:
        return ImageCms.profileToProfile(image, profile, SRGB, outputMode="RGBA" if image.mode == "RGBA" else "RGB")
    except ImageCms.PyCMSError:  # a profile of another kind than the picture
        return image


def _eight_bits(image):
    # Pillow cuts 16-bit greys off at 255 instead of scaling them, and forgets which of them is transparent.
    values = np.asarray(image).astype(np.uint32)
    grey = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if "transparency" in image.info:
        grey.putalpha(Image.fromarray(np.where(values == image.info["transparency"], 0, 255).astype(np.uint8)))
    return grey
