"""What comparison and evaluation measure."""

import math

import torch
from torchmetrics.functional.image import structural_similarity_index_measure


def psnr(x, y):
    """Peak signal-to-noise ratio in dB of pictures `(B, 3, H, W)` in [-1, 1], over all of them; inf for equal ones."""
    error = (x - y).square().mean().item()
    return 10 * math.log10(4 / error) if error else math.inf


def ssim(x, y):
    """Mean structural similarity (Wang et al., 2004) of pictures `(B, 3, H, W)` in [-1, 1], each side at least 11."""
    return structural_similarity_index_measure(y, x, data_range=2.0).item()



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
