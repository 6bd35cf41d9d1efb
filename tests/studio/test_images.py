"""Every picture that people send: the odd ones become RGB, the bad ones one sentence."""

import io
import json
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from engines.errors import BadPicture
from engines.requests import InpaintRequest, from_json, to_json
from studio import images
from tests.tiny import png


def encoded(image, form="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def gradient(mode="RGB", size=(40, 24)):
    return Image.linear_gradient("L").resize(size).convert(mode)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_the_three_formats_are_read(form, mode):
    found = images.read_picture(encoded(gradient(mode), form, quality=95))
    assert found.mode == "RGB" and found.size == (40, 24)
    assert np.abs(np.asarray(found, int) - np.asarray(gradient())).mean() < 4


def test_a_path_and_a_stream_are_read_like_bytes(tmp_path):
    data = encoded(gradient())
    (tmp_path / "a.png").write_bytes(data)
    found = [images.read_picture(source).tobytes() for source in (data, io.BytesIO(data), tmp_path / "a.png")]
    assert found[0] == found[1] == found[2] == gradient().tobytes()


def test_transparency_is_laid_over_white_and_hides_its_colour():
    image = Image.new("RGBA", (16, 16), (255, 0, 0, 0))
    image.paste((0, 0, 255, 255), (0, 0, 8, 16))
    found = images.read_picture(encoded(image))
    assert found.getpixel((2, 2)) == (0, 0, 255) and found.getpixel((12, 2)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["P", "LA", "1"])
def test_palette_and_grey_with_alpha_become_rgb(mode):
    found = images.read_picture(encoded(gradient("L").convert(mode)))
    assert found.mode == "RGB" and found.size == (40, 24)


def test_a_transparent_palette_becomes_white():
    image = Image.new("P", (16, 16), 0)
    image.putpalette([200, 0, 0, 0, 0, 200])
    found = images.read_picture(encoded(image, transparency=0))
    assert found.getpixel((3, 3)) == (255, 255, 255)


def test_cmyk_becomes_rgb():
    found = images.read_picture(encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG"))
    red, green, blue = found.getpixel((4, 4))
    assert red > 200 and green < 40 and blue < 40


def test_sixteen_bits_are_scaled_and_not_cut_off():
    array = np.linspace(0, 65535, 256, dtype=np.uint16).reshape(16, 16)
    found = np.asarray(images.read_picture(encoded(Image.fromarray(array))))[..., 0]
    assert np.abs(found.astype(int) - array / 257).max() <= 1


def swapped_profile():
    """An ICC profile by which what is written as red is blue, and the other way round."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, blue = profile.index(b"rXYZ"), profile.index(b"bXYZ")  # the names of two entries in the table of tags
    profile[red : red + 4], profile[blue : blue + 4] = b"bXYZ", b"rXYZ"
    return bytes(profile).replace("sRGB".encode("utf-16-be"), "mine".encode("utf-16-be"))


@pytest.mark.parametrize(
    ("form", "mode"),
    [("PNG", "RGB"), ("JPEG", "RGB"), ("WEBP", "RGB"), ("PNG", "RGBA"), ("WEBP", "RGBA"), ("PNG", "P")],
)
def test_colours_of_another_profile_are_brought_to_srgb_and_it_is_said(form, mode):
    red = Image.new("RGBA", (20, 20), (250, 10, 10, 128)).convert("RGBA" if mode == "RGBA" else "RGB").convert(mode)
    data = encoded(red, form, icc_profile=swapped_profile())
    found = images.read_picture(data, transparent=True)
    assert found.mode == ("RGBA" if mode == "RGBA" else "RGB")
    assert np.abs(np.array(found.getpixel((9, 9))[:3]) - (10, 10, 250)).max() < 12
    assert mode != "RGBA" or found.getpixel((9, 9))[3] == 128
    assert images.losses(data) == ["profile"]


@pytest.mark.parametrize("profile", [None, b"damaged", ImageCms.ImageCmsProfile(images.SRGB).tobytes()])
def test_colours_stay_where_no_profile_says_otherwise(profile):
    options = {"icc_profile": profile} if profile else {}
    for mode in ("RGB", "L"):
        source = gradient(mode)
        data = encoded(source, **options)
        np.testing.assert_array_equal(np.asarray(images.read_picture(data)), np.asarray(source.convert("RGB")))
        assert images.losses(data) == []


def test_what_is_rounded_or_left_out_is_said(tmp_path):
    deep = np.random.default_rng(0).integers(0, 2**16, (20, 30, 3), dtype=np.uint16)
    for pixels in (deep, deep[..., 0]):
        cv2.imwrite(str(tmp_path / "deep.png"), pixels)
        assert images.losses(tmp_path / "deep.png") == images.losses((tmp_path / "deep.png").read_bytes()) == ["depth"]
    frames = [gradient().rotate(angle) for angle in (0, 180)]
    assert images.losses(encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:])) == ["frames"]


def test_rotation_by_exif_is_applied():
    image = gradient()
    exif = Image.Exif()
    exif[0x0112] = 6
    assert images.read_picture(encoded(image, "JPEG", exif=exif)).size == (24, 40)


BAD = {
    "no picture": (b"hello", "PNG, JPEG or WebP"),
    "nothing": (b"", "PNG, JPEG or WebP"),
    "a GIF": (encoded(gradient("P"), "GIF"), "PNG, JPEG or WebP"),
    "a cut PNG": (encoded(Image.effect_noise((64, 64), 90))[:900], "damaged or was cut"),
    "a cut JPEG": (encoded(Image.effect_noise((64, 64), 90), "JPEG")[:700], "damaged or was cut"),
    "a cut WebP": (encoded(Image.effect_noise((64, 64), 90), "WEBP")[:300], "."),
    "one pixel": (encoded(Image.new("RGB", (1, 1))), "1x1 pixels"),
    "a header alone": (encoded(gradient())[:20], "."),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_picture_gets_one_sentence_of_ours(name):
    data, words = BAD[name]
    with pytest.raises(BadPicture, match=words) as caught:
        images.read_picture(data)
    sentence = str(caught.value)
    assert "object at 0x" not in sentence and "cannot identify" not in sentence and sentence.endswith(".")


def huge_png(side=20_000):
    """A PNG of a few hundred bytes that declares `side x side` pixels."""

    def chunk(kind, data):
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = side.to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("side", [7_000, 20_000])
def test_a_huge_picture_is_refused_before_it_is_decoded(side):
    with pytest.raises(BadPicture, match="million pixels|PNG, JPEG or WebP"):
        images.read_picture(huge_png(side))


def test_a_source_is_kept_no_larger_than_it_is_used():
    kept = images.read_picture(images.source_bytes(encoded(gradient(size=(400, 100))), 64))
    assert kept.size == (64, 16)
    assert images.read_picture(images.source_bytes(encoded(gradient()), 64)).tobytes() == gradient().tobytes()


def test_a_record_comes_back_from_the_png(tmp_path):
    record = {"request": {"prompt": "红心 <b>", "seed": 3}}
    images.write_png(tmp_path / "deep" / "a.png", gradient(), record)
    assert images.read_record(tmp_path / "deep" / "a.png") == record
    assert images.read_picture(tmp_path / "deep" / "a.png").tobytes() == gradient().tobytes()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.png"]


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_an_inpainting_does_not_hold_its_picture_twice(tmp_path, mode):
    """Only what was painted stands in the record, and all of the picture comes back, to the last bit."""
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, len(mode)), dtype=np.uint8)
    request = InpaintRequest(image=png(Image.fromarray(pixels)), left=5, top=9, cfg_scale=1)
    became = np.zeros((69, 85, 4), np.uint8)
    became[9:, 5:] = np.asarray(Image.fromarray(pixels).convert("RGBA"))
    became[30:40, 20:50, :3] = 7
    made = Image.fromarray(became)
    record = {"request": json.loads(to_json(request)), "seconds": 1.5}
    images.write_png(tmp_path / "a.png", made, record)
    assert images.whole_record(tmp_path / "a.png") == record
    small = images.read_record(tmp_path / "a.png")["request"]
    assert len(small["image"]) < len(record["request"]["image"]) / 3 and small["left"] == 5
    assert from_json(json.dumps(images.whole_record(tmp_path / "a.png")["request"])) == request

    for broken in ({"request": {"image": "x"}}, {"request": {**small, "left": "far"}}, {"request": {}}):
        text = PngImagePlugin.PngInfo()
        text.add_itxt(images.RECORD, json.dumps(broken | {images.DIFFERENCE: True}))
        made.save(tmp_path / "broken.png", pnginfo=text)
        with pytest.raises(BadPicture):
            images.whole_record(tmp_path / "broken.png")


def test_a_picture_without_record_is_refused():
    for data in (encoded(gradient()), encoded(gradient(), "JPEG")):
        with pytest.raises(BadPicture, match="holds no settings"):
            images.read_record(data)


def test_a_failed_write_leaves_nothing_half_done(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError("No space left on device")

    monkeypatch.setattr("studio.images.os.replace", full)
    with pytest.raises(OSError):
        images.write_png(tmp_path / "a.png", gradient(), {"request": {}})
    assert not list(tmp_path.iterdir())
