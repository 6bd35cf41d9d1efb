"""Latents as a model draws them, for a decoder to learn from."""

from dataclasses import replace

import pytest
import torch

from engines.errors import BadRequest
from engines.training.redrawing import Redrawing
from engines.training.vqgan import VQGANRecipe, VQGANTrainer
from tests import tiny

RECIPE = VQGANRecipe(
    replace(tiny.AUTOENCODER, larger=1),
    tiny.vqgan().codebook_config,
    learns="larger",
    redrawn=0.5,
    farthest=1.0,
    size=64,
    crop=64,
    batch=2,
    discriminator_ch=8,
    discriminator_layers=1,
)
CAPTIONS = ["red disc, flat, on a white background", "blue square, flat"]


def latents():
    return torch.nn.functional.normalize(torch.randn((2, 4, 8, 8), generator=torch.Generator().manual_seed(0)), dim=1)


def redrawn(drawer, farthest=1.0, captions=CAPTIONS, guidance=2.0, seed=0):
    redrawing = Redrawing(drawer, tiny.vqgan(), guidance, farthest)
    torch.manual_seed(seed)
    return redrawing(latents(), captions)


def trainer(recipe=RECIPE, **options):
    return VQGANTrainer(recipe, tiny.examples(size=64), start=tiny.vqgan(), **options)


def test_a_drawer_that_knows_the_picture_leads_back_to_it():
    drawer = tiny.few_steps().drawing()
    known = (latents() - drawer.latent_mean) / drawer.config.latent_std
    drawer.denoiser = lambda: lambda x, sigma, **told: known
    torch.testing.assert_close(redrawn(drawer), latents(), atol=1e-5, rtol=0)


def test_it_stays_near_the_picture_as_little_of_the_way_is_gone():
    drawer = tiny.few_steps().drawing()
    near, far = ((redrawn(drawer, farthest) - latents()).abs().mean() for farthest in (0.0, 1.0))
    assert 10 * near < 0.01 < far


def test_the_drawer_heeds_words_and_guidance_and_chance():
    drawer = tiny.few_steps().drawing()
    first = redrawn(drawer)
    assert torch.equal(first, redrawn(drawer))
    for other in ({"captions": CAPTIONS[::-1]}, {"guidance": 6.0}, {"seed": 1}):
        assert not torch.equal(first, redrawn(drawer, **other)), other


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_icons_alone_are_redrawn_and_as_often_as_the_recipe_says(share):
    drawer = tiny.few_steps().drawing() if share else None
    built = trainer(replace(RECIPE, redrawn=share, photo_share=0.5), drawer=drawer)
    found = [captions for _, captions in map(built.pictures, range(60))]
    drawn = [captions for captions in found if captions]
    assert abs(len(drawn) - 60 * share) <= 4 * (60 * share * (1 - share)) ** 0.5
    assert all("flat" in caption and "background" in caption for captions in drawn for caption in captions)


def test_the_captions_are_those_of_the_pictures():
    built = trainer(drawer=tiny.few_steps().drawing())
    x, captions = next(batch for batch in map(built.pictures, range(60)) if batch[1])
    for picture, caption in zip(x, captions, strict=True):
        colour = torch.tensor(tiny.COLOURS[caption.split()[0]]) / 127.5 - 1
        torch.testing.assert_close(picture[:, 32, 32], colour, atol=1e-6, rtol=0)


def test_a_second_head_learns_from_what_is_redrawn():
    built = trainer(drawer=tiny.few_steps().drawing())
    batches = [built.pictures(index) for index in range(60)]
    built.model.eval()
    same = {True: [], False: []}
    for x, captions in batches:
        seen, exact = built._reconstructed(x, captions)[1].indices, built._reconstructed(x)[1].indices
        same[bool(captions)].append((seen == exact).double().mean().item())
    assert set(same[False]) == {1.0} and sum(same[True]) / len(same[True]) < 0.9
    before = {name: value.clone() for name, value in built.model.state_dict().items()}
    index = next(index for index, (_, captions) in enumerate(batches) if captions)
    built.step(index, 1.0)
    learned = {name for name, value in built.model.state_dict().items() if not torch.equal(value, before[name])}
    assert learned and all(name.startswith("decoder.larger.") for name in learned)


def test_a_drawer_on_other_codes_is_refused():
    drawer = tiny.few_steps().drawing()
    drawer.name = "quick"
    for other in (tiny.vqgan(seed=1), tiny.kl()):
        drawer.first_stage = other
        with pytest.raises(BadRequest, match="“quick” draws on other codes.*--drawer"):
            Redrawing(drawer, tiny.vqgan(), 2.0, 0.5)


def test_a_drawer_is_there_where_it_is_needed_and_nowhere_else():
    with pytest.raises(BadRequest, match="name one of few steps with --drawer"):
        trainer()
    with pytest.raises(BadRequest, match="no use for --drawer"):
        trainer(replace(RECIPE, redrawn=0.0), drawer=tiny.few_steps().drawing())
