"""Training an upscaler: it learns, what it sees is worn as said, and a run goes on as if it had never stopped."""

import dataclasses

import numpy as np
import pytest
import torch

from engines import metrics, tensors
from engines.checkpoints import models
from engines.diffusion.upscaler import UpscalerConfig, enlarged
from engines.errors import BadRequest, Cancelled
from engines.training import loop
from engines.training.upscaler import UpscalerRecipe, UpscalerTrainer
from engines.training.wear import reduced, worn
from tests import tiny

RECIPE = UpscalerRecipe(net=UpscalerConfig(ch=8, blocks=2), size=32, crop=8, batch=8, rate=3e-3)


def trainer(recipe=RECIPE, **options):
    return UpscalerTrainer(recipe, tiny.examples(), **options)


def test_the_loss_falls_below_that_of_the_bicubic_picture():
    made = trainer(dataclasses.replace(RECIPE, photo_share=0.0, clean_share=1.0))  # those photographs are noise
    losses = [made.step(index, 1.0)["of the mean"] for index in range(120)]
    assert np.mean(losses[-20:]) < 0.8 * np.mean(losses[:6])


def test_a_batch_comes_from_its_number_alone_and_scales_take_turns():
    one, other = trainer(), trainer()
    for index, scale in ((0, 2), (1, 4), (2, 2)):
        large, small, wear, found = one.pictures(index)
        assert found == scale and small.shape == (8, 3, 8, 8) and large.shape == (8, 3, 8 * scale, 8 * scale)
        assert all(torch.equal(a, b) for a, b in zip((large, small, wear), other.pictures(index)[:3], strict=True))
        assert ((wear == 0) | (wear > 0.04)).all() and wear.max() <= 1
    assert not torch.equal(one.pictures(0)[0], one.pictures(2)[0])


def test_residuals_have_the_spread_that_the_model_is_told():
    made = trainer()
    found = {2: [], 4: []}
    for index in range(200, 260):
        large, small, _, scale = made.pictures(index)
        found[scale].append(made.model.residual(large, small, scale).square().mean())
    for errors in found.values():
        assert torch.stack(errors).mean().item() == pytest.approx(1, abs=0.4)


def test_more_wear_is_further_from_the_clean_picture():
    pixels = np.asarray(tensors.to_images(enlarged(torch.rand(1, 3, 12, 12) * 2 - 1, 8))[0])
    clean, ladder = tensors.from_bytes(torch.from_numpy(reduced(pixels, 2, np.random.default_rng(0))[None])), []
    for wear in (0.0, 0.2, 0.5, 1.0):
        apart = []
        for seed in range(40):
            small = worn(pixels, 2, wear, np.random.default_rng(seed))
            assert small.shape == (48, 48, 3) and small.dtype == np.uint8
            apart.append(metrics.psnr(clean, tensors.from_bytes(torch.from_numpy(np.array(small)[None]))))
        ladder.append(np.mean(np.minimum(apart, 60)))
    assert ladder == sorted(ladder, reverse=True) and ladder[0] > ladder[-1] + 6


def test_a_run_may_go_on_from_a_model_and_its_file_opens(tmp_path):
    start = tiny.upscaler()
    made = trainer(start=start)
    for name, value in start.state_dict().items():
        assert torch.equal(made.model.state_dict()[name], value), name
    made.step(0, 1.0)
    made.export(tmp_path / "model.safetensors")
    again = models.load(tmp_path / "model.safetensors")
    assert again.config == start.config and again.family == "upscaler"


def test_a_killed_run_resumes_to_the_same_weights(tmp_path):
    loop.train(trainer(), tmp_path / "whole", steps=12, warmup=3)

    def stop(row):
        if row["step"] == 5:
            raise Cancelled

    loop.train(trainer(), tmp_path / "killed", steps=12, warmup=3, report=stop)
    loop.train(trainer(), tmp_path / "killed", resume=True, warmup=3)
    one, other = (models.load(tmp_path / name / "model.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def test_a_folder_that_is_all_held_out_is_refused():
    held_out = [example for example in tiny.examples() if example.held_out]
    with pytest.raises(BadRequest, match="held out"):
        UpscalerTrainer(RECIPE, held_out)


def test_batches_may_be_of_any_size():
    assert trainer(dataclasses.replace(RECIPE, batch=600)).model.config.residual_std[0] > 0
