"""Training latent diffusion: it learns, it resumes, and it sees what it should."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from engines.checkpoints import models
from engines.errors import BadRequest, Cancelled
from engines.text.captions import BACKGROUNDS
from engines.training import loop
from engines.training.diffusion import DiffusionTrainer
from engines.training.masks import random_mask
from tests import tiny


def test_the_loss_falls(tmp_path):
    trainer = tiny.diffusion_trainer(dataclasses.replace(tiny.RECIPE, batch=16, rate=3e-3))
    losses = [trainer.step(index, 1.0)["loss"] for index in range(60)]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:5])


def test_a_killed_run_resumes_to_the_same_weights(tmp_path):
    def stop_at_two(row):
        if row.get("step") == 2:
            raise Cancelled

    # A trainer seeds the generator that its run draws from: each is made when its run begins.
    whole = tiny.diffusion_trainer()
    assert loop.train(whole, tmp_path / "whole", steps=5) == 5
    assert loop.train(tiny.diffusion_trainer(), tmp_path / "parts", steps=5, report=stop_at_two) == 2
    second = tiny.diffusion_trainer()
    assert loop.train(second, tmp_path / "parts", resume=True) == 5
    for (name, a), b in zip(whole.model.state_dict().items(), second.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    for name, value in whole.average.values.items():
        assert torch.equal(value, second.average.values[name]), name
    moments, resumed = (trainer.optimizer.state_dict()["state"] for trainer in (whole, second))
    for number, row in moments.items():
        assert all(torch.equal(value, resumed[number][name]) for name, value in row.items())


def test_the_exported_model_is_the_average(tmp_path):
    trainer = tiny.diffusion_trainer(card={"licence": "MIT"})
    loop.train(trainer, tmp_path, steps=3)
    model = models.load(tmp_path / "model.safetensors")
    for name, value in trainer.average.values.items():
        assert torch.equal(model.state_dict()[name], value.half().float())


def test_a_run_may_start_from_a_model():
    start = tiny.latent_diffusion()
    for part in (start.unet, start.text):
        part.requires_grad_(True)
    before = start.unet.out[2].weight.clone()
    frozen = start.first_stage.decoder.conv_in.weight.clone()
    trainer = tiny.diffusion_trainer(start=start)
    assert trainer.step(0, 1.0)["loss"] > 0
    assert not torch.equal(trainer.model.unet.out[2].weight, before)
    assert torch.equal(trainer.model.first_stage.decoder.conv_in.weight, frozen)


def test_held_out_pictures_are_not_learned():
    trainer = tiny.diffusion_trainer()
    seen = {row.example.name for row in trainer.pictures}
    kept = {example.name for example in tiny.examples() if example.held_out}
    assert kept and not seen & kept
    assert {row.example.name for row in trainer.held_out} <= kept


def test_icons_stand_on_white_and_on_a_colour_that_the_caption_names():
    trainer = tiny.diffusion_trainer()
    rng = np.random.default_rng(0)
    for row in trainer.pictures:
        if row.is_icon:
            assert tuple(row.pixels[0, 0]) == BACKGROUNDS[row.background]
    white, coloured = (row for row in trainer.pictures[:2])
    assert white.background == "white" != coloured.background
    captions = [trainer.caption(coloured, rng) for _ in range(200)]
    named = [caption for caption in captions if "background" in caption or "背景" in caption]
    assert len(named) > 180
    chinese = sum("号" in caption for caption in captions)
    assert 40 < chinese < 100  # about chinese_share of them
    assert any("disc" in caption and coloured.example.text not in caption for caption in captions) or (
        any(caption.startswith("square") for caption in captions)
    )


def test_a_step_draws_from_its_number_alone():
    a, b = tiny.diffusion_trainer(), tiny.diffusion_trainer()
    assert a.draw(7)[1] == b.draw(7)[1] != a.draw(8)[1]


def test_a_share_of_each_batch_has_holes():
    trainer = tiny.diffusion_trainer(dataclasses.replace(tiny.RECIPE, mask_share=0.25))
    rows, _, rng = trainer.draw(0)
    told = trainer.surroundings(rows, rng)
    assert [bool((mask == 1).all()) for mask in told[:, 0]] == [True, True, True, False]


@pytest.mark.parametrize("side", [32, 128])
def test_masks_hide_something_and_are_many(side):
    masks = [random_mask(side, np.random.default_rng(seed)) for seed in range(40)]
    assert all(mask.shape == (side, side) and set(np.unique(mask)) <= {0.0, 1.0} for mask in masks)
    shares = [mask.mean() for mask in masks]
    assert min(shares) > 0 and 0.1 < np.mean(shares) < 0.7
    assert all(not np.array_equal(a, b) for a, b in itertools.pairwise(masks))


def test_a_folder_that_is_all_held_out_is_refused():
    held_out = [example for example in tiny.examples() if example.held_out]
    with pytest.raises(BadRequest, match="held out"):
        DiffusionTrainer(tiny.RECIPE, held_out, tiny.vqgan())
