"""DiffAugment (Zhao et al., 2020): the discriminator sees real and made pictures through one lens."""

import torch
import torch.nn.functional as F


def diff_augment(x):
    """Random brightness, saturation, contrast, shift and cutout of `(B, 3, H, W)`, differentiable in `x`."""
    return _cutout(_shift(_colour(x)))


def _uniform(x, low, high):
    return torch.rand(x.shape[0], 1, 1, 1, device=x.device) * (high - low) + low


def _colour(x):
    x = x + _uniform(x, -0.5, 0.5)
    grey = x.mean(1, keepdim=True)
    x = grey + (x - grey) * _uniform(x, 0, 2)
    mean = x.mean((1, 2, 3), keepdim=True)
    return mean + (x - mean) * _uniform(x, 0.5, 1.5)


def _shift(x, share=0.125):
    reach = int(x.shape[-1] * share)
    padded = F.pad(x, (reach,) * 4)
    corners = torch.randint(0, 2 * reach + 1, (x.shape[0], 2)).tolist()
    height, width = x.shape[-2:]
    return torch.stack(
        [row[:, top : top + height, left : left + width] for row, (top, left) in zip(padded, corners, strict=True)]
    )


def _cutout(x, share=0.5):
    height, width = x.shape[-2:]
    hole_height, hole_width = int(height * share), int(width * share)
    keep = torch.ones(x.shape[0], 1, height, width, device=x.device)
    for row in keep:
        top = int(torch.randint(0, height - hole_height + 1, ()))
        left = int(torch.randint(0, width - hole_width + 1, ()))
        row[:, top : top + hole_height, left : left + hole_width] = 0
    return x * keep
