"""The Reconstruct tab, by what a person does there."""

import math

import pytest
from PIL import Image, ImageDraw
from playwright.sync_api import expect

from tests.browser.artist import is_one_sentence


@pytest.fixture
def drawing(tmp_path):
    """A disc on white, 160 x 96 pixels."""
    picture = Image.new("RGB", (160, 96), "white")
    ImageDraw.Draw(picture).ellipse((50, 20, 110, 80), fill="tomato")
    picture.save(tmp_path / "drawing.png")
    return tmp_path / "drawing.png"


def choose(artist, path, tab="reconstruct"):
    artist.find(f"#{tab}-image input[type=file]").set_input_files(path)
    expect(artist.find(f"#{tab}-image").get_by_label("Remove Image")).to_be_visible()


def open_tokens(artist, path):
    with artist.page.expect_file_chooser() as chooser:
        artist.find("#reconstruct-tokens").click()
    chooser.value.set_files(path)


def size_of(image):
    return image.evaluate("async image => { await image.decode(); return [image.naturalWidth, image.naturalHeight] }")


def test_a_picture_is_reconstructed_beside_its_tokens(artist, drawing):
    artist.tab("Reconstruct")
    expect(artist.find("#reconstruct-page .hint").first).to_contain_text("tokens")
    choose(artist, drawing)
    figures = artist.reconstruct()
    wide, high = map(int, figures["tokens"].split(" × "))
    used, n_embed = map(int, figures["codes used"].split(" / "))
    assert 1 <= used <= min(n_embed, wide * high)
    assert 1 <= float(figures["perplexity"]) <= used + 0.5
    assert float(figures["bits per pixel"]) == pytest.approx(wide * high * math.log2(n_embed) / (160 * 96), abs=6e-4)
    assert float(figures["PSNR"].removesuffix(" dB")) > 15  # a plain white picture gets 11
    assert 0 < float(figures["SSIM"]) <= 1
    for part in ("token-map", "difference"):
        assert size_of(artist.find(f"#reconstruct-{part} img")) == [160, 96]
    expect(artist.find("#reconstruct-slider img")).to_have_count(2)

    artist.page.reload()
    artist.tab("Reconstruct")
    assert artist.figures() == figures


def test_a_drawn_picture_is_sent_over(artist):
    artist.ask("a blue car", seed=21)
    artist.draw()
    artist.find("#generate-to-reconstruct").click()
    expect(artist.find("#reconstruct-image img")).to_be_visible()
    assert artist.reconstruct()["PSNR"].endswith(" dB")


def test_no_picture_and_a_broken_one_get_a_sentence_and_the_next_works(artist, drawing, tmp_path):
    artist.tab("Reconstruct")
    artist.find("#reconstruct-run").click()
    assert artist.told("Choose a picture first.")
    broken = tmp_path / "broken.png"
    broken.write_bytes(drawing.read_bytes()[:60] + b"<script>" * 40)
    choose(artist, broken)
    artist.find("#reconstruct-run").click()
    assert is_one_sentence(artist.told("picture"))
    artist.find("#reconstruct-image").get_by_label("Remove Image").click()
    choose(artist, drawing)
    assert artist.reconstruct()["SSIM"]


def test_tokens_are_saved_and_opened_again(artist, drawing, tmp_path):
    artist.tab("Reconstruct")
    choose(artist, drawing)
    figures = artist.reconstruct()
    with artist.page.expect_download() as download:
        artist.find("#reconstruct-save").click()
    download.value.save_as(tmp_path / "tokens.npz")
    assert (tmp_path / "tokens.npz").stat().st_size < 2000
    artist.page.reload()
    artist.tab("Reconstruct")
    artist.figures()
    open_tokens(artist, tmp_path / "tokens.npz")
    cells = artist.find("#reconstruct-figures .figures > div")
    expect(cells).to_have_count(4)  # without an original there is nothing to compare with
    found = dict(reversed(text.split("\n")) for text in cells.all_inner_texts())
    assert found == {name: value for name, value in figures.items() if name in found}
    expect(artist.find("#reconstruct-difference img")).to_have_count(0)
    assert size_of(artist.find("#reconstruct-token-map img")) == [160, 96]
    (tmp_path / "broken.npz").write_bytes(drawing.read_bytes())
    open_tokens(artist, tmp_path / "broken.npz")
    expect(artist.find("#reconstruct-status .failed")).to_contain_text("no tokens that can be read")
