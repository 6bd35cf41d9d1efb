"""What the trainers of models that draw have in common."""

import dataclasses

import pytest
import torch
from safetensors.torch import load_file

from engines.checkpoints import files
from engines.errors import BadRequest, Cancelled
from engines.training import loop
from tests import tiny

TRAINERS = {
    "diffusion": (tiny.diffusion_trainer, tiny.RECIPE),
    "tokens": (tiny.token_trainer, tiny.TOKEN_RECIPE),
}


@pytest.fixture(params=TRAINERS)
def made(request):
    return TRAINERS[request.param]


def test_the_held_out_loss_is_of_the_averages_and_changes_nothing(made):
    trainer = made[0]()
    trainer.step(0, 1.0)
    weights = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    first, again = (trainer.held_out_loss(trainer.average) for _ in range(2))
    assert first == again > 0
    assert all(torch.equal(value, weights[name]) for name, value in trainer.model.state_dict().items())
    for value in trainer.average.values.values():
        value.zero_()  # of the averages alone
    assert trainer.held_out_loss(trainer.average) != first
    assert trainer.step(1, 1.0)["loss"] > 0


def test_the_held_out_loss_is_in_the_log_every_so_often(made, monkeypatch):
    trainer = made[0]()
    monkeypatch.setattr(trainer, "every_held_out", 2)
    rows = [trainer.step(index, 1.0) for index in range(4)]
    assert ["held-out loss" in row for row in rows] == [False, True, False, True]


def test_the_averages_set_out_from_the_model(made):
    trainer = made[0]()
    state = trainer.model.state_dict()
    for average in trainer.averages:
        assert all(torch.equal(value, state[name]) for name, value in average.values.items())


@pytest.mark.parametrize("better", [0, 1])
def test_the_average_that_does_better_on_held_out_pictures_is_exported(made, better, tmp_path):
    trainer = made[0]()
    assert len(trainer.averages) == 2
    for index in range(3):
        trainer.step(index, 1.0)
    losses = [trainer.held_out_loss(average) for average in trainer.averages]
    worse = trainer.averages[1 - better]
    for value in worse.values.values():
        value.zero_()
    kept = trainer.averages[better]
    assert trainer.choose() == losses[better] and trainer.average is kept
    trainer.export(tmp_path / "model.safetensors")
    written = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(value.half(), written[name]) for name, value in kept.values.items())
    assert files.read_header(tmp_path / "model.safetensors")[1]["card"]["moving average"] == kept.decay


def test_the_autoencoder_is_never_in_training(made):
    trainer = made[0]()
    trainer.step(0, 1.0)
    assert getattr(trainer.model, trainer.net).training and not trainer.model.first_stage.training


def stopped(trainer, out):
    def stop(row):
        raise Cancelled

    loop.train(trainer, out, steps=3, report=stop)


def test_a_run_is_only_continued_with_what_it_began_with(made, tmp_path):
    make, recipe = made
    stopped(make(), tmp_path)
    clip = tiny.clip_trainer(dataclasses.replace(tiny.CLIP_RECIPE, vocab_size=270)).model
    other = make()
    with torch.no_grad():
        other.first_stage.quantize.embedding.weight.neg_()
    for stranger in (make(reader=clip), other):
        with pytest.raises(BadRequest, match="began with another"):
            loop.train(stranger, tmp_path, steps=5, resume=True)
    assert loop.train(make(dataclasses.replace(recipe, rate=1e-5)), tmp_path, steps=5, resume=True) == 5
