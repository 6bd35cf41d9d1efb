"""The judge and the measures: they see what is there, move as they should, and come out the same twice."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from engines.checkpoints import models
from engines.errors import BadRequest
from engines.requests import GenerateResult, Picture
from engines.training import data, evaluate, quality
from engines.training.judge import Judge, train_judge
from tests import tiny

SIZE = 64
ANY = SimpleNamespace(family="latent-diffusion")  # a model that a painter stands in for
COLOURS = ("red", "green", "blue")


class Numbered(data.Example):
    """An example that is held out by its number; by caption and style all of a kind would be, or none."""

    @property
    def held_out(self):
        return int(self.name.removesuffix(".png")) % 5 == 0


def icons():
    """Flat discs and glossy squares of three colours, six of each, no two at the same place."""
    rows = []
    for number, example in enumerate(tiny.examples(count=36, size=SIZE)[:36]):
        colour, shape, _ = example.text.split()
        changes = {
            "text": f"{colour} {shape}",
            "style": "flat" if shape == "disc" else "glossy",
            "pixels": np.roll(example.pixels, (number // 6 - 3, number // 12), (0, 1)),
        }
        rows.append(Numbered(**{f.name: getattr(example, f.name) for f in dataclasses.fields(example)} | changes))
    return rows


@pytest.fixture(scope="module")
def examples():
    return icons()


@pytest.fixture(scope="module")
def judge(examples):
    return train_judge(examples, steps=60, batch=24)


def test_the_judge_sees_what_was_held_from_it_and_its_style(judge, examples):
    held_out = [e for e in examples if e.held_out]
    answers = quality._answers(judge, quality._real(held_out, SIZE), held_out)
    assert answers["pictures"] == len(held_out) == 8
    assert answers["R@1"] > 0.8 and answers["R@5"] == 1.0 and answers["style"] > 0.8


def test_the_judge_is_the_same_each_time_and_leaves_chance_as_it_was(judge, examples):
    torch.manual_seed(5)
    again = train_judge(examples, steps=60, batch=24)
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(1))
    assert all(torch.equal(a, b) for a, b in zip(judge.state_dict().values(), again.state_dict().values(), strict=True))


def test_only_captions_that_the_judge_knows_are_asked_of_it(examples):
    judge = Judge(["red disc"]).eval()
    pictures = quality._real(examples[:6], SIZE)
    assert quality._answers(judge, pictures, examples[:6])["pictures"] == 1
    assert quality._answers(Judge(["a fox"]).eval(), pictures, examples[:6]) == {"pictures": 0}


def bench_of(judge, examples):
    held_out = [e for e in examples if e.held_out]
    seen = [e for e in examples if not e.held_out]
    return quality.Bench(seen, held_out, judge, {"judge": judge.features}, SIZE)


def painter(monkeypatch, paint):
    """A model that draws `paint(seed)`: seeds count the captions."""
    monkeypatch.setattr(
        quality, "generate", lambda request, model: GenerateResult((Picture(paint(request.seed), request.seed),), 0.1)
    )


def test_a_model_that_draws_the_real_pictures_gets_what_they_get(judge, examples, monkeypatch):
    bench = bench_of(judge, examples)
    painter(monkeypatch, lambda seed: Image.fromarray(data.middle(bench.held_out[seed].pixels, SIZE)))
    figures = quality.measure(bench, ANY, say=lambda text: None)
    answers = figures["answers"]
    assert answers["English"] == answers["the real pictures"] and answers["Chinese"]["R@1"] == answers["English"]["R@1"]
    drawn, floor = (figures["distances"][name]["judge"] for name in ("drawn", "floor: the real pictures"))
    assert drawn["KID"] == pytest.approx(floor["KID"], abs=1e-6)
    for key, value in figures["copying"]["the real pictures"].items():
        assert figures["copying"]["drawn"][key] == pytest.approx(value, rel=1e-3)
    json.dumps(figures)
    assert "| English | 8 |" in quality.table(figures)


def test_a_share_comes_with_the_spread_that_chance_gives_it():
    found = np.random.default_rng(0).random((20_000, 256)) < 0.3
    assert quality._share(0.3, 256) == f"30% ± {found.mean(1).std():.0%}"
    assert quality._share(0.5, 1) == "50% ± 50%"


def test_a_model_that_draws_noise_is_found_out(judge, examples, monkeypatch):
    rng = np.random.default_rng(0)
    painter(monkeypatch, lambda seed: Image.fromarray(rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)))
    figures = quality.measure(bench_of(judge, examples), ANY, say=lambda text: None)
    drawn, floor = (figures["distances"][name]["judge"] for name in ("drawn", "floor: the real pictures"))
    assert drawn["KID"] > 5 * abs(floor["KID"]) and drawn["MMD"] > 5 * abs(floor["MMD"])
    assert figures["answers"]["English"]["R@1"] < 0.6 < figures["answers"]["the real pictures"]["R@1"]


def test_a_model_that_copies_is_found_out(judge, examples, monkeypatch):
    bench = bench_of(judge, examples)
    painter(monkeypatch, lambda seed: Image.fromarray(data.middle(bench.seen[0].pixels, SIZE)))
    copying = quality.measure(bench, ANY, say=lambda text: None)["copying"]
    assert copying["drawn"]["distance"] < 1e-3 < copying["the real pictures"]["distance"]
    assert copying["drawn"]["share of the second"] < 1e-3 < copying["the real pictures"]["share of the second"]


def test_every_model_of_a_home_is_measured_and_written_down(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate.catalog, "ASSETS", tmp_path / "none")
    for name, model in (("mirror", tiny.vqgan()), ("mirror.2", tiny.vqgan(1)), ("words", tiny.clip_trainer().model)):
        models.save(tmp_path / "home" / "models" / f"{name}.safetensors", model, {})
    pictures = tmp_path / "data"
    pictures.mkdir()
    for example in tiny.examples(count=40, size=SIZE):
        Image.fromarray(example.pixels).save(pictures / example.name)
    found = evaluate.evaluate_all("", pictures, tmp_path / "out", tmp_path / "home", "cpu", lambda text: None)
    assert set(found) == {"mirror", "mirror.2"}  # a text encoder has no measure
    assert json.loads((tmp_path / "out" / "quality.json").read_text()) == found
    cards = [(tmp_path / "out" / name / "card.md").read_text(encoding="utf-8") for name in found]
    assert all(card.startswith(f"# {name}\n") for card, name in zip(cards, found, strict=True))


def test_an_unknown_model_is_refused_before_anything_is_measured(tmp_path):
    with pytest.raises(BadRequest, match="typo"):
        evaluate.evaluate_all("typo", tmp_path / "no folder", tmp_path / "out", say=lambda text: None)


def test_rows_are_taken_evenly():
    assert data.evenly(list(range(127)), 64)[-1] == 125
    assert data.evenly([1, 2, 3], 8) == [1, 2, 3]
    assert data.evenly([], 8) == []
