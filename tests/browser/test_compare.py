"""Comparing in a browser: two models on the same words, axes, a vote without names, and what is taken away."""

import json
import re
import zipfile

import numpy as np
from PIL import Image
from playwright.sync_api import expect

from tests.browser.artist import is_one_sentence, pixels
from tests.browser.test_inpaint import open_picture, operations, photograph, stroke
from tests.browser.test_reconstruct import choose

MODELS = ("icons-diffusion", "my-tokens")


def ask(artist, prompt, seed=3, models=MODELS):
    artist.number("steps", 5)  # which suits no family of models, so that all take them
    artist.tab("Compare")
    artist.find("#compare-prompt textarea").fill(prompt)
    artist.find("#compare-seed input").fill(str(seed))
    for box in artist.find("#compare-generate-models label").all():
        box.locator("input").set_checked(box.inner_text() in models)


def press(artist):
    artist.find("#compare-run").click()
    expect(artist.find("#compare-status .done")).to_be_attached()


def cells(artist):
    return artist.find("#compare-grid button.cell")


def downloaded(artist, button):
    with artist.page.expect_download() as download:
        artist.find(button).click()
    return download.value.path()


def test_two_models_on_the_same_words(artist):
    ask(artist, "a red apple, flat")
    press(artist)
    expect(cells(artist)).to_have_count(2)
    expect(artist.find("#compare-grid th[scope=col]")).to_have_text(list(MODELS))
    expect(artist.find("#compare-measures")).to_contain_text("SSIM")
    expect(artist.find("#compare-measures")).to_contain_text("largest difference")
    expect(artist.find("#compare-view figcaption")).to_have_text(["A · icons-diffusion", "B · my-tokens"])

    sheet = Image.open(downloaded(artist, "#compare-sheet"))
    assert sheet.width > 2 * 256 and sheet.height > 256
    with zipfile.ZipFile(downloaded(artist, "#compare-folder")) as archive:
        made = json.loads(archive.read("comparison.json"))["cells"]
        pictures = [pixels(archive.read(cell["file"])) for cell in made]
    assert [cell["record"]["request"]["model"] for cell in made] == list(MODELS)
    assert {cell["record"]["request"]["seed"] for cell in made} == {3}
    assert pictures[0].size == pictures[1].size == (256, 256)
    one, other = (np.asarray(picture).astype(int) for picture in pictures)
    assert made[1]["apart"]["largest"] == abs(one - other).max() and made[1]["apart"]["from"] == made[0]["file"]

    artist.page.reload()
    artist.tab("Compare")
    expect(cells(artist)).to_have_count(2)


def test_one_model_over_axes_and_looking_closer(artist):
    ask(artist, "a cat", models=MODELS[1:])
    artist.open("Axes")
    for name, field, values in (("across", "Seed", "1-3"), ("down", "Words of the prompt", "cat, dog")):
        artist.find(f"#compare-{name} input").click()
        artist.find(f"#compare-{name}").get_by_role("option", name=field, exact=True).click()
        artist.find(f"#compare-{name}-values textarea").fill(values)
    press(artist)
    expect(cells(artist)).to_have_count(6)
    expect(artist.find("#compare-grid th[scope=row]")).to_have_text(["a cat", "a dog"])
    cells(artist).nth(5).click()
    expect(artist.find("#compare-view figcaption").nth(1)).to_have_text("B · Seed 3, a dog")
    for name in ("side", "flicker", "difference", "hover", "slider"):
        artist.find(f"#compare-mode input[value={name}]").check()
        expect(artist.find(f"#compare-view [data-mode={name}]")).to_be_visible()
    artist.find("#compare-view .pair-stage").hover()
    artist.page.mouse.wheel(0, -400)
    expect(artist.find("#compare-view .pair-stage")).to_have_attribute("style", re.compile(r"scale\([2-9]"))


def test_a_vote_without_names(artist):
    ask(artist, "a house")
    artist.find("#compare-blind input").check()
    press(artist)
    expect(artist.find("#compare-view figcaption")).to_have_text(["A", "B"])
    expect(cells(artist)).to_have_count(0)
    artist.find("#compare-one").click()
    expect(cells(artist)).to_have_count(2)
    expect(artist.find("#compare-one")).to_be_hidden()
    artist.open("Ranking")
    expect(artist.find("#compare-ranks td").first).to_be_visible()
    names = artist.find("#compare-ranks tr td:first-child").all_inner_texts()
    assert sorted(names) == sorted(MODELS)


def test_readers_on_the_same_picture(artist, tmp_path):
    Image.linear_gradient("L").resize((96, 96)).convert("RGB").save(tmp_path / "picture.png")
    artist.tab("Compare")
    artist.page.get_by_label("Models on the same picture").check()
    artist.find("#compare-image input[type=file]").set_input_files(tmp_path / "picture.png")
    expect(artist.find("#compare-image img")).to_be_visible()
    press(artist)
    expect(cells(artist)).to_have_count(2)
    expect(artist.find("#compare-measures")).to_contain_text("PSNR")


def test_one_picture_is_no_comparison(artist):
    ask(artist, "a cat", models=MODELS[1:])
    artist.find("#compare-run").click()
    assert is_one_sentence(artist.told("of 1 pictures"))


def test_models_under_the_mask_that_is_painted(artist, tmp_path):
    size = (200, 120)
    source = photograph(tmp_path / "photo.png", *size)
    artist.tab("Compare")
    artist.find("#compare-what").get_by_label("Models under the same mask").check()
    expect(artist.find("#compare-inpaint-models")).to_be_visible()
    for box in artist.find("#compare-inpaint-models label").all():
        box.locator("input").set_checked(box.inner_text() in ("telea", "navier-stokes"))
    artist.find("#compare-run").click()
    assert is_one_sentence(artist.told("no picture yet"))
    open_picture(artist, source)
    stroke(artist, size, (50, 60), (150, 60))
    operations(artist, 1)
    artist.tab("Compare")
    press(artist)
    expect(artist.find("#compare-view figcaption")).to_have_text(["A · telea", "B · navier-stokes"])
    with zipfile.ZipFile(downloaded(artist, "#compare-folder")) as archive:
        made = json.loads(archive.read("comparison.json"))["cells"]
        one, other = (np.asarray(pixels(archive.read(cell["file"]))).astype(int) for cell in made)
    before = np.asarray(Image.open(source).convert("RGB")).astype(int)
    assert one.shape == before.shape and (one[:10] == before[:10]).all() and (other[:10] == before[:10]).all()
    assert (one[60, 60:140] != before[60, 60:140]).any() and (one != other).any()


def test_upscalers_on_the_picture_that_is_chosen(artist, tmp_path):
    artist.tab("Upscale")
    choose(artist, photograph(tmp_path / "photo.png", 90, 60), tab="upscale")
    expect(artist.find("#upscale-forecast")).to_contain_text("180 × 120")
    artist.tab("Compare")
    artist.find("#compare-what").get_by_label("Models that enlarge").check()
    expect(artist.find("#compare-upscale-models")).to_be_visible()
    for box in artist.find("#compare-upscale-models label").all():
        box.locator("input").set_checked(box.inner_text() in ("my-upscaler", "lanczos"))
    press(artist)
    expect(artist.find("#compare-view figcaption")).to_have_text(["A · my-upscaler", "B · lanczos"])
    with zipfile.ZipFile(downloaded(artist, "#compare-folder")) as archive:
        made = json.loads(archive.read("comparison.json"))["cells"]
        assert [pixels(archive.read(cell["file"])).size for cell in made] == [(180, 120)] * 2
