"""Draws the pictures of the READMEs: the studio as a newcomer meets it, photographed tab by tab.

    .venv/bin/python -m tests.browser.pictures               into assets/
    .venv/bin/python -m tests.browser.pictures --all DIR     every tab in both themes and languages, and narrow
"""

import argparse
import io
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw
from playwright.sync_api import expect, sync_playwright

from studio import images
from tests.browser.artist import PATIENCE, Artist
from tests.browser.conftest import ARGUMENTS, ROOT, find_browser, running
from tests.browser.test_inpaint import operations, ready, stroke, take_model

WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
TABS = {
    "Generate": "生成", "Reconstruct": "重建", "Inpaint": "修复", "Restore": "旧照修缮", "Upscale": "放大",
    "Compare": "对比", "Gallery": "图库", "Models": "模型", "System": "系统",
}  # fmt: skip
SHOWN = ("Generate", "Reconstruct", "Inpaint", "Restore", "Upscale", "Compare", "Gallery")  # in the READMEs
PROMPTS = ("red heart, glossy", "cat face, flat", "bus, 3d", "apple, cartoon")
LOOKS = {
    "light": {"viewport": WIDE, "locale": "en-GB", "color_scheme": "light"},
    "dark": {"viewport": WIDE, "locale": "en-GB", "color_scheme": "dark"},
    "chinese": {"viewport": WIDE, "locale": "zh-CN", "color_scheme": "light"},
    "narrow": {"viewport": NARROW, "locale": "en-GB", "color_scheme": "light"},
    "narrow-dark-chinese": {"viewport": NARROW, "locale": "zh-CN", "color_scheme": "dark"},
}


def old_print(drawn):
    """The picture in the bytes of a PNG as an old print of it: enlarged, faded and scratched."""
    picture = Image.open(io.BytesIO(drawn)).convert("RGB").resize((512, 512), Image.Resampling.LANCZOS)
    picture = picture.point([round(70 + 0.6 * value) for value in range(256)] * 3)
    pen = ImageDraw.Draw(picture)
    for line in ([(60, 20), (130, 180), (120, 300)], [(500, 90), (330, 200), (180, 420)], [(20, 400), (260, 500)]):
        pen.line(line, (250, 248, 240), 3)
    for x, y in ((90, 420), (300, 60), (420, 330), (240, 140)):
        pen.circle((x, y), 4, (250, 248, 240))
    return images.png_bytes(picture)


def work(artist):
    """Make something to see on each tab: pictures, a reconstruction, repairs, an enlargement, a comparison."""
    for seed, prompt in enumerate(PROMPTS):
        artist.ask(prompt, seed=seed)
        artist.number("count", 4)
        drawn = artist.draw()
    artist.find("#generate-to-reconstruct").click()
    artist.reconstruct()
    artist.tab("Generate")
    artist.find("#generate-to-inpaint").click()
    ready(artist)
    stroke(artist, (256, 256), (104, 120), (152, 144))
    operations(artist, 1)
    take_model(artist, "icons-tokens")
    artist.find("#inpaint-run").click()
    expect(artist.find("#inpaint-status")).to_contain_text("0 pixels changed outside the mask.")
    artist.tab("Restore")
    with artist.page.expect_file_chooser() as chooser:
        artist.find("#restore-image button").first.click()
    chooser.value.set_files({"name": "old.png", "mimeType": "image/png", "buffer": old_print(drawn)})
    for button in ("use", "masked", "run"):
        artist.find(f"#restore-{button}").click()
    expect(artist.find("#restore-status")).to_contain_text("0 pixels changed outside the mask.")
    artist.tab("Generate")
    artist.find("#generate-to-upscale").click()
    expect(artist.find("#upscale-forecast")).to_contain_text("512 × 512")
    artist.find("#upscale-run").click()
    expect(artist.find("#upscale-status .done")).to_be_attached()
    artist.tab("Compare")
    artist.find("#compare-prompt textarea").fill("red heart, glossy")
    artist.open("Axes")
    artist.find("#compare-down input").click()
    artist.find("#compare-down").get_by_role("option", name="Seed", exact=True).click()
    artist.find("#compare-down-values textarea").fill("1-3")
    artist.find("#compare-run").click()
    expect(artist.find("#compare-status .done")).to_be_attached()


def photograph(artist, tabs, folder, name, whole):
    """One picture a tab, of the window or of the whole page."""
    for english, label in tabs.items():
        artist.tab(label)
        if english == "Gallery":
            artist.find("#gallery-grid .thumbnail-item").first.click()
            expect(artist.find("#gallery-picture img")).to_be_visible()
        artist.page.wait_for_timeout(1500)  # pictures come in, and bars run out
        shot = Image.open(io.BytesIO(artist.page.screenshot(full_page=whole)))
        shot.convert("RGB").save(folder / f"{name}-{english.lower()}.webp", quality=80, method=6)


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--all", type=Path, metavar="DIR", help="every look at every tab, into this folder")
    parser.add_argument("--look", choices=LOOKS, help="with --all: this look alone")
    arguments = parser.parse_args(argv)
    folder = arguments.all
    with tempfile.TemporaryDirectory() as home, running(Path(home)) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=ARGUMENTS)
        context = browser.new_context(**LOOKS["light"])
        context.set_default_timeout(PATIENCE)
        artist = Artist(context.new_page(), address)
        work(artist)
        if folder is None:
            for language, locale in (("", "en-GB"), ("-zh", "zh-CN")):
                again = browser.new_context(
                    storage_state=context.storage_state(), **LOOKS["light"] | {"locale": locale}
                )
                tabs = TABS if language else dict.fromkeys(TABS)
                tabs = {english: tabs[english] or english for english in SHOWN}
                photograph(Artist(again.new_page(), address), tabs, ROOT / "assets", f"studio{language}", False)
            return
        folder.mkdir(parents=True, exist_ok=True)
        for name, look in LOOKS.items():
            if arguments.look not in (None, name):
                continue
            again = browser.new_context(storage_state=context.storage_state(), **look)
            chinese = look["locale"] == "zh-CN"
            tabs = {english: label if chinese else english for english, label in TABS.items()}
            photograph(Artist(again.new_page(), address), tabs, folder, name, True)


if __name__ == "__main__":
    main(sys.argv[1:])
