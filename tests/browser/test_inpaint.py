"""The restoration room, by what a person does there: paint, take back, erase, leave, come back, restore."""

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from engines import masks
from studio import images
from tests.browser.artist import request_in
from tests.browser.test_reconstruct import choose


def photograph(path, width, height):
    """Soft colours and a few edges, which a PNG holds in little."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x * 255 // width, y * 255 // height, (x // 100 + y // 100) % 2 * 120 + 60], axis=2)
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


def open_picture(artist, path):
    artist.tab("Inpaint")
    choose(artist, path, tab="inpaint")
    ready(artist)


def ready(artist):
    expect(artist.find("#inpaint-painter canvas.picture")).to_be_visible()
    expect(artist.find("#inpaint-painter .painter")).to_have_attribute("data-operations", "0")


def stroke(artist, size, *points, painter="inpaint-painter"):
    """Draw over the picture of `size` from place to place, in pixels of the picture."""
    canvas = artist.find(f"#{painter} canvas.picture")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    scale = min(box["width"] / size[0], box["height"] / size[1])
    left, top = box["x"] + (box["width"] - size[0] * scale) / 2, box["y"] + (box["height"] - size[1] * scale) / 2
    for number, (x, y) in enumerate(points):
        artist.page.mouse.move(left + x * scale, top + y * scale, steps=4)
        if not number:
            artist.page.mouse.down()
    artist.page.mouse.up()


def operations(artist, count):
    """Wait until so many operations are painted and the studio has the mask of them."""
    painter = artist.find("#inpaint-painter .painter")
    expect(painter).to_have_attribute("data-operations", str(count))
    expect(painter).to_have_attribute("data-saved", str(count))


def mask_of(artist, folder, size):
    """The mask as it is saved now."""
    with artist.page.expect_download() as download:
        artist.find("[data-act=save]").click()
    download.value.save_as(folder / "mask.png")
    return masks.from_png((folder / "mask.png").read_bytes(), size)


def restore(artist, folder):
    """Press Restore, wait for the end, and download what came of it."""
    artist.find("#inpaint-run").click()
    expect(artist.find("#inpaint-status")).to_contain_text("0 pixels changed outside the mask.")
    with artist.page.expect_download() as download:
        artist.find("#inpaint-download").click()
    download.value.save_as(folder / "restored.png")
    return folder / "restored.png"


def take_model(artist, name):
    artist.find("#inpaint-model input").click()
    artist.page.get_by_role("option", name=name).click()


@pytest.mark.parametrize("size, model", [((1024, 768), "icons-tokens"), ((4000, 3000), "telea")])
def test_a_mask_outlives_everything_and_nothing_outside_of_it_changes(artist, tmp_path, size, model):
    width, height = size
    source = photograph(tmp_path / "photo.png", width, height)
    open_picture(artist, source)
    stroke(artist, size, (width * 0.3, height * 0.3), (width * 0.6, height * 0.4))
    stroke(artist, size, (width * 0.8, height * 0.8), (width * 0.9, height * 0.9))
    operations(artist, 2)
    artist.page.keyboard.press("Control+z")
    operations(artist, 1)
    artist.find("[data-tool=eraser]").click()
    stroke(artist, size, (width * 0.3, height * 0.3), (width * 0.4, height * 0.333))
    operations(artist, 2)
    painted = mask_of(artist, tmp_path, size)
    assert painted[round(height * 0.37), round(width * 0.52)] == 1  # on the way of the stroke
    assert painted[round(height * 0.31), round(width * 0.33)] == painted[round(height * 0.85), round(width * 0.85)] == 0

    artist.tab("Generate")
    artist.tab("Inpaint")
    artist.page.reload()
    artist.tab("Inpaint")
    ready(artist)
    take_model(artist, model)
    restored = restore(artist, tmp_path)
    before, after = np.asarray(Image.open(source).convert("RGB")), np.asarray(Image.open(restored))
    kept = masks.feather(painted, 4) == 0  # the feather that is set unasked
    assert after.shape == before.shape and np.array_equal(after[kept], before[kept])
    assert (after[painted == 1] != before[painted == 1]).any()
    assert request_in(restored)["model"] == model
    np.testing.assert_array_equal(mask_of(artist, tmp_path, size), painted)


def test_going_back_to_a_picture_brings_its_mask_back(artist, tmp_path):
    size = (300, 200)
    one, two = (photograph(tmp_path / f"{name}.png", *size) for name in "ab")
    Image.open(two).rotate(180).save(two)
    open_picture(artist, one)
    stroke(artist, size, (50, 50), (250, 50))
    operations(artist, 1)
    first = mask_of(artist, tmp_path, size)
    artist.find("#inpaint-image").get_by_label("Remove Image").click()
    open_picture(artist, two)
    assert not mask_of(artist, tmp_path, size).any()
    artist.find("#inpaint-image").get_by_label("Remove Image").click()
    open_picture(artist, one)
    np.testing.assert_array_equal(mask_of(artist, tmp_path, size), first)


def test_every_tool_and_fifty_strokes_taken_back(artist, tmp_path):
    size = (400, 300)
    open_picture(artist, photograph(tmp_path / "photo.png", *size))
    artist.find("[data-tool=rectangle]").click()
    stroke(artist, size, (100, 100), (200, 180))
    operations(artist, 1)
    mask = mask_of(artist, tmp_path, size)
    assert mask[110:170, 110:190].min() == 1 and mask[:95].max() == mask[:, :95].max() == mask[190:].max() == 0
    artist.find("[data-act=invert]").click()
    operations(artist, 2)
    np.testing.assert_allclose(mask_of(artist, tmp_path, size), 1 - mask, atol=0.01)
    artist.find("[data-tool=fill]").click()
    stroke(artist, size, (150, 140))
    operations(artist, 3)
    assert mask_of(artist, tmp_path, size).min() == 1
    artist.find("[data-act=clear]").click()
    artist.find("[data-tool=lasso]").click()
    stroke(artist, size, (50, 50), (350, 50), (50, 250))
    operations(artist, 5)
    mask = mask_of(artist, tmp_path, size)
    assert mask[80, 100] == 1 and mask[240, 340] == 0
    artist.find("[data-tool=brush]").click()
    for number in range(50):
        stroke(artist, size, (10 + 7 * number, 280), (12 + 7 * number, 290))
    operations(artist, 55)
    for _ in range(50):
        artist.page.keyboard.press("Control+z")
    operations(artist, 5)
    np.testing.assert_array_equal(mask_of(artist, tmp_path, size), mask)
    artist.page.keyboard.press("Control+Shift+z")
    operations(artist, 6)
    assert mask_of(artist, tmp_path, size).sum() > mask.sum()


def test_scratches_are_proposed_grown_and_taken_back(artist, tmp_path):
    size = (300, 200)
    source = photograph(tmp_path / "photo.png", *size)
    damaged = np.array(Image.open(source))
    damaged[100:102, 40:260] = 255
    Image.fromarray(damaged).save(source)
    open_picture(artist, source)
    artist.find("#inpaint-scratches").click()
    expect(artist.find("#inpaint-painter .painter")).to_have_attribute("data-operations", "1")
    found = mask_of(artist, tmp_path, size)
    assert found[100:102, 60:240].mean() > 0.9
    artist.find("#inpaint-grow").click()
    expect(artist.find("#inpaint-painter .painter")).to_have_attribute("data-operations", "2")
    assert mask_of(artist, tmp_path, size).sum() > 2 * found.sum()
    artist.page.keyboard.press("Control+z")
    operations(artist, 1)
    np.testing.assert_array_equal(mask_of(artist, tmp_path, size), found)


def test_transparent_places_and_those_of_a_colour_are_proposed(artist, tmp_path):
    size = (90, 60)
    pixels = np.full((60, 90, 4), (40, 120, 200, 255), np.uint8)
    pixels[:20] = (250, 250, 250, 255)
    pixels[40:, 60:, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "cut.png")
    open_picture(artist, tmp_path / "cut.png")
    painter = artist.find("#inpaint-painter .painter")
    artist.find("#inpaint-transparent").click()
    expect(painter).to_have_attribute("data-operations", "1")
    expected = np.zeros((60, 90))
    expected[40:, 60:] = 1
    np.testing.assert_array_equal(mask_of(artist, tmp_path, size), expected)
    artist.find("#inpaint-of-colour").click()  # white is set unasked
    expect(painter).to_have_attribute("data-operations", "2")
    expected[:20] = 1
    np.testing.assert_array_equal(mask_of(artist, tmp_path, size), expected)


def test_what_the_words_say_is_proposed(artist, tmp_path):
    size = (160, 120)
    open_picture(artist, photograph(tmp_path / "photo.png", *size))
    artist.find("#inpaint-of-words").click()
    artist.told("no words to look for")
    artist.find("#inpaint-prompt textarea").fill("a red heart")
    artist.find("#inpaint-of-words").click()
    expect(artist.find("#inpaint-painter .painter")).to_have_attribute("data-operations", "1")
    assert 0 < mask_of(artist, tmp_path, size).mean() < 1


def test_a_drawn_picture_is_restored_and_gone_on_from(artist, tmp_path):
    artist.ask("sun, flat", seed=5)
    artist.draw()
    artist.find("#generate-to-inpaint").click()
    ready(artist)
    size = (256, 256)
    stroke(artist, size, (80, 80), (180, 120))
    first = restore(artist, tmp_path)
    artist.page.reload()
    artist.tab("Inpaint")
    expect(artist.find("#inpaint-slider img").first).to_be_visible()  # what was made is not lost
    artist.find("#inpaint-accept").click()
    ready(artist)
    stroke(artist, size, (40, 200), (200, 200))
    before = np.asarray(Image.open(first))
    restored = restore(artist, tmp_path)
    after, painted = np.asarray(Image.open(restored)), mask_of(artist, tmp_path, size)
    kept = masks.feather(painted, 4) == 0
    assert np.array_equal(after[kept], before[kept]) and not np.array_equal(after, before)
    steps = images.read_record(restored)["made_from"]
    assert [step["request"]["task"] for step in steps] == ["generate", "inpaint"]


def test_nothing_painted_and_no_picture_get_a_sentence(artist, tmp_path):
    artist.tab("Inpaint")
    artist.find("#inpaint-run").click()
    artist.told("choose one first")
    open_picture(artist, photograph(tmp_path / "photo.png", 200, 150))
    artist.find("#inpaint-run").click()
    artist.told("Nothing is painted")
    wrong = tmp_path / "wrong.png"
    Image.new("L", (20, 20), 255).save(wrong)
    with artist.page.expect_file_chooser() as chooser:
        artist.find("#inpaint-read").click()
    chooser.value.set_files(wrong)
    artist.told("20x20 pixels and the picture 200x150")
