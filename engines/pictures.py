"""PIL pictures as tasks take and make them."""

import contextlib
import io

from PIL import Image

from engines.errors import BadPicture

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")  # of the files of pictures in a folder


def from_png(data, mode="RGB"):
    """The picture in the bytes of a request, in a mode of Pillow."""
    with _opened(data) as image:
        return image.convert(mode)


def size_of(data):
    """The width and height of the picture in the bytes of a request, from its header alone."""
    with _opened(data) as image:
        return image.size


@contextlib.contextmanager
def _opened(data):
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            yield image
    except (OSError, ValueError, SyntaxError) as error:
        raise BadPicture("The picture of this request cannot be read; choose it again.") from error


def to_png(image):
    """A picture as the bytes of a request."""
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def fit(image, width, height):
    """`image` scaled to cover `width x height` and cropped at its middle."""
    scale = max(width / image.width, height / image.height)
    wide, high = max(width, round(image.width * scale)), max(height, round(image.height * scale))
    left, top = (wide - width) // 2, (high - height) // 2
    return image.resize((wide, high), Image.Resampling.LANCZOS).crop((left, top, left + width, top + height))


def grid(pictures, columns):
    """Pictures of one size on a sheet with thin white lines between."""
    width, height = pictures[0].size
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (width + 2) - 2, rows * (height + 2) - 2), "white")
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (i % columns * (width + 2), i // columns * (height + 2)))
    return sheet
