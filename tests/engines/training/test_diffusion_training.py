"""Training latent diffusion: it learns, and it sees what it should."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from engines.errors import BadRequest
from engines.training.diffusion import DiffusionTrainer
from engines.training.masks import random_mask
from tests import tiny


def test_the_loss_falls(tmp_path):
    trainer = tiny.diffusion_trainer(dataclasses.replace(tiny.RECIPE, batch=16, rate=3e-3))
    losses = [trainer.step(index, 1.0)["loss"] for index in range(60)]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:5])


def test_a_run_may_start_from_a_model():
    start = tiny.latent_diffusion()
    trainer = tiny.diffusion_trainer(start=start)
    for name, value in start.state_dict().items():
        assert torch.equal(trainer.model.state_dict()[name], value), name
    assert trainer.step(0, 1.0)["loss"] > 0
    assert not torch.equal(trainer.model.unet.out[2].weight, start.unet.out[2].weight)
    assert torch.equal(trainer.model.first_stage.decoder.conv_in.weight, start.first_stage.decoder.conv_in.weight)


@pytest.mark.parametrize("start", [None, tiny.latent_diffusion()], ids=["new", "going on"])
@pytest.mark.parametrize("reader", [tiny.clip_trainer().model, tiny.token_generator()], ids=["of CLIP", "of a model"])
def test_a_run_may_begin_with_a_trained_text_encoder(start, reader):
    trainer = tiny.diffusion_trainer(start=start, reader=reader)
    for name, value in reader.text.state_dict().items():
        assert torch.equal(trainer.model.text.state_dict()[name], value), name
    assert trainer.model.config.tokenizer == reader.config.tokenizer
    before = trainer.model.text.text_model.embeddings.token_embedding.weight.clone()
    trainer.step(0, 1.0), trainer.step(1, 1.0)  # a new UNet is zero at its end, and passes nothing on at first
    assert not torch.equal(trainer.model.text.text_model.embeddings.token_embedding.weight, before)


def test_a_text_encoder_of_another_width_is_refused():
    clip = tiny.clip_trainer(dataclasses.replace(tiny.CLIP_RECIPE, text_width=32)).model
    with pytest.raises(BadRequest, match="32 wide"):
        tiny.diffusion_trainer(reader=clip)


def test_the_denoiser_trains_mostly_at_high_noise(monkeypatch):
    trainer = tiny.diffusion_trainer(dataclasses.replace(tiny.RECIPE, batch=64, time_mean=1.0, time_std=1.2))
    times = []

    def loss(rows, captions, concat, t, n):
        times.append(t)
        return trainer.model.unet.out[2].bias.sum()

    monkeypatch.setattr(trainer, "denoising_loss", loss)
    for index in range(30):
        trainer.step(index, 1.0)
    t = torch.cat(times)
    logits = ((t - 1) / 998).logit()
    assert t.min() > 0 and t.max() < 1000
    assert logits.mean().item() == pytest.approx(1.0, abs=0.1) and logits.std().item() == pytest.approx(1.2, abs=0.1)


def test_a_share_of_each_batch_has_holes():
    trainer = tiny.diffusion_trainer(dataclasses.replace(tiny.RECIPE, mask_share=0.25))
    rows, _, rng = trainer.pictures.draw(0)
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
