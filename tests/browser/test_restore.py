"""An old picture led to a clean print, step by step, and a reload in the middle."""

import numpy as np
import pytest
from PIL import Image, ImageDraw
from playwright.sync_api import expect

from studio import images
from tests.browser.artist import is_one_sentence
from tests.browser.test_inpaint import photograph, stroke
from tests.browser.test_reconstruct import choose

SIZE = (320, 240)
SCRATCH = [(20, 30), (120, 200)]


@pytest.fixture
def old(tmp_path):
    """A faded photograph with a scratch."""
    path = photograph(tmp_path / "old.png", *SIZE)
    faded = Image.fromarray((70 + np.asarray(Image.open(path)) * [0.4, 0.4, 0.3]).astype(np.uint8))
    ImageDraw.Draw(faded).line(SCRATCH, (250, 250, 245), 2)
    faded.save(path)
    return path


def painter(artist):
    return artist.find("#restore-painter .painter")


def test_from_damage_to_a_clean_print(artist, old, tmp_path):
    artist.tab("Restore")
    choose(artist, old, tab="restore")
    expect(artist.find("#restore-share")).to_contain_text("of the picture is marked")
    artist.find("#restore-use").click()
    expect(painter(artist)).to_have_attribute("data-operations", "0")
    stroke(artist, SIZE, (250, 60), (290, 60), painter="restore-painter")
    expect(painter(artist)).to_have_attribute("data-saved", "1")

    artist.page.reload()
    artist.tab("Restore")
    expect(painter(artist)).to_have_attribute("data-operations", "0")
    artist.find("#restore-masked").click()
    artist.find("#restore-model input").click()
    artist.page.get_by_role("option", name="telea").click()
    artist.find("#restore-run").click()
    expect(artist.find("#restore-status")).to_contain_text("0 pixels changed outside the mask.")
    artist.find("#restore-painted").click()
    for name in ("fading", "levels"):
        box = artist.find(f"#restore-{name} input[type=number]")
        box.fill("1")
        box.blur()
    artist.find("#restore-save").click()
    expect(artist.find("#restore-end")).to_contain_text("in the gallery")
    with artist.page.expect_download() as download:
        artist.find("#restore-download").click()
    download.value.save_as(tmp_path / "print.png")

    record = images.read_record(tmp_path / "print.png")
    assert record["request"]["task"] == "adjust" and record["request"]["fading"] == 1
    (step,) = record["made_from"]
    assert (step["request"]["task"], step["request"]["model"]) == ("inpaint", "telea")
    before, after = np.asarray(Image.open(old), float), np.asarray(Image.open(tmp_path / "print.png"), float)
    assert after.shape == before.shape and after.std() > 1.5 * before.std()
    y, x = 115, 70  # in the middle of the scratch
    beside = after[y, x + 9]
    assert np.abs(before[y, x] - before[y, x + 9]).max() > 60 > np.abs(after[y, x] - beside).max()

    artist.find("#restore-steps").get_by_role("tab", name="Picture").click()
    artist.find("#restore-onwards").click()  # back at the beginning, and on again: nothing is lost
    artist.find("#restore-by-hand").click()
    artist.find("#restore-masked").click()
    artist.find("#restore-painted").click()
    artist.find("#restore-save").click()
    expect(artist.find("#restore-end")).to_contain_text("in the gallery")
    artist.find("#restore-another").click()
    expect(artist.find("#restore-image")).to_be_visible()


def test_what_cannot_be_gets_a_sentence(artist, old):
    Image.open(old).rotate(180).save(old)  # another picture, which nobody has painted on
    artist.tab("Restore")
    choose(artist, old, tab="restore")
    expect(artist.find("#restore-share")).to_contain_text("of the picture is marked")
    artist.find("#restore-by-hand").click()
    artist.find("#restore-masked").click()
    artist.find("#restore-run").click()
    assert is_one_sentence(artist.told("Nothing is painted"))
    artist.find("#restore-painted").click()
    artist.find("#restore-save").click()
    assert is_one_sentence(artist.told("Nothing was changed yet"))
