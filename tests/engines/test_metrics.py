import math

import pytest
import torch

from engines import metrics


def test_psnr_is_the_formula():
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    y = (x + 0.1).clamp(-1, 1)
    assert metrics.psnr(x, y) == pytest.approx(-10 * math.log10(((x - y) / 2).square().mean().item()), rel=1e-5)
    assert metrics.psnr(x, x) == math.inf


def test_psnr_and_ssim_fall_with_noise():
    draw = torch.Generator().manual_seed(0)
    x = torch.nn.functional.interpolate(torch.rand(1, 3, 8, 8, generator=draw) * 2 - 1, size=64, mode="bilinear")
    noise = torch.randn(x.shape, generator=draw)
    ladder = [x + share * noise for share in (0.0, 0.05, 0.2, 0.8)]
    ssim = [metrics.ssim(x, y) for y in ladder]
    assert ssim[0] == pytest.approx(1, abs=1e-4)
    assert ssim == sorted(ssim, reverse=True) and len(set(ssim)) == 4
    psnr = [metrics.psnr(x, y) for y in ladder]
    assert psnr == sorted(psnr, reverse=True)
