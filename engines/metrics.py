"""What comparison and evaluation measure."""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import nn
from torchmetrics.functional.image import structural_similarity_index_measure


def psnr(x, y):
    """Peak signal-to-noise ratio in dB of pictures `(B, 3, H, W)` in [-1, 1], over all of them; inf for equal ones."""
    return decibels((x - y).square().mean().item())


def decibels(error):
    """The peak signal-to-noise ratio in dB that a mean squared error in [-1, 1] is; inf for none."""
    return 10 * math.log10(4 / error) if error else math.inf


def ssim(x, y, where=None):
    """Mean structural similarity (Wang et al., 2004) of pictures `(B, 3, H, W)` in [-1, 1], each side at least 11.

    With a mask `where (B, 1, H, W)` bool only the windows count whose middle is in it.
    """
    if where is None:
        return structural_similarity_index_measure(y, x, data_range=2.0).item()
    _, each = structural_similarity_index_measure(y, x, data_range=2.0, return_full_image=True)
    return each[where.expand_as(each)].mean().item()


class RandomPerceptual(nn.Module):
    """Distance of two pictures on the features of a fixed random convolutional network.

    No weights are needed: a network with random weights already compares structure rather than
    pixels (arXiv 2103.10571). Features are normalised over channels as in LPIPS (Zhang et al., 2018).
    `(B, 3, H, W)` twice to a scalar, the mean over all places or, with a mask `where (B, 1, H, W)` bool, over
    those in it. The same `seed` gives the same network everywhere.
    """

    def __init__(self, widths=(32, 64, 128), seed=0):
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.stages = nn.ModuleList()
        for before, after in itertools.pairwise((3, *widths)):
            stage = nn.Conv2d(before, after, 5, stride=2, padding=2)
            with torch.no_grad():
                stage.weight.normal_(0, math.sqrt(2 / (25 * before)), generator=draw)
                stage.bias.zero_()
            self.stages.append(stage)
        self.requires_grad_(False)

    def features(self, x):
        maps = []
        for stage in self.stages:
            x = F.relu(stage(x))
            maps.append(x)
        return maps

    def forward(self, x, y, where=None):
        distance = 0.0
        for a, b in zip(self.features(x), self.features(y), strict=True):
            each = (F.normalize(a.float(), dim=1) - F.normalize(b.float(), dim=1)).square().sum(1, keepdim=True)
            if where is not None:
                # as much of a place as is in the mask
                share = F.adaptive_avg_pool2d(where.to(each), each.shape[-2:])
                each = each * share / share.mean()
            distance = distance + each.mean()
        return distance / len(self.stages)


def kid(x, y):
    """Kernel distance of two sets of features `(N, D)` and `(M, D)`: unbiased, so 0 is the mean for equal sources.

    The squared maximum mean discrepancy under the cubic kernel (Bińkowski et al., 2018, section 4). On
    features of other networks than Inception's it is comparable only within those features.
    """
    return _mmd(x, y, lambda a, b: (a @ b.T / a.shape[1] + 1) ** 3)


def mmd(x, y):
    """The same under the kernel exp(-d^2 / m), `m` the median squared distance in `y` (Gretton et al., 2012, eq. 3)."""
    distances = torch.cdist(y.double(), y.double()).square()
    width = distances[~torch.eye(len(y), dtype=torch.bool)].median()
    return _mmd(x, y, lambda a, b: torch.exp(-torch.cdist(a, b).square() / width))


def _mmd(x, y, kernel):
    x, y = x.double(), y.double()
    within = [(kernel(a, a).sum() - kernel(a, a).diagonal().sum()) / (len(a) * (len(a) - 1)) for a in (x, y)]
    return (within[0] + within[1] - 2 * kernel(x, y).mean()).item()


def precision_and_recall(made, real, k=3):
    """Shares of `made (N, D)` within the support of `real (M, D)`, and of `real` within that of `made`.

    A set's support is the balls around its points that reach their `k`-th neighbours (Kynkäänniemi et
    al., 2019, eq. 1 and 2).
    """
    return _covered(made, real, k), _covered(real, made, k)


def _covered(points, support, k):
    reach = torch.cdist(support, support).topk(k + 1, largest=False).values[:, -1]  # the nearest is itself
    return (torch.cdist(points, support) <= reach).any(1).double().mean().item()


def found(scores, answers, k=1):
    """Share of rows of `scores (N, C)` whose answer, an index in `answers (N,)`, is among the `k` highest."""
    return (scores.topk(min(k, scores.shape[1]), dim=1).indices == answers[:, None]).any(1).double().mean().item()
