"""Comparisons: axes are read as written, cells lie where their labels say, and sheets and folders show them."""

import io
import json
import math
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from engines import masks, pictures, requests
from engines.errors import BadRequest
from engines.requests import CompareRequest, GenerateRequest, InpaintRequest, MeasureResult
from engines.tasks.measure import measure
from studio import comparison
from studio.jobs import pieces

BASE = GenerateRequest(prompt="a red fox, flat", steps=20)


@pytest.mark.parametrize("name, text, values", [
    ("seed", "1, 2,7", [1, 2, 7]),
    ("seed", "3-6", [3, 4, 5, 6]),
    ("steps", "10-30 (+10), 50", [10, 20, 30, 50]),
    ("cfg_scale", "1.5，2", [1.5, 2.0]),
    ("cfg_scale", "0.1-0.3 (+0.1)", [0.1, 0.2, 0.3]),
    ("sampler", "euler, ddim", ["euler", "ddim"]),
])
def test_values_are_read_as_written(name, text, values):
    assert [point[name] for point in comparison.points(BASE, name, text)] == values


def test_words_take_the_place_of_the_first():
    found = comparison.points(BASE, "words", "red fox, blue cat, 苹果")
    assert [point["prompt"] for point in found] == ["a red fox, flat", "a blue cat, flat", "a 苹果, flat"]


@pytest.mark.parametrize("name, text, words", [
    ("seed", " , ", "has no values"),
    ("words", "cat, dog", "“cat” is not in the prompt"),
    ("steps", "many", "“many” is no number"),
    ("steps", "9-1", "no range"),
    ("seed", "0-100000", "no range"),
    ("seed", "1-5 (+0)", "no range"),
    ("cfg_scale", "1.2.3", "no number"),
    ("steps", "1e9999999", "no number"),
    ("cfg_scale", "nan, inf", "no number"),
])
def test_what_is_no_axis_is_refused_with_a_sentence(name, text, words):
    with pytest.raises(BadRequest, match=words):
        comparison.points(BASE, name, text)


def test_every_field_that_can_be_varied_is_offered():
    offered = comparison.fields()
    assert offered[0] == "words" and {"seed", "steps", "sampler", "style", "temperature"} < set(offered)
    assert not {"model", "prompt", "image", "count"} & set(offered)


def inpainting(**fields):
    picture = pictures.to_png(Image.new("RGB", (16, 16)))
    return InpaintRequest(image=picture, mask=masks.to_png(np.full((16, 16), 255, np.uint8)), **fields)


def test_each_model_takes_the_settings_that_suit_it_unless_others_were_asked_for():
    rows = [SimpleNamespace(id=family, family=family) for family in requests.SUITED]
    for base in (GenerateRequest(prompt="fox"), inpainting(prompt="fox")):
        assert [dict(point) for point in comparison.of_models(base, rows)] == [
            {"model": family} | suited for family, suited in requests.SUITED.items()
        ]
    asked = comparison.of_models(GenerateRequest(prompt="fox", steps=7, cfg_scale=9.5), rows)
    assert {(point["steps"], point["cfg_scale"]) for point in asked} == {(7, 9.5)}
    unguided = comparison.of_models(inpainting(cfg_scale=1.0), rows)
    assert {point["cfg_scale"] for point in unguided} == {1.0}


# ---------------------------------------------------------------- cells


def compare(*axes, **fields):
    return CompareRequest(GenerateRequest(**{"prompt": "fox"} | fields), axes)


MODELS, SEEDS = ({"model": "a"}, {"model": "b"}), ({"seed": 1}, {"seed": 2}, {"seed": 3})


def test_each_combination_of_points_is_a_cell():
    cells = compare(MODELS, SEEDS).cells()
    assert {place: (cell.model, cell.seed) for place, cell in cells.items()} == {
        (0, 0, 0): ("a", 1), (0, 1, 0): ("a", 2), (0, 2, 0): ("a", 3),
        (1, 0, 0): ("b", 1), (1, 1, 0): ("b", 2), (1, 2, 0): ("b", 3),
    }  # fmt: skip


def test_models_are_drawn_one_after_the_other_wherever_their_axis_lies():
    for axes in ((MODELS, SEEDS), (SEEDS, MODELS), (SEEDS, ({"steps": 1}, {"steps": 2}), MODELS)):
        drawn = [piece.model for piece in pieces(compare(*axes))]
        assert drawn == sorted(drawn) and set(drawn) == {"a", "b"}


def test_a_cell_is_one_picture():
    assert all(cell.count == 1 for cell in compare(MODELS, count=4).cells().values())


@pytest.mark.parametrize("axes, words", [
    ((({"seed": 1},),), "of 1 pictures"),
    ((tuple({"seed": seed} for seed in range(101)),), "of 101 pictures"),
    ((({"speed": 1}, {"speed": 2}),), "no speed to compare by"),
    ((({"steps": 1}, {"steps": 1000}),), "steps is 1000"),
    ((({"sampler": "euler"}, {"sampler": "magic"}),), "magic"),
    ((MODELS,) * 4, "up to three axes"),
])
def test_cells_that_cannot_be_are_refused_at_once(axes, words):
    with pytest.raises(BadRequest, match=words):
        compare(*axes)


def test_a_comparison_of_comparisons_is_refused():
    with pytest.raises(BadRequest, match="drawn, inpainted, enlarged or reconstructed"):
        CompareRequest(compare(MODELS), (MODELS,))


# ---------------------------------------------------------------- how far the pictures are from each other


