"""The workshop, by what a person does there: take a picture up, paint, undo, swap, mix, keep."""

import numpy as np
import pytest
from PIL import Image, ImageDraw
from playwright.sync_api import expect

from engines.checkpoints import tokens
from engines.tasks.reconstruct import token_map
from tests.browser.test_generate import long_job
from tests.browser.test_reconstruct import choose

SIDE = 16  # tokens of a picture of 128 pixels


@pytest.fixture
def drawings(tmp_path):
    """A red disc on white and a blue square on yellow, 128 pixels a side."""
    paths = []
    for name, ground, figure, shape in (("a", "white", "red", "ellipse"), ("b", "gold", "blue", "rectangle")):
        picture = Image.new("RGB", (128, 128), ground)
        getattr(ImageDraw.Draw(picture), shape)((32, 32, 96, 96), fill=figure)
        picture.save(tmp_path / f"{name}.png")
        paths.append(tmp_path / f"{name}.png")
    return paths


@pytest.fixture
def bench(artist, drawings):
    artist.tab("Reconstruct")
    choose(artist, drawings[0])
    artist.reconstruct()
    artist.open("Workshop")
    return take_up(artist)


def take_up(artist):
    answered(artist, artist.find("#workshop-begin").click)
    expect(artist.find("#workshop-map canvas.map")).to_be_visible()
    return artist


def take(artist, model, path):
    """Reconstruct a picture with one of the artist's own models, and take it up."""
    artist.find("#reconstruct-model input").click()
    artist.page.get_by_role("option", name=model).click()
    choose(artist, path)
    artist.reconstruct()
    artist.open("Workshop")
    take_up(artist)


def answered(artist, action):
    """Do something, and wait until the canvas shows what came of it."""
    count = "Number(document.querySelector('#workshop-map .token-map')?.dataset.shown ?? 0)"
    before = artist.page.evaluate(count)
    action()
    artist.page.wait_for_function(f"before => {count} > before", arg=before)


def saved(artist, tmp_path):
    """The tokens as they are saved now."""
    with artist.page.expect_download() as download:
        artist.find("#reconstruct-save").click()
    download.value.save_as(tmp_path / "now.npz")
    return tokens.from_bytes((tmp_path / "now.npz").read_bytes()).indices


def stroke(artist, *cells, side=SIDE):
    """Draw over the picture from cell to cell, of `side` cells a side."""
    canvas = artist.find("#workshop-map canvas.map")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    mouse = artist.page.mouse
    for number, (row, column) in enumerate(cells):
        mouse.move(box["x"] + (column + 0.5) / side * box["width"], box["y"] + (row + 0.5) / side * box["height"])
        if not number:
            mouse.down()
    mouse.up()


def tool(artist, name):
    artist.find("#workshop-tool label", has_text=name).click()


def enter(artist, code):
    artist.find("#workshop-code input").fill(str(code))
    artist.find("#workshop-code input").press("Enter")


def test_brush_undo_and_redo(bench, tmp_path):
    before = saved(bench, tmp_path)
    answered(bench, lambda: enter(bench, 7))
    answered(bench, lambda: stroke(bench, (3, 2), (3, 9)))
    painted = saved(bench, tmp_path)
    expected = before.copy()
    expected[3, 2:10] = 7  # every cell on the way, however quick the stroke
    assert np.array_equal(painted, expected)
    answered(bench, bench.find("#workshop-undo").click)
    assert np.array_equal(saved(bench, tmp_path), before)
    expect(bench.find("#workshop-undo")).to_be_disabled()
    answered(bench, bench.find("#workshop-redo").click)
    assert np.array_equal(saved(bench, tmp_path), painted)


def test_pick_and_fill(bench, tmp_path):
    before = saved(bench, tmp_path)
    tool(bench, "Pick")
    stroke(bench, (8, 8))
    expect(bench.find("#workshop-code input")).to_have_value(str(before[8, 8]))
    tool(bench, "Fill")
    answered(bench, lambda: stroke(bench, (0, 0)))
    filled = saved(bench, tmp_path)
    region = filled != before
    assert filled[0, 0] == before[8, 8] and len(np.unique(before[region])) == 1


def test_a_code_is_chosen_in_the_codebook_and_the_tip_names_it(bench):
    book = bench.find("#workshop-map canvas.book")
    box = book.bounding_box()
    book.hover(position={"x": box["width"] * 0.5, "y": box["height"] * 0.5})
    tip = bench.find("#workshop-map .tip")
    expect(tip).to_be_visible()
    named = tip.inner_text()
    book.click(position={"x": box["width"] * 0.5, "y": box["height"] * 0.5})
    expect(bench.find("#workshop-code input")).to_have_value(named)


def test_codes_have_the_colours_of_the_token_map(bench, tmp_path):
    before = saved(bench, tmp_path)
    answered(bench, bench.find("#workshop-coloured input").check)
    pixels = bench.page.evaluate(
        """side => {
            const canvas = document.querySelector('#workshop-map canvas.map'), cell = canvas.width / side;
            const all = [...Array(side * side).keys()];
            return all.map(i => [...canvas.getContext('2d').getImageData(
                (i % side + 0.5) * cell, (Math.floor(i / side) + 0.5) * cell, 1, 1).data].slice(0, 3));
        }""",
        SIDE,
    )
    expected = np.asarray(token_map(before, 1, (SIDE, SIDE))).reshape(-1, 3)
    assert np.abs(np.array(pixels) - expected).max() <= 2


