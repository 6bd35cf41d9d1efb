"""Enlarging in a browser: look at a spot, run, compare, download, many at once, and a reload."""

import cv2
import numpy as np
from PIL import Image
from playwright.sync_api import expect

from studio import images
from tests.browser.artist import is_one_sentence, pixels, request_in
from tests.browser.test_inpaint import photograph
from tests.browser.test_reconstruct import choose


def take_model(artist, name):
    artist.find("#upscale-model input").click()
    artist.page.get_by_role("option", name=name).click()


def number(artist, name, value):
    box = artist.find(f"#upscale-{name} input[type=number]")
    box.fill(str(value))
    box.blur()


def enlarged(artist, folder):
    before = artist.page.evaluate("document.querySelector('#upscale-status .status')?.dataset.job ?? ''")
    artist.find("#upscale-run").click()
    expect(artist.find(f"#upscale-status .done:not([data-job='{before}'])")).to_be_attached()
    with artist.page.expect_download() as download:
        artist.find("#upscale-download").click()
    download.value.save_as(folder / "large.png")
    return folder / "large.png"


def test_a_spot_first_and_then_the_whole(artist, tmp_path):
    source = photograph(tmp_path / "photo.png", 300, 200)
    artist.tab("Upscale")
    take_model(artist, "my-upscaler")
    choose(artist, source, tab="upscale")
    expect(artist.find("#upscale-forecast")).to_contain_text("600 × 400")
    expect(artist.find("#upscale-detail")).to_be_visible()
    number(artist, "scale", 4)
    expect(artist.find("#upscale-forecast")).to_contain_text("1200 × 800")
    artist.find("#upscale-image img").click(position={"x": 60, "y": 60})
    expect(artist.find("#upscale-loupe img").first).to_be_visible()
    near = artist.find("#upscale-loupe img").nth(1)
    before = near.get_attribute("src")
    number(artist, "sharpness", 1)
    expect(near).not_to_have_attribute("src", before)
    large = enlarged(artist, tmp_path)
    assert Image.open(large).size == (1200, 800)
    asked = request_in(large)
    assert (asked["task"], asked["model"], asked["scale"]) == ("upscale", "my-upscaler", 4)
    assert asked["sharpness"] == 1
    # the spot showed what was made
    shown = np.asarray(pixels(artist.page.request.get(near.get_attribute("src")).body()))
    whole = np.asarray(images.read_picture(large))
    _, _, (left, top), _ = cv2.minMaxLoc(cv2.matchTemplate(whole, shown, cv2.TM_SQDIFF))
    assert shown.shape == (384, 384, 3)
    assert np.abs(whole[top : top + 384, left : left + 384].astype(int) - shown).max() <= 1

    artist.page.reload()
    artist.tab("Upscale")
    expect(artist.find("#upscale-slider img").first).to_be_visible()
    expect(artist.find("#upscale-image img")).to_be_visible()
    take_model(artist, "lanczos")
    expect(artist.find("#upscale-detail")).to_be_hidden()  # a filter invents nothing
    expect(artist.find("#upscale-tile")).to_be_hidden()
    number(artist, "scale", 2.5)
    expect(artist.find("#upscale-forecast")).to_contain_text("750 × 500")
    large = enlarged(artist, tmp_path)
    back = np.asarray(images.read_picture(large).resize((300, 200), Image.Resampling.BOX), int)
    assert np.abs(back - np.asarray(Image.open(source).convert("RGB"))).mean() < 6


def test_a_drawn_picture_is_sent_and_many_files_are_queued(artist, tmp_path):
    artist.ask("sun, flat", seed=5)
    artist.draw()
    artist.find("#generate-to-upscale").click()
    expect(artist.find("#upscale-forecast")).to_contain_text("512 × 512")
    take_model(artist, "lanczos")
    paths = [photograph(tmp_path / f"{number}.png", 40 + number, 30) for number in range(3)]
    (tmp_path / "no.png").write_bytes(b"no picture")
    with artist.page.expect_file_chooser() as chooser:
        artist.find("#upscale-many").click()
    chooser.value.set_files([*paths, tmp_path / "no.png"])
    told = artist.told("3 pictures are in the queue")
    assert is_one_sentence(told) and "no picture that can be read" in told
    with artist.page.expect_file_chooser() as chooser:
        artist.find("#upscale-folder").click()
    (tmp_path / "folder").mkdir()
    photograph(tmp_path / "folder" / "a.png", 50, 30)
    (tmp_path / "folder" / "notes.txt").write_text("no picture")
    chooser.value.set_files(tmp_path / "folder")
    assert artist.told("pictures are in the queue").startswith("1 ")
    artist.tab("Gallery")
    artist.find("#gallery-task input").click()
    artist.page.get_by_role("option", name="Upscale").click()
    expect(artist.find("#gallery-grid .thumbnail-item").nth(3)).to_be_visible()


def test_what_of_a_file_is_lost_is_said(artist, tmp_path):
    cv2.imwrite(str(tmp_path / "deep.png"), np.full((40, 60, 3), 40_000, np.uint16))
    artist.tab("Upscale")
    choose(artist, tmp_path / "deep.png", tab="upscale")
    assert is_one_sentence(artist.told("16 bits a channel were rounded to 8"))
    expect(artist.find("#upscale-forecast")).to_contain_text("120 × 80")


def test_a_drawn_picture_is_made_bigger(artist):
    artist.ask("sun, flat", seed=5)
    small = artist.draw()
    artist.open("Make it bigger")
    artist.find("#refine-upscaler input").click()
    artist.page.get_by_role("option", name="lanczos").click()
    before, job = artist.shown(), artist.page.evaluate("document.querySelector('#generate-status .status').dataset.job")
    artist.find("#generate-enlarge").click()
    large = artist.drawn(before, job)
    asked = request_in(large)
    assert (asked["task"], asked["prompt"], asked["seed"]) == ("refine", "sun, flat", 5)
    assert pixels(large).size == (512, 512)
    # it is the same picture, and not an enlargement alone
    back = np.asarray(pixels(large).resize((256, 256), Image.Resampling.BOX), int)
    assert 0 < np.abs(back - np.asarray(pixels(small))).mean() < 25
    expect(artist.find("#generate-details")).to_contain_text("× 2")


def test_a_target_is_met_to_the_pixel_and_times_are_at_hand(artist, tmp_path):
    artist.tab("Upscale")
    take_model(artist, "lanczos")
    choose(artist, photograph(tmp_path / "photo.png", 61, 37), tab="upscale")
    artist.find("#upscale-target input").fill("200")
    artist.find("#upscale-target input").blur()
    expect(artist.find("#upscale-forecast")).to_contain_text("200 × 121")
    assert Image.open(enlarged(artist, tmp_path)).size == (200, 121)
    artist.page.get_by_role("button", name="×4").click()
    expect(artist.find("#upscale-forecast")).to_contain_text("244 × 148")
    expect(artist.find("#upscale-target input")).to_have_value("0")


def test_no_picture_and_a_giant_get_a_sentence(artist, tmp_path):
    artist.tab("Upscale")
    artist.find("#upscale-run").click()
    assert is_one_sentence(artist.told("Choose a picture first"))
    choose(artist, photograph(tmp_path / "photo.png", 2000, 40), tab="upscale")
    number(artist, "scale", 16)
    expect(artist.find("#upscale-forecast")).to_contain_text("32000 × 640")
    artist.find("#upscale-run").click()
    expect(artist.find("#upscale-status .failed")).to_contain_text("choose at most 8.1 times")
