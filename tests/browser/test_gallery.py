"""The gallery in a browser: pictures are found, starred, compared, deleted, brought back and made again."""

import zipfile

from PIL import Image
from playwright.sync_api import expect

from tests.browser.artist import is_one_sentence, pixels


def draw(artist, prompt, seed):
    artist.ask(prompt, seed=seed)
    return artist.draw()


def search(artist, words):
    artist.find("#gallery-words input").fill(words)
    artist.find("#gallery-words input").press("Enter")


def counted(artist, count):
    expect(artist.find("#gallery-line")).to_contain_text(f"{count} pictures")


def choose(artist, number=0):
    artist.find("#gallery-grid .thumbnail-item").nth(number).click()
    expect(artist.find("#gallery-picture img")).to_be_visible()


def test_an_artist_sorts_and_remakes(artist, tmp_path):
    first = draw(artist, "a zebra, flat", 31)
    draw(artist, "a zebra, 3d", 32)
    artist.tab("Gallery")
    search(artist, "zebra")
    counted(artist, 2)

    choose(artist, 1)  # the newest comes first
    expect(artist.find("#gallery-details")).to_contain_text("a zebra, flat")
    artist.find("#gallery-star").click()
    expect(artist.find("#gallery-star")).to_have_text("★ Starred")
    artist.find("#gallery-put input").fill("stripes")
    artist.find("#gallery-put input").press("Enter")
    artist.find("#gallery-remake").click()
    expect(artist.find("#gallery-made .same")).to_have_text("The same picture, pixel for pixel.")

    artist.find("#gallery-starred input").check()
    search(artist, "zebra")
    counted(artist, 1)
    artist.find("#gallery-starred input").uncheck()
    counted(artist, 3)  # with the one that was made again

    artist.find("#gallery-pick").click()
    choose(artist, 1)
    artist.find("#gallery-pick").click()
    expect(artist.find("#gallery-basket")).to_have_text("2 picked")
    artist.find("#gallery-side-by-side").click()
    expect(artist.find("#gallery-table .differs th")).to_have_text(["prompt", "seed"])
    artist.find("#gallery-pack").click()
    expect(artist.find("#gallery-packed")).to_be_visible()
    with artist.page.expect_download() as download:
        artist.find("#gallery-packed").click()
    with zipfile.ZipFile(download.value.path()) as archive:
        packed = [archive.read(name) for name in archive.namelist()]
    assert first in packed and len(packed) == 2

    artist.find("#gallery-delete").click()
    counted(artist, 2)
    artist.find("#gallery-undo").click()
    counted(artist, 3)

    choose(artist, 2)
    artist.find("#gallery-use-settings").click()
    expect(artist.find("#generate-prompt textarea")).to_have_value("a zebra, flat")
    assert pixels(artist.draw()).tobytes() == pixels(first).tobytes()


def test_files_are_taken_in_and_others_get_a_sentence(artist, tmp_path):
    png = draw(artist, "a yak, flat", 41)
    (tmp_path / "ours.png").write_bytes(png)
    Image.new("RGB", (64, 64), "teal").save(tmp_path / "plain.png")
    artist.tab("Gallery")
    with artist.page.expect_file_chooser() as chooser:
        artist.find("#gallery-take-in").click()
    chooser.value.set_files([tmp_path / "ours.png", tmp_path / "plain.png"])
    told = artist.find("#gallery-line .status").nth(1)
    expect(told).to_contain_text("1 taken in.")
    assert is_one_sentence(told.inner_text())
    search(artist, "yak")
    counted(artist, 2)


def test_a_picture_goes_to_reconstruct(artist):
    draw(artist, "an ox, flat", 51)
    artist.tab("Gallery")
    search(artist, "ox")
    choose(artist)
    artist.find("#gallery-to-reconstruct").click()
    artist.reconstruct()