def test_swap_and_mix_with_a_second_picture_and_keep(bench, drawings, tmp_path):
    artist, first = bench, saved(bench, tmp_path)
    tool(artist, "Swap")
    stroke(artist, (5, 5))
    assert "no second picture" in artist.told("no second picture")
    artist.find("#workshop-second").click()
    artist.told("Kept as the second picture")
    artist.find("#reconstruct-image").get_by_label("Remove Image").click()
    choose(artist, drawings[1])
    artist.reconstruct()
    take_up(artist)
    second = saved(artist, tmp_path)
    assert not np.array_equal(first, second)
    answered(artist, lambda: stroke(artist, (2, 2), (2, 13)))
    swapped = saved(artist, tmp_path)
    expected = second.copy()
    expected[2, 2:14] = first[2, 2:14]
    assert np.array_equal(swapped, expected)
    answered(artist, artist.find("#workshop-mix").click)
    mixed = saved(artist, tmp_path)
    others = first.copy()
    others[2, 2:14] = second[2, 2:14]
    assert ((mixed == expected) | (mixed == others)).all()
    assert 0.2 < (mixed == others).mean() < 0.9

    artist.find("#workshop-keep").click()
    cells = artist.find("#reconstruct-figures .figures > div")
    expect(cells).to_have_count(4)
    assert np.array_equal(saved(artist, tmp_path), mixed)


def test_no_stroke_is_lost_however_quickly_they_come(bench, tmp_path):
    before = saved(bench, tmp_path)
    answered(bench, lambda: enter(bench, 7))
    for row in range(6):
        stroke(bench, (row, 0), (row, 3))
    expected = before.copy()
    expected[:6, :4] = 7
    # strokes are answered one after the other; the page may show the answers of several at once
    for _ in range(100):
        if np.array_equal(saved(bench, tmp_path), expected):
            return
        bench.page.wait_for_timeout(200)
    pytest.fail("a stroke was lost")


def test_a_code_that_is_none_gets_a_sentence_and_nothing_is_painted_by_a_click_in_the_book(bench, tmp_path):
    before = saved(bench, tmp_path)
    enter(bench, 99999)
    assert "0 to 4095" in bench.told("no such code")
    tool(bench, "Swap")
    stroke(bench, (5, 5))
    bench.told("no second picture")
    tool(bench, "Brush")
    bench.find("#workshop-map canvas.book").click(position={"x": 5, "y": 5})
    expect(bench.find("#workshop-code input")).not_to_have_value("99999")
    assert np.array_equal(saved(bench, tmp_path), before)


def test_marked_tokens_are_drawn_anew_by_words_and_the_others_stay(artist, drawings, tmp_path):
    artist.tab("Reconstruct")
    take(artist, "mirror", drawings[0])
    before = saved(artist, tmp_path)
    side = len(before)  # the VQGAN of the small token model has twice as many tokens a side
    artist.find("#workshop-redraw").click()
    artist.told("Nothing is marked yet")
    tool(artist, "Mark")
    answered(artist, lambda: stroke(artist, (4, 3), (4, 12), (20, 12), side=side))
    expect(artist.find("#workshop-model input")).to_have_value("my-tokens")
    artist.find("#workshop-prompt textarea").fill("red disc")
    answered(artist, artist.find("#workshop-redraw").click)
    after = saved(artist, tmp_path)
    marked = np.zeros(before.shape, bool)
    marked[4, 3:13] = marked[4:21, 12] = True
    assert np.array_equal(after[~marked], before[~marked])
    assert (after[marked] != before[marked]).any()
    answered(artist, artist.find("#workshop-undo").click)
    assert np.array_equal(saved(artist, tmp_path), before)

    # the marks stay for another try; a stroke that begins on one takes marks away
    answered(artist, lambda: stroke(artist, (4, 3), (4, 12), side=side))
    answered(artist, artist.find("#workshop-redraw").click)
    marked[4, 3:13] = False
    assert np.array_equal(saved(artist, tmp_path)[~marked], before[~marked])


def test_one_redrawing_at_a_time_without_words_stopped_and_never_into_another_picture(artist, drawings, tmp_path):
    artist.tab("Reconstruct")
    take(artist, "mirror", drawings[0])
    artist.tab("Generate")
    long_job(artist, seed=801)  # behind it a redrawing waits, and on no machine is over too soon
    artist.tab("Reconstruct")
    answered(artist, artist.find("#workshop-mark-all").click)
    prompt, line = artist.find("#workshop-prompt textarea"), artist.find("#workshop-status .status")
    before = saved(artist, tmp_path)
    prompt.press("Enter")  # without words the picture around decides; here there is none
    expect(artist.find("#workshop-stop")).to_be_enabled()
    prompt.press("Enter")
    assert "wait until that is done" in artist.told("already")
    artist.find("#workshop-stop").click()
    expect(line).to_contain_text("Stopped")
    assert np.array_equal(saved(artist, tmp_path), before)

    prompt.press("Enter")
    expect(artist.find("#workshop-stop")).to_be_enabled()
    take_up(artist)  # the same picture, but another edit
    artist.tab("Generate")
    artist.find("#generate-stop").click()
    artist.told("no longer on the bench")
    artist.tab("Reconstruct")
    assert np.array_equal(saved(artist, tmp_path), before)


def test_a_vqgan_without_a_generator_says_how_to_get_one(artist, drawings):
    artist.tab("Reconstruct")
    take(artist, "lonely", drawings[0])
    expect(artist.find("#workshop").get_by_text("No model here draws with the codes of this VQGAN")).to_be_visible()
    expect(artist.find("#workshop-redraw")).to_be_hidden()
