"""The page as a whole: languages, sizes, colours, keys and help."""

import pytest
from playwright.sync_api import expect

TABS = ("generate", "reconstruct")
NAMES = {"generate": "Generate", "reconstruct": "Reconstruct"}

# The contrast of WCAG 2 between the text of an element and the first background painted behind it.
CONTRAST = """element => {
    const parse = text => (text.match(/[\\d.]+/g) || []).map(Number);
    const linear = v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
    let behind = element, colour;
    do { colour = parse(getComputedStyle(behind).backgroundColor); behind = behind.parentElement; }
    while (behind && colour[3] === 0);
    const pair = [luminance(parse(getComputedStyle(element).color)), luminance(colour)].sort((a, b) => b - a);
    return (pair[0] + 0.05) / (pair[1] + 0.05);
}"""


def test_the_page_speaks_chinese_to_a_chinese_browser(visit):
    artist = visit(locale="zh-CN")
    expect(artist.find("#generate-run")).to_have_text("生成")
    expect(artist.find("#generate-stop")).to_have_text("停止")
    expect(artist.find("#generate-steps")).to_contain_text("从无到有的步数")
    expect(artist.find("#generate-style")).to_contain_text("扁平")
    expect(artist.page.get_by_role("tab", name="重建")).to_be_visible()
    artist.choose_model("icons-diffusion")
    artist.find("#generate-sampler input").click()
    expect(artist.page.get_by_role("option", name="多数图片的首选")).to_be_visible()
    artist.find("#generate-run").focus()
    artist.ask("苹果，卡通", seed=31)
    artist.draw()
    expect(artist.find("#generate-status")).to_contain_text("完成")
    expect(artist.find("#generate-gallery .caption-label")).to_have_text("种子 31")


@pytest.mark.parametrize("locale", ["en-GB", "zh-CN"])
def test_every_word_of_the_page_is_a_word(visit, locale):
    artist = visit(locale=locale)
    artist.choose_model("icons-diffusion")
    accordions = artist.find("#generate-page button.label-wrap")
    expect(accordions).to_have_count(7)  # the page comes in parts
    for number in (0, 1, 2, 4, 5, 6):  # the settings are open
        accordions.nth(number).click()
    expect(artist.find("#generate-image")).to_be_visible()
    for name in TABS:
        artist.find("[role=tab]").nth(TABS.index(name)).click()
        expect(artist.find(f"#{name}-run")).to_be_visible()
        text = artist.find("body").inner_text()
        assert "__i18n__" not in text and "[object" not in text and "undefined" not in text


def test_every_control_has_a_line_of_help(artist):
    artist.choose_model("icons-diffusion")
    for accordion in ("From a picture", "Variation", "Guidance in detail"):
        artist.open(accordion)
    expect(artist.find("#generate-cfg-end")).to_be_visible()
    without = """page => [...document.querySelectorAll(`#${page}-page .block`)]
        .filter(block => !block.querySelector('.block[id]') && block.id)
        .filter(block => block.querySelector('textarea, input:not([type=file])'))
        .filter(block => !block.querySelector('.info-text')?.innerText.trim())
        .map(block => block.id)"""
    controls = "page => document.querySelectorAll(`#${page}-page .info-text`).length"
    assert artist.page.evaluate(without, "generate") == []
    assert artist.page.evaluate(controls, "generate") >= 20
    artist.tab("Reconstruct")
    expect(artist.find("#reconstruct-max-side")).to_be_visible()
    assert artist.page.evaluate(without, "reconstruct") == []
    assert artist.page.evaluate(controls, "reconstruct") == 2


def test_a_phone_shows_it_all_without_scrolling_sideways(visit):
    artist = visit(viewport={"width": 390, "height": 844})
    artist.ask("a yellow star", seed=51)
    artist.draw()
    tops = [artist.find(part).first.bounding_box()["y"] for part in (
        "#generate-prompt", "#generate-run", "#generate-gallery", "#generate-count")]  # fmt: skip
    assert tops == sorted(tops)  # the picture follows the words, the settings follow the picture
    for name in TABS:
        artist.tab(NAMES[name])
        expect(artist.find(f"#{name}-run")).to_be_visible()
        assert artist.page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_dark(visit, scheme):
    artist = visit(color_scheme=scheme)
    background = artist.find("body").evaluate("body => getComputedStyle(body).backgroundColor")
    red = int(background.removeprefix("rgb(").split(",")[0])
    assert red < 60 if scheme == "dark" else red > 200
    for part in ("#header h1", "#header p", "#generate-steps .info-text", "#generate-steps label span", "#generate-run",
                 ".chip", "#generate-prompt textarea"):  # fmt: skip
        assert artist.find(part).first.evaluate(CONTRAST) >= 4.5, part


def test_ctrl_enter_presses_the_button_of_the_tab_that_is_seen(artist):
    artist.ask("a red boat", seed=61)
    before = artist.shown()
    artist.find("#generate-prompt textarea").press("Control+Enter")
    artist.drawn(before)
    artist.tab("Reconstruct")
    expect(artist.find("#reconstruct-run")).to_be_visible()
    artist.page.keyboard.press("Control+Enter")
    assert artist.told("Choose a picture first.")


def test_nothing_of_the_framework_is_on_the_page(artist):
    expect(artist.find("footer")).to_be_hidden()
    assert artist.page.title() == "Atelier"
