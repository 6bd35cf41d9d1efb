"""A model that jumps, in a request: one look at each stretch, its guidance within, and what it cannot be asked."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from engines import catalog, tensors
from engines.diffusion import samplers, schedules
from engines.engine import Engine
from engines.errors import BadRequest
from engines.requests import SUITED
from engines.tasks.generate import generate
from tests import tiny
from tests.tiny import png, request


@pytest.fixture(scope="module")
def model():
    return tiny.few_steps().drawing()


def asked(**fields):
    return request(**{"steps": 4, "cfg_scale": 4.0} | fields)


def looks(model, monkeypatch):
    """The arguments of each call of the UNet, as they come."""
    seen, forward = [], type(model.unet).forward
    monkeypatch.setattr(
        type(model.unet), "forward", lambda self, x, t, **told: seen.append((x, t, told)) or forward(self, x, t, **told)
    )
    return seen


def test_each_stretch_is_looked_at_once_and_told_the_guidance(model, monkeypatch):
    seen = looks(model, monkeypatch)
    generate(asked(count=2, cfg_scale=5.5), model)
    assert [len(x) for x, _, _ in seen] == [2] * 4
    assert [round(t[0].item()) for _, t, _ in seen] == [999, 750, 500, 250]
    assert all(told["guidance"].tolist() == [5.5, 5.5] for _, _, told in seen)


def test_the_picture_is_where_the_jumps_lead(model):
    """From noise at t = 1 along straight lines, `x_t = (1 - t) x0 + t n`, written out in the frame of the flow."""
    told = model.words(["red disc"]) | {"concat": model.nothing_around(1, 64, 64)}
    told["guidance"] = torch.tensor([4.0])
    times = [0.999, 0.7495, 0.5, 0.2505, 0.0]
    x = times[0] * tensors.noise([7], (4, 16, 16))
    for t, after in pairwise(times):
        x = x + (after - t) * model.unet(x, torch.tensor([1000 * t]), **told)
    (expected,) = tensors.to_images(model.decode(x))
    (found,) = generate(asked(), model).pictures
    assert np.abs(np.asarray(expected, int) - np.asarray(found.image, int)).max() <= 1


@pytest.mark.parametrize("change", [{"cfg_scale": 7.0}, {"prompt": "blue square"}, {"seed": 8}, {"steps": 8}])
def test_what_is_asked_changes_the_picture(model, change):
    pictures = [np.asarray(generate(asked(**more), model).pictures[0].image) for more in ({}, change)]
    assert not np.array_equal(*pictures)


@pytest.mark.parametrize("ignored", [{"sampler": "heun"}, {"scheduler": "karras"}])
def test_the_path_is_its_own(model, ignored):
    pictures = [np.asarray(generate(asked(**more), model).pictures[0].image) for more in ({}, ignored)]
    assert np.array_equal(*pictures)


def test_from_a_picture_the_last_stretches_are_taken(model, monkeypatch):
    seen = looks(model, monkeypatch)
    generate(asked(image=png(tiny.picture(64, 64)), strength=0.5), model)
    assert [round(t[0].item()) for _, t, _ in seen] == [500, 250]


@pytest.mark.parametrize("change, sentence", [
    ({"steps": 3}, "draws in 4 steps; ask for 4 or more"),
    ({"cfg_scale": 8.5}, "learned guidance from 1 to 8"),
    ({"negative": "blue"}, "no negative words.*draw with “walker”"),
    ({"cfg_rescale": 0.5}, "no more settings of guidance"),
    ({"cfg_start": 0.2}, "no more settings of guidance"),
    ({"cfg_end": 0.8}, "no more settings of guidance"),
])  # fmt: skip
def test_what_it_cannot_be_asked_gets_a_sentence(model, change, sentence):
    with pytest.raises(BadRequest, match=sentence):
        generate(asked(**change), model)


def test_the_engine_loads_it_with_the_model_that_it_makes_quicker(tmp_path):
    path = tmp_path / "models" / "quick.safetensors"
    tiny.save(path, tiny.few_steps())
    engine, row = Engine(tmp_path, "cpu"), catalog.find("quick", "generate", tmp_path)
    assert (row.family, row.size, row.base["name"]) == ("few-step-diffusion", 32, "walker")
    model = engine.load(row)
    assert model.text is engine.load(catalog.find("walker", home=tmp_path)).text
    assert catalog.tokenizer(row, tmp_path).count("red disc") == model.tokenizer.count("red disc")
    result = engine.run(asked(model="quick"))
    assert result.record["request"]["model"] == "quick" and result.record["model_sha256"] == model.sha256
    path.with_name("walker.safetensors").unlink()
    with pytest.raises(BadRequest, match="“quick” draws with “walker”, which is not here"):
        Engine(tmp_path, "cpu").run(asked(model="quick"))


def test_it_suits_a_few_steps():
    assert SUITED["few-step-diffusion"]["steps"] == tiny.FEW_STEP_RECIPE.few_steps.steps


def test_the_edges_are_those_of_its_training(model, monkeypatch):
    levels = []
    monkeypatch.setattr(samplers, "sample_euler", lambda net, x, sigmas, **_: levels.append(sigmas) or x)
    generate(asked(), model)
    assert torch.equal(levels[0], tiny.few_step_trainer().edges)
    assert torch.equal(levels[0], schedules.sgm_uniform(model.noise, 4))
