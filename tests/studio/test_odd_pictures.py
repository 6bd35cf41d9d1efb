"""Odd pictures become RGB as they look; damage of any kind is a picture or a sentence, never Pillow's own words."""

import io
import json
import os
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps, PngImagePlugin

from engines.errors import BadPicture
from engines.requests import MAX_PIXELS
from studio import images

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8))
RECORD = {"request": {"task": "generate", "prompt": "一只红狐狸 <b>"}, "seed": 7}


def encoded(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png(width, height, depth, colour, rows=b"", *chunks):
    """A PNG written by hand: its header, more chunks, then rows of pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def with_text(text):
    info = PngImagePlugin.PngInfo()
    info.add_itxt("atelier", text)
    return encoded(NOISE, pnginfo=info)


def pixels(image):
    return np.asarray(image).astype(int)


def same(image, other):
    return image.mode == other.mode and image.size == other.size and image.tobytes() == other.tobytes()


def refused(source, read=images.read_picture):
    """The sentence with which a source is refused."""
    with pytest.raises(BadPicture) as caught:
        read(source)
    sentence = str(caught.value)
    assert sentence.endswith(".") and "\n" not in sentence
    assert caught.value.__cause__ is None or str(caught.value.__cause__) not in sentence
    return sentence


# ---------------------------------------------------------------- odd pictures


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_stands_upright(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(NOISE, exif=exif)
    assert same(images.read_picture(data), ImageOps.exif_transpose(Image.open(io.BytesIO(data))))


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow tells of every damaged tag
def test_damaged_exif_costs_no_photograph():
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x011A], exif[0x0111] = 6, "Maker", 72.0, 8
    exif.get_ifd(0x8769).update({0x829A: 0.016, 0x9000: b"0230", 0x927C: b"maker" * 5})
    data = encoded(NOISE, "JPEG", exif=exif)
    start, length = data.index(b"Exif"), len(exif.tobytes())
    for place in range(start + 6, start + length):
        for byte in (0, 2, 255):
            found = images.read_picture(data[:place] + bytes([byte]) + data[place + 1 :])
            assert found.size in (NOISE.size, NOISE.size[::-1])


@pytest.mark.parametrize("alpha", [0, 1, 51, 128, 254, 255])
def test_transparency_lies_over_white(alpha):
    expected = (10 * alpha + 255 * (255 - alpha)) / 255
    for image in (Image.new("RGBA", (9, 8), (10, 10, 10, alpha)), Image.new("LA", (9, 8), (10, alpha))):
        assert np.abs(pixels(images.read_picture(encoded(image))) - expected).max() <= 1


@pytest.mark.parametrize("source", [
    encoded(Image.merge("RGBA", (*NOISE.split(), Image.new("L", NOISE.size, 0)))),
    encoded(Image.merge("RGBA", (*NOISE.split(), Image.new("L", NOISE.size, 0))), "WEBP", lossless=True, exact=True),
    png(8, 8, 8, 0, (b"\0" + b"\x50" * 8) * 8, (b"tRNS", b"\0\x50")),
    png(8, 8, 8, 2, (b"\0" + b"abc" * 8) * 8, (b"tRNS", b"\0a\0b\0c")),
    png(8, 8, 16, 0, (b"\0" + b"\x12\x34" * 8) * 8, (b"tRNS", b"\x12\x34")),
], ids=["png", "webp", "one grey of 8 bits", "one colour", "one grey of 16 bits"])  # fmt: skip
def test_colours_under_full_transparency_stay_hidden(source):
    assert (pixels(images.read_picture(source)) == 255).all()


def test_sixteen_bits_are_scaled_to_the_nearest_grey():
    greys = np.linspace(0, 65535, 512).round().astype(">u2").reshape(16, 32)
    expected = np.rint(greys.astype(float) / 257)[..., None]
    found = images.read_picture(png(32, 16, 16, 0, b"".join(b"\0" + row.tobytes() for row in greys)))
    assert (pixels(found) == expected).all()
    # of colours in 16 bits Pillow keeps the high bytes
    colours = b"".join(b"\0" + np.repeat(row, 3).tobytes() for row in greys)
    assert np.abs(pixels(images.read_picture(png(32, 16, 16, 2, colours))) - expected).max() <= 1


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_of_an_animation_the_first_frame_is_taken(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    frames = [Image.new("RGB", NOISE.size, colour) for colour in ("red", "blue")]
    data = encoded(NOISE, kind, save_all=True, append_images=frames, duration=50, **options)
    assert Image.open(io.BytesIO(data)).n_frames == 3
    assert same(images.read_picture(data), NOISE)


# ---------------------------------------------------------------- limits and damage


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "ICO", "PPM", "PDF"])
def test_other_formats_are_refused_whatever_their_name(kind, tmp_path):
    path = tmp_path / "disguised.png"
    path.write_bytes(encoded(NOISE, kind))
    assert "use a PNG, JPEG or WebP file" in refused(path)


def test_the_content_decides_and_not_the_name(tmp_path):
    path = tmp_path / "picture.txt"
    path.write_bytes(encoded(NOISE))
    assert same(images.read_picture(str(path)), NOISE)


def test_a_path_is_not_told(tmp_path):
    for path in (tmp_path, tmp_path / "missing.png"):
        assert str(tmp_path) not in refused(path)


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (300, 7)])
def test_tiny_pictures_are_refused(size):
    assert f"{size[0]}x{size[1]}" in refused(encoded(Image.new("RGB", size)))
    assert images.read_picture(encoded(Image.new("RGB", (8, 8)))).size == (8, 8)


@pytest.mark.parametrize("size", [(8000, 5001), (30_000, 30_000), (2**31 - 1, 2**31 - 1)])
def test_pixels_are_counted_before_they_are_decoded(size):
    # these files hold no pixels: decoding would find them damaged
    assert "40 million pixels" in refused(png(*size, 8, 2))


def test_the_most_pixels_are_allowed():
    assert MAX_PIXELS == 8000 * 5000
    assert "damaged" in refused(png(8000, 5000, 8, 2))  # not too large: it is decoded, and only then found empty


FILES = [
    with_text(json.dumps(RECORD)), encoded(NOISE.convert("P"), transparency=3), encoded(NOISE, "JPEG"),
    encoded(NOISE, "WEBP"), encoded(NOISE, save_all=True, append_images=[NOISE]),
]  # fmt: skip


@pytest.mark.parametrize("file", FILES, ids=["record", "palette", "jpeg", "webp", "animation"])
def test_a_picture_cut_in_half_is_refused(file):
    refused(file[: len(file) // 2])
    refused(file[: len(file) // 2], images.read_record)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.data())
def test_damage_anywhere_gives_a_picture_or_a_sentence(data):
    file = bytearray(data.draw(st.sampled_from(FILES)))
    for _ in range(data.draw(st.integers(1, 8))):
        file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    file = bytes(file[: data.draw(st.integers(0, len(file)))] if data.draw(st.booleans()) else file)
    for read, kind in ((images.read_picture, Image.Image), (images.read_record, dict)):
        try:
            assert isinstance(read(file), kind)
        except BadPicture as error:
            assert str(error).endswith(".")


# ---------------------------------------------------------------- records


def test_any_program_reads_the_record(tmp_path):
    images.write_png(tmp_path / "a.png", NOISE, RECORD)
    with Image.open(tmp_path / "a.png") as image:
        assert same(image, NOISE) and json.loads(image.text["atelier"]) == RECORD


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_disk_that_refuses_leaves_the_older_picture(tmp_path, monkeypatch, step):
    path = tmp_path / "picture.png"
    images.write_png(path, NOISE, RECORD)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(OSError):
        images.write_png(path, ImageOps.invert(NOISE), RECORD)
    assert os.listdir(tmp_path) == ["picture.png"] and same(images.read_picture(path), NOISE)


@pytest.mark.parametrize("text", ["no JSON", "[1]", "3", "{}", '{"request": 3}', '{"request":' + "[" * 100_000])
def test_text_that_is_no_record_says_so(text):
    assert "holds no settings" in refused(with_text(text), images.read_record)