def measured(one, other):
    return comparison.measured(lambda request: measure(request, "cpu"), one, other)


def test_each_picture_is_measured_from_what_the_first_model_made_of_the_same():
    models = (*MODELS, {"model": "c"})
    steps = ({"steps": 1}, {"steps": 2})
    for request in (compare(models, SEEDS), compare(SEEDS, models), compare(SEEDS, steps, models)):
        cells = request.cells()
        found = comparison.firsts(request)
        assert set(found) == {place for place, cell in cells.items() if cell.model != "a"}
        for place, first in found.items():
            one, other = cells[first], cells[place]
            assert (one.model, one.seed, one.steps) == ("a", other.seed, other.steps)
    assert comparison.firsts(compare(SEEDS)) == {}


def test_how_far_they_are_is_told_in_levels_and_what_is_identical_is_said():
    request, pictures = compare((*MODELS, {"model": "c"})), {}
    grey = np.full((20, 30, 3), 100, np.uint8)
    for column, apart in enumerate((0, 0, 6)):
        pictures[column, 0, 0] = Image.fromarray(grey + np.uint8([apart, 0, 0]))
    found = comparison.apart(request, pictures, measured)
    assert (found[1, 0, 0].largest, found[1, 0, 0].mean, found[1, 0, 0].psnr) == (0, 0, math.inf)
    assert (found[2, 0, 0].largest, found[2, 0, 0].mean) == (6, 2)
    assert found[2, 0, 0].psnr == pytest.approx(10 * math.log10(255**2 / 12), rel=1e-4)
    cells = json.loads(
        comparison.table(request, dict.fromkeys(pictures, {}), found), parse_constant=lambda text: pytest.fail(text)
    )["cells"]
    assert "apart" not in cells[0]
    assert cells[1]["apart"]["from"] == cells[0]["file"] and cells[1]["apart"]["identical"]
    assert cells[1]["apart"]["psnr"] is None
    assert {name: cells[2]["apart"][name] for name in ("identical", "largest", "mean")} == {
        "identical": False, "largest": 6, "mean": 2,
    }  # fmt: skip


def test_pictures_of_two_sizes_and_missing_ones_are_left_out():
    request = compare((*MODELS, {"model": "c"}))
    pictures = {(0, 0, 0): Image.new("RGB", (20, 30)), (1, 0, 0): Image.new("RGB", (30, 20))}
    assert comparison.apart(request, pictures, measured) == {}
    del pictures[0, 0, 0]
    assert comparison.apart(request, pictures, measured) == {}


def test_all_that_is_measured_is_told():
    result = MeasureResult(psnr=30.0, ssim=0.9, distance=0.1, largest=9, mean=1.5, seconds=1.0)
    assert comparison.facts(result) == {
        "identical": False, "largest": 9, "mean": 1.5, "psnr": 30.0, "ssim": 0.9, "distance": 0.1,
    }  # fmt: skip


# ---------------------------------------------------------------- what is kept of them


def test_a_sheet_shows_each_picture_at_its_place():
    request = compare(MODELS, SEEDS)
    colours = {place: (50 * place[0], 60 * place[1], 99) for place in request.cells()}
    made = comparison.sheet(request, {place: Image.new("RGB", (40, 30), colour) for place, colour in colours.items()})
    down = comparison.labels(request)[1]
    left = made.width - 2 * (40 + comparison.GAP)
    for (column, row, _), colour in colours.items():
        at = left + column * (40 + comparison.GAP) + 20, comparison.LINE + row * (30 + comparison.GAP) + 15
        assert made.getpixel(at) == colour
    longer = comparison.sheet(request, {(0, 0, 0): Image.new("RGB", (40, 30))}, {"seed": "number of chance"}.get)
    assert longer.width > made.width
    assert down == ["seed 1", "seed 2", "seed 3"] and left > 0
    assert comparison.labels(request, {"seed": "种子"}.get)[:2] == (["a", "b"], ["种子 1", "种子 2", "种子 3"])


def test_a_folder_holds_every_picture_and_how_it_was_made(open_jobs, worker):
    jobs, request = open_jobs(), compare(SEEDS, ({"prompt": "fox"}, {"prompt": "cat"}))
    job = jobs.submit(request)
    *_, final = jobs.watch(job)
    stream = io.BytesIO()
    comparison.write_folder(request, final.entries, {}, stream)
    with zipfile.ZipFile(stream) as archive:
        cells = json.loads(archive.read("comparison.json"))["cells"]
        assert set(archive.namelist()) == {cell["file"] for cell in cells} | {"comparison.json"}
        assert archive.read(cells[0]["file"]) == comparison.by_place(request, final.entries)[0, 0, 0].path.read_bytes()
    asked = request.cells()
    for cell in cells:
        assert requests.from_json(json.dumps(cell["record"]["request"])) == asked[tuple(cell["place"])]
    assert cells[-1]["labels"] == ["seed 3", "cat", ""]


def test_a_comparison_of_which_cells_are_missing_keeps_the_others_in_place(open_jobs, worker):
    worker.hold_seed(2)
    jobs, request = open_jobs(), compare(SEEDS)
    job = jobs.submit(request)
    for state in jobs.watch(job):
        if state.state == "running" and len(state.entries) == 1 and state.progress:
            jobs.skip(job)
    found = comparison.by_place(request, state.entries)
    assert {place: entry.seed for place, entry in found.items()} == {(0, 0, 0): 1, (2, 0, 0): 3}
