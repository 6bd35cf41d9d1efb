"""An artist's day, from the first picture to the last vote."""

import zipfile

from playwright.sync_api import expect

from tests.browser.artist import pixels

PROMPT = "a quiet harbour, flat"


def test_an_artists_day(artist):
    # generate, stop in the middle: what was finished stays
    artist.ask(PROMPT, seed=70, steps=150)
    artist.number("count", 16)
    artist.find("#generate-run").click()
    expect(artist.find("#generate-gallery img").nth(1)).to_be_visible()
    artist.find("#generate-stop").click()
    expect(artist.find("#generate-status .cancelled")).to_be_visible()

    # generate again and reload in the middle: the job goes on, and the page finds it
    artist.ask(PROMPT, seed=80, steps=150)
    artist.number("count", 2)
    artist.find("#generate-run").click()
    expect(artist.find("#generate-status .running")).to_be_visible()
    artist.page.reload()
    expect(artist.find("#generate-status .running")).to_be_visible()
    expect(artist.find("#generate-status .done")).to_be_attached()
    expect(artist.find("#generate-gallery img")).to_have_count(2)

    # ask twice in a row: the page watches the second, and the first is drawn as well
    artist.number("count", 1)
    for seed, steps in ((90, 150), (95, 4)):
        artist.ask(PROMPT, seed=seed, steps=steps)
        artist.find("#generate-run").click()
        expect(artist.find("#generate-status .running")).to_be_visible()
    expect(artist.find("#generate-status .done")).to_be_attached()
    expect(artist.find("#generate-details")).to_contain_text("seed 95")

    # find it in the gallery, and remake it to the bit
    artist.tab("Gallery")
    artist.find("#gallery-words input").fill("harbour")
    artist.find("#gallery-words input").press("Enter")
    expect(artist.find("#gallery-line")).to_contain_text("pictures")
    artist.find("#gallery-grid .thumbnail-item").nth(2).click()
    expect(artist.find("#gallery-details")).to_contain_text("81")
    artist.find("#gallery-remake").click()
    expect(artist.find("#gallery-made .same")).to_have_text("The same picture, pixel for pixel.")

    # compare two models on its words and seed without their names, vote, and take the grid away
    artist.find("#gallery-to-compare").click()
    expect(artist.find("#compare-prompt textarea")).to_have_value(PROMPT)
    expect(artist.find("#compare-seed input")).to_have_value("81")
    for box in artist.find("#compare-generate-models label").all():
        box.locator("input").set_checked(box.inner_text() in ("icons-diffusion", "my-tokens"))
    artist.find("#compare-blind input").check()
    artist.find("#compare-run").click()
    expect(artist.find("#compare-view figcaption")).to_have_text(["A", "B"])
    artist.find("#compare-tie").click()
    expect(artist.find("#compare-grid button.cell")).to_have_count(2)
    artist.open("Ranking")
    expect(artist.find("#compare-ranks")).to_contain_text("icons-diffusion")
    with artist.page.expect_download() as sheet:
        artist.find("#compare-sheet").click()
    with open(sheet.value.path(), "rb") as stream:
        assert pixels(stream.read()).width > 2 * 128
    with artist.page.expect_download() as folder:
        artist.find("#compare-folder").click()
    with zipfile.ZipFile(folder.value.path()) as archive:
        assert len(archive.namelist()) == 3
