"""What holds of every run on captioned pictures: it resumes to the same bits, and exports its average."""

import dataclasses

import pytest
import torch
from safetensors.torch import load_file

from engines.checkpoints import models
from engines.errors import Cancelled
from engines.training import loop
from tests import tiny

DROPPING = dataclasses.replace(tiny.TOKEN_RECIPE, dropout=0.1)  # which draws from the generator, too
COMPETING = dataclasses.replace(tiny.FEW_STEP_RECIPE, adversarial_weight=0.5)
HEEDING = dataclasses.replace(tiny.FEW_STEP_RECIPE, reward_weight=0.5)
TRAINERS = {
    "text": tiny.clip_trainer,
    "diffusion": tiny.diffusion_trainer,
    "tokens": lambda **options: tiny.token_trainer(DROPPING, **options),
    "few steps": tiny.few_step_trainer,
    "few steps against a discriminator": lambda **options: tiny.few_step_trainer(COMPETING, **options),
    "few steps for a reader": lambda **options: tiny.few_step_trainer(HEEDING, reader=tiny.reader(), **options),
}


@pytest.fixture(params=TRAINERS)
def make(request):
    return TRAINERS[request.param]


def test_a_killed_run_resumes_to_the_same_weights(make, tmp_path):
    def stop_at_two(row):
        if row.get("step") == 2:
            raise Cancelled

    # A trainer seeds the generator that its run draws from: each is made when its run begins.
    whole = make()
    assert loop.train(whole, tmp_path / "whole", steps=5) == 5
    assert loop.train(make(), tmp_path / "parts", steps=5, report=stop_at_two) == 2
    second = make()
    assert loop.train(second, tmp_path / "parts", resume=True) == 5
    for (name, a), b in zip(whole.model.state_dict().items(), second.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    for average, resumed in zip(whole.averages, second.averages, strict=True):
        for name, value in average.values.items():
            assert torch.equal(value, resumed.values[name]), name
    for ours, theirs in zip(whole.optimizers, second.optimizers, strict=True):
        moments, resumed = ours.state_dict()["state"], theirs.state_dict()["state"]
        assert moments
        for number, row in moments.items():
            assert all(torch.equal(value, resumed[number][name]) for name, value in row.items())


def test_the_exported_model_is_the_average(make, tmp_path):
    trainer = make(card={"licence": "MIT"})
    loop.train(trainer, tmp_path, steps=3)
    written = load_file(tmp_path / "model.safetensors")
    assert written.keys() == models.own_weights(trainer.model).keys()
    for name, value in trainer.average.values.items():
        assert torch.equal(written[name], value.half()), name
