"""Enlarging in a browser: look at a spot, run, compare, download, many at once, and a reload."""

import numpy as np
from PIL import Image
from playwright.sync_api import expect

from studio import images
from tests.browser.artist import is_one_sentence, request_in
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
    number(artist, "scale", 4)
    expect(artist.find("#upscale-forecast")).to_contain_text("1200 × 800")
    artist.find("#upscale-image img").click(position={"x": 60, "y": 60})
    expect(artist.find("#upscale-loupe img").first).to_be_visible()
    large = enlarged(artist, tmp_path)
    assert Image.open(large).size == (1200, 800)
    asked = request_in(large)
    assert (asked["task"], asked["model"], asked["scale"]) == ("upscale", "my-upscaler", 4)

    artist.page.reload()
    artist.tab("Upscale")
    expect(artist.find("#upscale-slider img").first).to_be_visible()
    expect(artist.find("#upscale-image img")).to_be_visible()
    take_model(artist, "lanczos")
    number(artist, "scale", 2.5)
    expect(artist.find("#upscale-forecast")).to_contain_text("750 × 500")
    large = enlarged(artist, tmp_path)
    back = np.asarray(images.read_picture(large).resize((300, 200), Image.Resampling.BOX), int)
    assert np.abs(back - np.asarray(Image.open(source).convert("RGB"))).mean() < 6


def test_a_drawn_picture_is_sent_and_many_files_are_queued(artist, tmp_path):
    artist.ask("sun, flat", seed=5)
    artist.draw()
    artist.find("#generate-to-upscale").click()
    expect(artist.find("#upscale-forecast")).to_contain_text("256 × 256")
    take_model(artist, "lanczos")
    paths = [photograph(tmp_path / f"{number}.png", 40 + number, 30) for number in range(3)]
    (tmp_path / "no.png").write_bytes(b"no picture")
    with artist.page.expect_file_chooser() as chooser:
        artist.find("#upscale-many").click()
    chooser.value.set_files([*paths, tmp_path / "no.png"])
    told = artist.told("3 pictures are in the queue")
    assert is_one_sentence(told) and "no picture that can be read" in told
    artist.tab("Gallery")
    artist.find("#gallery-task input").click()
    artist.page.get_by_role("option", name="Upscale").click()
    expect(artist.find("#gallery-grid .thumbnail-item").nth(2)).to_be_visible()


def test_no_picture_and_a_giant_get_a_sentence(artist, tmp_path):
    artist.tab("Upscale")
    artist.find("#upscale-run").click()
    assert is_one_sentence(artist.told("Choose a picture first"))
    choose(artist, photograph(tmp_path / "photo.png", 2000, 40), tab="upscale")
    number(artist, "scale", 16)
    expect(artist.find("#upscale-forecast")).to_contain_text("32000 × 640")
    artist.find("#upscale-run").click()
    expect(artist.find("#upscale-status .failed")).to_contain_text("choose at most 8.1 times")
