"""Training latent diffusion: it learns, and it sees what it should."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from engines.errors import BadRequest
from engines.masks import bounds
from engines.training.diffusion import DiffusionTrainer
from engines.training.masks import KINDS, random_mask
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


def test_a_run_has_the_dropout_of_its_recipe_whatever_it_starts_from():
    start = tiny.latent_diffusion()
    for dropout in (0.0, 0.5):
        unet = dataclasses.replace(tiny.UNET, dropout=dropout)
        trainer = tiny.diffusion_trainer(dataclasses.replace(tiny.RECIPE, unet=unet), start=start)
        rows, captions, _ = trainer.pictures.draw(0)
        same = len({trainer.denoising_loss(rows, captions, trainer.blank.expand(len(rows), -1, -1, -1),
                                           torch.full((len(rows),), 900.0), torch.ones(len(rows), 4, 8, 8)).item()
                    for _ in range(2)}) == 1  # fmt: skip
        assert same == (dropout == 0)
        assert trainer.model.config.unet.dropout == dropout


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
    recipe = dataclasses.replace(tiny.RECIPE, batch=96, mask_share=1 / 3, time_mean=1.0, masked_time_mean=-0.5)
    trainer = tiny.diffusion_trainer(recipe)
    times = []

    def loss(rows, captions, concat, t, n):
        times.append(t)
        return trainer.model.unet.out[2].bias.sum()

    monkeypatch.setattr(trainer, "denoising_loss", loss)
    for index in range(30):
        trainer.step(index, 1.0)
    t = torch.stack(times)
    assert t.min() > 0 and t.max() < 1000
    logits = ((t - 1) / 998).logit()
    for rows, mean in ((logits[:, :64], 1.0), (logits[:, 64:], -0.5)):  # whole pictures, and those with holes
        assert rows.mean().item() == pytest.approx(mean, abs=0.1) and rows.std().item() == pytest.approx(1.2, abs=0.1)


def test_a_share_of_each_batch_has_holes():
    trainer = tiny.diffusion_trainer(dataclasses.replace(tiny.RECIPE, mask_share=0.25))
    rows, _, rng = trainer.pictures.draw(0)
    told = trainer.surroundings(rows, rng)
    assert [bool((mask == 1).all()) for mask in told[:, 0]] == [True, True, True, False]


def test_what_is_to_be_painted_counts_and_what_is_known_a_little():
    trainer = tiny.diffusion_trainer(dataclasses.replace(tiny.RECIPE, known_weight=0.25))
    rows, captions, _ = trainer.pictures.draw(0)
    rows, captions = rows[:1], captions[:1]
    n = torch.randn(1, *rows[0].encoded.shape)
    hole = torch.zeros(1, 1, *n.shape[2:])
    hole[..., :2] = 1
    concat = torch.cat([hole, torch.zeros_like(n)], dim=1)
    t = torch.tensor([500.0])
    trainer.model.unet.out[2].weight.data.zero_()  # the net answers nothing: the error is the target
    sigma = trainer.model.noise.sigma(t)
    error = trainer.denoiser.target(rows[0].encoded[None], n, sigma).square()
    inside, beside = error[..., :2].sum(), error[..., 2:].sum()
    weights = n[..., :2].numel() + 0.25 * n[..., 2:].numel()
    loss = trainer.denoising_loss(rows, captions, concat, t, n)
    assert loss.item() == pytest.approx(((inside + 0.25 * beside) / weights).item(), rel=1e-5)


@pytest.mark.parametrize("side", [32, 128])
def test_masks_hide_something_and_are_many(side):
    shares = {}
    for kind in KINDS:
        masks = [random_mask(side, np.random.default_rng(seed), (kind,)) for seed in range(40)]
        assert all(mask.shape == (side, side) and set(np.unique(mask)) <= {0.0, 1.0} for mask in masks)
        assert all(not np.array_equal(a, b) for a, b in itertools.pairwise(masks))
        shares[kind] = np.mean([mask.mean() for mask in masks])
    assert 0.01 < shares["scratches"] < 0.12 and 0.05 < shares["strokes"] < shares["blocks"] < shares["borders"] < 0.5


def test_a_mask_of_borders_leaves_a_window():
    for seed in range(40):
        mask = random_mask(64, np.random.default_rng(seed), ("borders",))
        left, top, right, bottom = bounds(1 - mask)
        assert not mask[top:bottom, left:right].any()
        edges = left > 0, top > 0, right < 64, bottom < 64
        assert 1 <= sum(edges) <= 3


def test_a_folder_that_is_all_held_out_is_refused():
    held_out = [example for example in tiny.examples() if example.held_out]
    with pytest.raises(BadRequest, match="held out"):
        DiffusionTrainer(tiny.RECIPE, held_out, tiny.vqgan())
