"""The upscaler: residual and picture are inverses, the mean comes first, nothing looks further than it says."""

import pytest
import torch
import torch.nn.functional as F

from engines.diffusion.upscaler import Upscaler, UpscalerConfig, enlarged
from engines.errors import BadRequest
from tests import tiny


def small(height=9, width=11, batch=2):
    return torch.rand((batch, 3, height, width), generator=torch.Generator().manual_seed(0)) * 2 - 1


def noise(shape):
    return lambda index: torch.randn(shape, generator=torch.Generator().manual_seed(index))


@pytest.mark.parametrize("scale", [2, 4])
def test_a_residual_is_what_the_bicubic_picture_lacks(scale):
    model = tiny.upscaler()
    x = small()
    large = torch.rand(2, 3, 9 * scale, 11 * scale)
    residual = model.residual(large, x, scale)
    assert residual.shape == (2, 3 * scale**2, 9, 11)
    torch.testing.assert_close(model.picture(residual, x, scale), large)
    bicubic = F.interpolate(x, scale_factor=scale, mode="bicubic")
    torch.testing.assert_close(model.picture(torch.zeros_like(residual), x, scale), bicubic)


def test_a_new_net_answers_with_the_bicubic_picture():
    x = small()
    model = Upscaler(UpscalerConfig(ch=8, blocks=2)).eval()
    with torch.no_grad():
        torch.testing.assert_close(model.sample(x, 2, noise=noise((2, 12, 9, 11))), enlarged(x, 2))


@pytest.mark.parametrize("scale", [2, 4])
def test_nothing_looks_further_than_reach(scale):
    model, x = tiny.upscaler(), small(40, 40, 1)
    place = 20
    x.requires_grad_(True)
    made = model.sample(x, scale, noise=lambda index: torch.zeros(1, 3 * scale**2, 40, 40))
    made[0, :, place * scale : (place + 1) * scale, place * scale : (place + 1) * scale].sum().backward()
    seen = (x.grad[0] != 0).any(0).nonzero()
    far = (seen - place).abs().max().item()
    assert 1 < far <= model.reach


def test_detail_is_the_share_of_what_is_found_under_noise():
    model, x = tiny.upscaler(), small()
    told, given = [], {"noise": noise((2, 12, 9, 11)), "steps": 3, "wear": 0.3}
    with torch.no_grad():
        mean = model.sample(x, 2, noise=given["noise"], wear=0.3)
        none, half, all_ = (model.sample(x, 2, **given, detail=share) for share in (0, 0.5, 1))
        model.sample(x, 2, **given, callback=told.append)
        other = model.sample(x, 2, noise=given["noise"], wear=0.9)
    torch.testing.assert_close(none, mean)
    torch.testing.assert_close(half, (mean + all_) / 2)
    assert (all_ - mean).abs().mean() > 1e-3 and (other - mean).abs().mean() > 1e-3
    assert told == [1, 2, 3]


def test_shapes_that_cannot_be_are_refused():
    with pytest.raises(BadRequest, match="even number"):
        UpscalerConfig(ch=7)
    with pytest.raises(BadRequest, match="one number for each scale"):
        UpscalerConfig(scales=(2,))
