import math

import pytest
import torch
from torchmetrics.image.kid import KernelInceptionDistance

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


def features(seed, count=300, shift=0.0, width=6):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)) + shift


@pytest.mark.filterwarnings("ignore:Metric `Kernel")
def test_kid_equals_that_of_torchmetrics():
    class Given(torch.nn.Module):
        """Features as they are, behind torchmetrics' interface for pictures."""

        num_features = 6

        def forward(self, pictures):
            return pictures[:, :6, 0, 0].float()

    peer = KernelInceptionDistance(feature=Given(), subsets=1, subset_size=300)
    x, y = features(0), features(1, shift=0.4)
    for real, rows in ((True, y), (False, x)):
        peer.update(rows[:, :, None, None], real=real)
    assert metrics.kid(x, y) == pytest.approx(peer.compute()[0].item(), rel=1e-4)


@pytest.mark.parametrize("distance", [metrics.kid, metrics.mmd])
def test_distances_of_sets_are_nothing_within_one_source_and_grow_with_the_shift(distance):
    same = [distance(features(seed), features(seed + 1)) for seed in range(0, 40, 2)]
    assert abs(sum(same) / 20) < 0.3 * max(map(abs, same))  # unbiased: they fall on both sides of nothing
    ladder = [distance(features(0, shift=shift), features(1)) for shift in (0.0, 0.2, 0.4, 0.8)]
    assert ladder == sorted(ladder) and ladder[1] > max(same)


def test_mmd_of_two_points_by_hand():
    """x = {4, 4}, y = {0, 2}: the median squared distance in y is 4; kernels 1, 1/e, and between exp(-4), exp(-1)."""
    x, y = torch.full((2, 1), 4.0), torch.tensor([[0.0], [2.0]])
    expected = 1 + math.exp(-1) - 2 * (math.exp(-4) + math.exp(-1)) / 2
    assert metrics.mmd(x, y) == pytest.approx(expected)


def test_precision_and_recall_of_sets_whose_answer_is_known():
    real = torch.arange(20.0)[:, None]
    assert metrics.precision_and_recall(real, real) == (1.0, 1.0)
    assert metrics.precision_and_recall(real + 1000, real) == (0.0, 0.0)
    near, far = real[:10] + 0.1, real[10:] + 1000
    assert metrics.precision_and_recall(torch.cat([near, far]), real)[0] == 0.5
    precision, recall = metrics.precision_and_recall(torch.full((20, 1), 5.0), real)  # one picture again and again
    assert precision == 1.0 and recall == 0.05


def test_found_counts_the_answers_among_the_best():
    scores = torch.tensor([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [2.0, 3.0, 1.0]])
    answers = torch.tensor([0, 0, 0])
    assert [metrics.found(scores, answers, k) for k in (1, 2, 3)] == pytest.approx([1 / 3, 2 / 3, 1])
