"""Latent diffusion's frames: latents, words, and what is told of the picture around a hole."""

import dataclasses

import pytest
import torch

from engines.diffusion.latent import HOLES, LatentDiffusion, LatentDiffusionConfig, filled
from engines.errors import BadRequest
from tests import tiny


@pytest.fixture(scope="module")
def model():
    return tiny.latent_diffusion()


def test_latents_of_the_training_pictures_have_mean_0_and_spread_1():
    trainer = tiny.diffusion_trainer()
    latents = torch.stack([row.encoded for row in trainer.pictures.rows])
    torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(4), rtol=0, atol=1e-4)
    assert latents.std().item() == pytest.approx(1, abs=1e-3)


def test_decode_takes_back_what_encode_gave(model):
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    torch.testing.assert_close(model.decode(model.encode(x)), model.first_stage(x)[0], rtol=1e-3, atol=1e-3)


def test_words_in_two_languages_and_none_are_different(model):
    words = model.words(["red disc", "红", ""])
    assert words["context"].shape == (3, 32, 24) and words["vector"].shape == (3, 24)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert (words["vector"][i] - words["vector"][j]).abs().max() > 1e-3


def test_surroundings_are_the_mask_and_the_rest_of_the_picture(model):
    pictures = torch.rand(2, 3, 32, 32) * 2 - 1
    mask = torch.zeros(2, 1, 32, 32)
    mask[:, :, 8:10, 8:16] = 1
    told = model.surroundings(pictures, mask)
    assert told.shape == (2, 5, 8, 8)
    # A latent that any repainted pixel touches is repainted.
    assert told[0, 0].nonzero().tolist() == [[2, 2], [2, 3]]
    hidden = pictures.clone()
    hidden[:, :, 8:10, 8:16] = torch.rand(2, 3, 2, 8)
    torch.testing.assert_close(model.surroundings(hidden, mask), told)


def test_what_is_repainted_is_grey_or_what_lies_around_continued(model):
    pictures = torch.full((2, 3, 32, 32), 0.4)
    pictures[1] = -0.7
    mask = torch.zeros(2, 1, 32, 32)
    mask[:, :, 8:20, 8:20] = 1
    even = model.encode(pictures)
    for hole in HOLES:
        other = LatentDiffusion(dataclasses.replace(model.config, hole=hole), model.first_stage)
        told = other.surroundings(pictures, mask)[:, 1:]
        assert torch.allclose(told, even, atol=1e-3) == (hole == "filled")  # what is even goes on so
    slope = torch.linspace(-1, 1, 32).expand(1, 3, 32, 32)
    torch.testing.assert_close(filled(slope, mask[:1] > 0), slope, atol=0.05, rtol=0)
    with pytest.raises(BadRequest, match="hole"):
        dataclasses.replace(model.config, hole="dark")


def test_nothing_around_is_a_whole_mask_over_grey(model):
    told = model.nothing_around(3, 32, 64)
    assert told.shape == (3, 5, 8, 16) and (told[:, 0] == 1).all()
    torch.testing.assert_close(told[1, 1:], model.encode(torch.zeros(1, 3, 32, 64))[0])


def test_a_config_that_fits_nothing_is_refused(model):
    with pytest.raises(BadRequest, match="prediction"):
        LatentDiffusionConfig(tiny.UNET, model.config.text, "{}", prediction="noise")
    with pytest.raises(BadRequest, match="4 numbers"):
        LatentDiffusionConfig(tiny.UNET, model.config.text, "{}", latent_mean=(0.0,))
