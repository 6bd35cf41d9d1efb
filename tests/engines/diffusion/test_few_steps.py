"""Latent diffusion in few steps: what is added to a model, and what the sum of them is told."""

import pytest
import torch
from diffusers import LatentConsistencyModelPipeline

from engines.diffusion.few_steps import FewStepConfig
from engines.diffusion.unet import UNet, UNetConfig, guidance_embedding
from engines.errors import BadRequest
from tests import tiny

SCALES = torch.tensor([1.0, 2.5, 7.5])


def test_the_guidance_scale_is_told_as_latent_consistency_models_are():
    theirs = LatentConsistencyModelPipeline.get_guidance_scale_embedding(None, SCALES - 1, embedding_dim=32)
    torch.testing.assert_close(guidance_embedding(SCALES, 32), theirs, rtol=0, atol=1e-3)  # sines of thousands


@pytest.mark.parametrize("guidance_dim, told", [(8, None), (0, SCALES)])
def test_guidance_is_told_where_it_is_expected_alone(guidance_dim, told):
    unet = UNet(UNetConfig(ch=8, ch_mult=(1,), attention_levels=(), norm_groups=8, guidance_dim=guidance_dim))
    with pytest.raises(BadRequest, match="guidance_dim is"):
        unet(torch.zeros(3, 9, 4, 4), torch.zeros(3), torch.zeros(3, 1, 768), guidance=told)


def test_at_first_nothing_is_added():
    begun = tiny.few_step_trainer().model
    base, model = begun.base, begun.drawing()
    x, sigma = torch.randn(2, 4, 8, 8), torch.tensor([0.5, 3.0])
    told = model.words(["red disc", ""]) | {"concat": model.nothing_around(2, 32, 32)}
    found = model.denoiser()(x, sigma, guidance=torch.tensor([1.0, 5.0]), **told)
    assert torch.equal(found, base.denoiser()(x, sigma, **told))


def test_narrow_matrices_are_added_to_every_layer():
    quicker = tiny.few_steps()
    weights, before = quicker.weights(), quicker.base.unet.state_dict()
    changed = {name for name, value in before.items() if not torch.equal(weights[name], value)}
    assert changed == {name for name, value in before.items() if name.endswith(".weight") and value.ndim > 1}
    for name in changed:
        added = (weights[name] - before[name]).flatten(1)
        assert torch.linalg.matrix_rank(added, rtol=1e-3) <= quicker.config.rank, name
    assert quicker.base.unet.state_dict().keys() == before.keys()  # it stays as it was
    assert all(torch.equal(value, before[name]) for name, value in quicker.base.unet.state_dict().items())


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"rank": 0}, {"scales": (0.5, 4.0)}, {"scales": (4.0, 2.0)}])
def test_what_cannot_be_is_refused(wrong):
    with pytest.raises(BadRequest, match="of few steps"):
        FewStepConfig(**wrong)
