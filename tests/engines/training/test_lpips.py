"""LPIPS from a file of weights, beside the formula of its paper written another way."""

import math

import pytest
import torch
import torch.nn.functional as F

from engines.checkpoints import files
from engines.errors import BadCheckpoint
from engines.training.losses import LPIPS, VGG16

CONVS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)  # of torchvision's VGG16
LAST_OF_STAGE = (2, 7, 14, 21, 28)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    draw = torch.Generator().manual_seed(0)
    weights, before = {}, 3
    for index, width in zip(CONVS, [width for width in VGG16 if width != "M"], strict=True):
        scale = math.sqrt(2 / 9 / before)
        weights[f"features.{index}.weight"] = torch.randn(width, before, 3, 3, generator=draw) * scale
        weights[f"features.{index}.bias"] = torch.randn(width, generator=draw) * 0.1
        before = width
    for stage, width in enumerate((64, 128, 256, 512, 512)):
        weights[f"lin{stage}.model.1.weight"] = torch.rand(1, width, 1, 1, generator=draw)
    path = tmp_path_factory.mktemp("lpips") / "lpips.safetensors"
    files.save(path, weights)
    return path, weights


def by_the_paper(weights, x, y):
    """Equation 1, layer by layer in float64."""

    def maps(x):
        # ImageNet's mean and spread as scaled to [-1, 1]; the authors round them to three places.
        mean = 2 * torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1) - 1
        spread = 2 * torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
        x = (x - mean.double()) / spread.double()
        for index in CONVS:
            weight, bias = (weights[f"features.{index}.{kind}"].double() for kind in ("weight", "bias"))
            x = F.relu(F.conv2d(x, weight, bias, padding=1))
            if index in LAST_OF_STAGE:
                yield F.normalize(x, dim=1)
                x = F.max_pool2d(x, 2)

    total = 0.0
    for stage, (a, b) in enumerate(zip(maps(x.double()), maps(y.double()), strict=True)):
        total += (weights[f"lin{stage}.model.1.weight"].double() * (a - b) ** 2).sum(1).mean()
    return total.item()


def test_equals_the_formula(path):
    loss = LPIPS(path[0])
    draw = torch.Generator().manual_seed(1)
    x, y = (torch.rand(2, 3, 32, 32, generator=draw) * 2 - 1 for _ in range(2))
    assert loss(x, y).item() == pytest.approx(by_the_paper(path[1], x, y), rel=5e-3)
    assert loss(x, x).item() == 0


def test_a_file_that_does_not_fit_is_refused(path, tmp_path):
    weights = dict(path[1])
    del weights["lin3.model.1.weight"]
    files.save(tmp_path / "less.safetensors", weights)
    with pytest.raises(BadCheckpoint, match="lin3.model.1.weight is missing"):
        LPIPS(tmp_path / "less.safetensors")
