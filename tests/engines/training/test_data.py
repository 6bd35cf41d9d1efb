"""Training pictures: what each kind of folder gives, what is refused, and the fixed held-out tenth."""

import gzip
import json
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from engines.errors import BadRequest
from engines.text.captions import BACKGROUNDS
from engines.training import data
from engines.training.data import Example


def rng(seed=0):
    return np.random.default_rng(seed)


def put(path, width=24, height=24, mode="RGB", seed=0, **options):
    """Saves random pixels and returns them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = rng(seed).integers(0, 256, (height, width, len(mode)), dtype=np.uint8)
    Image.fromarray(pixels.squeeze()).save(path, **options)
    return pixels


def refused(path, words, size=16):
    """One sentence, and no traceback of a library in it."""
    with pytest.raises(BadRequest, match=words) as caught:
        data.load(path, size)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def test_a_folder_with_metadata(tmp_path):
    pixels = put(tmp_path / "icons" / "fox.png")
    put(tmp_path / "icons" / "more" / "star.PNG", seed=1)
    put(tmp_path / "plain.webp", seed=2, lossless=True)
    rows = [
        {"file_name": "fox.png", "text": "fox", "text_zh": "狐狸", "style": "flat", "aliases": ["red fox", "vixen"]},
        {"file_name": "more/star.PNG", "text": "a\u2028star"},
    ]
    # As editors leave it: a mark before the text, Windows line ends, an empty line at the end.
    text = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\r\n\r\n"
    (tmp_path / "icons" / "metadata.jsonl").write_bytes(text.encode("utf-8-sig"))
    fox, star, plain = data.load(tmp_path, 24)
    assert (fox.name, fox.text, fox.text_zh, fox.style) == ("fox.png", "fox", "狐狸", "flat")
    assert fox.aliases == ("red fox", "vixen")
    assert np.array_equal(fox.pixels, pixels) and fox.pixels.dtype == np.uint8
    assert (star.text, star.text_zh, star.style, star.aliases) == ("a\u2028star", "", "", ())
    assert (plain.name, plain.text) == ("plain.webp", "")


def test_a_folder_with_text_files(tmp_path):
    put(tmp_path / "deep" / "a.jpg")
    put(tmp_path / "b.png")
    put(tmp_path / "c.png")
    (tmp_path / "deep" / "a.txt").write_text("  一只猫\n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("of the file", encoding="utf-8")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "b.png", "text": "of the table"}\n', encoding="utf-8")
    found = {example.name: example.text for example in data.load(tmp_path, 16)}
    assert found == {"a.jpg": "一只猫", "b.png": "of the table", "c.png": ""}


def test_empty_fields_of_a_table_are_no_captions(tmp_path):
    put(tmp_path / "a.png")
    row = {"file_name": "a.png", "text": None, "text_zh": None, "style": None, "aliases": None}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(row), encoding="utf-8")
    (example,) = data.load(tmp_path, 16)
    assert (example.text, example.text_zh, example.style, example.aliases) == ("", "", "", ())


@pytest.mark.parametrize("mode, width, height, expected", [
    ("RGB", 24, 40, (40, 24)),  # between size and twice size: as it is
    ("RGB", 96, 64, (32, 48)),  # larger: a shorter side of twice size
    ("RGB", 8, 10, (20, 16)),  # smaller: a shorter side of size
    ("RGBA", 64, 64, (16, 16)),  # transparent: just size
    ("RGBA", 96, 48, (16, 32)),
])
def test_pictures_are_reduced(tmp_path, mode, width, height, expected):
    put(tmp_path / "a.png", width, height, mode)
    (example,) = data.load(tmp_path, 16)
    assert example.pixels.shape == (*expected, len(mode))


def test_a_plain_colour_stays_that_colour(tmp_path):
    Image.new("RGB", (100, 80), (12, 200, 99)).save(tmp_path / "a.png")
    (example,) = data.load(tmp_path, 16)
    assert np.array_equal(np.unique(example.pixels.reshape(-1, 3), axis=0), [[12, 200, 99]])


@pytest.mark.parametrize("save, channels", [
    (lambda path: Image.new("L", (16, 16), 7).save(path), 3),
    (lambda path: Image.new("1", (16, 16), 1).save(path), 3),
    (lambda path: Image.new("P", (16, 16), 0).save(path), 3),
    (lambda path: Image.new("P", (16, 16), 0).save(path, transparency=0), 4),
    (lambda path: Image.new("LA", (16, 16), (7, 9)).save(path), 4),
], ids=["grey", "black and white", "palette", "transparent palette", "grey with alpha"])
def test_other_modes_of_png(tmp_path, save, channels):
    save(tmp_path / "a.png")
    assert data.load(tmp_path, 16)[0].pixels.shape == (16, 16, channels)


def idx(digits):
    return struct.pack(">IIII", 2051, *digits.shape) + digits.tobytes()


def test_digits(tmp_path):
    digits = rng().integers(0, 256, (5, 6, 4), dtype=np.uint8)
    for folder, name, pack in (("plain", "t10k-images-idx3-ubyte", bytes), ("packed", "images.idx3.gz", gzip.compress)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_bytes(pack(idx(digits)))
        examples = data.load(tmp_path / folder, 16)
        assert [example.name for example in examples] == [f"{name}#{i}" for i in range(5)]
        for example, digit in zip(examples, digits, strict=True):
            assert example.pixels.shape == (6, 4, 3) and example.text == ""
            assert (example.pixels == digit[..., None]).all()


WHOLE = idx(np.zeros((2, 4, 4), np.uint8))


@pytest.mark.parametrize("content", [
    b"", WHOLE[:10], WHOLE[:-1], WHOLE + b"0", b"\0\0\x08\x01" + WHOLE[4:], struct.pack(">IIII", 2051, 0, 28, 28),
    struct.pack(">IIII", 2051, 2**32 - 1, 2**32 - 1, 2**32 - 1),
], ids=["empty", "cut header", "cut", "too long", "labels", "no digits", "declares a zettabyte"])
def test_damaged_digits_are_refused(tmp_path, content):
    (tmp_path / "images-idx3").write_bytes(content)
    refused(tmp_path, "images-idx3.*IDX")


@pytest.mark.parametrize("content", [
    WHOLE, gzip.compress(WHOLE)[:-9], gzip.compress(WHOLE)[:12] + b"\xff" * 30, gzip.compress(WHOLE[:-1]), b"",
], ids=["not packed", "cut", "damaged", "short inside", "empty"])
def test_damaged_packed_digits_are_refused(tmp_path, content):
    (tmp_path / "images-idx3.gz").write_bytes(content)
    refused(tmp_path, "images-idx3.gz.*IDX")


@pytest.mark.parametrize("spoil", [
    lambda raw: b"", lambda raw: raw[: len(raw) // 2], lambda raw: b"no picture", lambda raw: raw[:20] + b"\xff" * 9,
], ids=["empty", "cut", "text", "overwritten"])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_a_damaged_picture_is_refused_by_name(tmp_path, suffix, spoil):
    put(tmp_path / "whole.png")
    put(tmp_path / f"bad{suffix}")
    (tmp_path / f"bad{suffix}").write_bytes(spoil((tmp_path / f"bad{suffix}").read_bytes()))
    refused(tmp_path, f"bad{suffix} cannot be read")


def test_a_picture_that_would_fill_the_memory_is_refused(tmp_path):
    put(tmp_path / "bomb.png", 8, 8)
    raw = bytearray((tmp_path / "bomb.png").read_bytes())
    raw[16:24] = struct.pack(">II", 100_000, 100_000)
    raw[29:33] = struct.pack(">I", zlib.crc32(raw[12:29]))
    (tmp_path / "bomb.png").write_bytes(raw)
    refused(tmp_path, "bomb.png cannot be read")


@pytest.mark.parametrize("content", [
    b"{", b"[1]", b'"a"', b'{"text": "no name"}', b'{"file_name": 3}', b"\xff\xfe",
    b'{"file_name": "a.png", "text": 5}',
    b'{"file_name": "a.png", "text": "a"} {"file_name": "b.png"}',
])
def test_a_damaged_table_is_refused(tmp_path, content):
    put(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_bytes(content)
    refused(tmp_path, "metadata.jsonl cannot be read")


def test_a_caption_in_another_coding_is_refused(tmp_path):
    put(tmp_path / "a.png")
    (tmp_path / "a.txt").write_bytes("狐狸".encode("gb18030"))
    refused(tmp_path, "a.txt.*UTF-8")


def test_a_folder_without_pictures_is_refused(tmp_path):
    refused(tmp_path / "nowhere", "There is no folder")
    refused(tmp_path, "no pictures")
    (tmp_path / "notes.txt").write_text("no picture", encoding="utf-8")
    refused(tmp_path, "no pictures")
    put(tmp_path / "a.png")
    refused(tmp_path / "a.png", "There is no folder")


def example(name, text="", style=""):
    return Example(name, np.zeros((1, 1, 3), np.uint8), text, style=style)


def test_held_out_pictures_are_fixed():
    """By `printf KEY | sha256sum`: 6743b284 and b94f5ce0 divide by ten; e464ee8a and 7f071235 do not."""
    assert example("a.png", "rocket", "flat").held_out  # rocket|flat
    assert not example("cat.png", "a red fox", "flat").held_out  # a red fox|flat
    assert example("cat.png").held_out
    assert not example("a.png").held_out


def test_the_name_of_a_captioned_picture_does_not_matter():
    """So a caption that two sources draw in one style is either seen or held out."""
    assert all(example(f"{i}.png", "rocket", "flat").held_out for i in range(50))
    assert len({example("a.png", "rocket", style).held_out for style in "abcdefghijklmnopqrstuvwxyz"}) == 2


def test_about_a_tenth_is_held_out():
    for draw in (lambda i: example(f"{i}.png"), lambda i: example("a.png", f"picture {i}", "3d")):
        share = sum(draw(i).held_out for i in range(10_000)) / 10_000
        assert abs(share - 0.1) < 4 * (0.1 * 0.9 / 10_000) ** 0.5  # four standard deviations


def test_held_out_does_not_depend_on_order_or_company(tmp_path):
    names = [f"{i}.png" for i in range(40)]
    for folder, chosen in (("all", names), ("some", reversed(names[10:]))):
        for name in chosen:
            put(tmp_path / folder / name, 16, 16)
    both = [
        {example.name: example.held_out for example in data.load(tmp_path / folder, 16)} for folder in ("all", "some")
    ]
    assert len(both[0]) == 40 and len(both[1]) == 30
    assert both[0] | both[1] == both[0]
    assert set(both[1].values()) == {True, False}


def test_files_are_read_in_the_order_of_their_names(tmp_path):
    for name in ("b.png", "c.png", "a.png"):
        put(tmp_path / name)
        os.utime(tmp_path / name, (0, 0))
    assert [example.name for example in data.load(tmp_path, 16)] == ["a.png", "b.png", "c.png"]


def test_transparency_is_blended_exactly():
    """Every alpha against every colour: the nearest whole number to the real blend."""
    alpha, colour = np.meshgrid(np.arange(256), np.arange(256), indexing="ij")
    pixels = np.stack([colour, 255 - colour, np.full_like(colour, 255), alpha], axis=-1).astype(np.uint8)
    for name, ground in BACKGROUNDS.items():
        share = alpha[..., None] / 255
        exact = pixels[..., :3] * share + np.array(ground) * (1 - share)
        found = data.on_background(pixels, ground)
        assert found.dtype == np.uint8 and found.shape == (256, 256, 3)
        assert np.abs(found - exact).max() <= 0.5 + 1e-9, name
    assert (found[0] == ground).all()
    assert np.array_equal(found[255], pixels[255, :, :3])


def test_a_picture_without_transparency_stays():
    pixels = rng().integers(0, 256, (4, 4, 3), dtype=np.uint8)
    assert data.on_background(pixels, (1, 2, 3)) is pixels


def test_a_crop_is_a_window_and_each_window_comes():
    """Pixels that say where they are."""
    rows, columns = np.meshgrid(np.arange(6), np.arange(5), indexing="ij")
    pixels = np.stack([rows, columns, rows], axis=-1).astype(np.uint8)
    generator, corners = rng(), set()
    for _ in range(200):
        window = data.crop(pixels, 4, generator)
        top, left = int(window[0, 0, 0]), int(window[0, 0, 1])
        assert np.array_equal(window, pixels[top : top + 4, left : left + 4]) and window.shape == (4, 4, 3)
        corners.add((top, left))
    assert corners == {(top, left) for top in range(3) for left in range(2)}


def test_a_crop_of_the_whole_is_the_whole():
    pixels = rng().integers(0, 256, (4, 4, 4), dtype=np.uint8)
    assert np.array_equal(data.crop(pixels, 4, rng()), pixels)


def test_a_crop_larger_than_the_picture_is_refused():
    with pytest.raises(BadRequest, match="28x20 pixels has no window of 24x24"):
        data.crop(np.zeros((20, 28, 3), np.uint8), 24, rng())


def test_backgrounds_are_white_half_of_the_time():
    generator = rng()
    drawn = [data.random_background(generator) for _ in range(2000)]
    assert all(BACKGROUNDS[name] == colour for name, colour in drawn)
    assert {name for name, _ in drawn} == set(BACKGROUNDS)
    # White is one of the named colours too.
    share = 1 / 2 + 1 / 2 / len(BACKGROUNDS)
    white = sum(name == "white" for name, _ in drawn) / len(drawn)
    assert abs(white - share) < 4 * (share * (1 - share) / len(drawn)) ** 0.5
