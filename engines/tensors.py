"""Pictures, masks and noise as tensors: the only place that knows how bytes become floats."""

import numpy as np
import torch
from PIL import Image


def from_image(image):
    """An RGB PIL picture as a `(1, 3, H, W)` float32 tensor in [-1, 1]."""
    array = np.asarray(image.convert("RGB"), dtype=np.float32)
    return torch.from_numpy(array).permute(2, 0, 1).unsqueeze(0) / 127.5 - 1


def to_images(x):
    """A `(B, 3, H, W)` tensor in [-1, 1] as a list of RGB PIL pictures; values outside are clipped."""
    array = ((x.detach().float().cpu().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return [Image.fromarray(picture.permute(1, 2, 0).numpy()) for picture in array]


def from_bytes(array):
    """uint8 `(B, H, W, 3)` as float32 `(B, 3, H, W)` in [-1, 1]."""
    return array.permute(0, 3, 1, 2).float() / 127.5 - 1


def generator(seed):
    """A CPU generator for one picture; the same on every device."""
    return torch.Generator("cpu").manual_seed(seed)


def noise(seeds, shape):
    """Standard normal noise `(len(seeds), *shape)`, each row from its own seed alone."""
    return torch.stack([torch.randn(shape, generator=generator(seed)) for seed in seeds])


def slerp(a, b, share):
    """Spherical interpolation of two noises `(B, ...)`, each picture along its own great circle.

    `share` 0 gives `a` and 1 gives `b`; the norm of Gaussian noise is kept on the way, which a
    straight line would shrink (Shoemake, 1985).
    """
    flat_a, flat_b = a.flatten(1), b.flatten(1)
    cosine = torch.nn.functional.cosine_similarity(flat_a, flat_b, dim=1).clamp(-1, 1)
    angle = torch.acos(cosine).clamp(min=1e-6)
    weight_a = torch.sin((1 - share) * angle) / torch.sin(angle)
    weight_b = torch.sin(share * angle) / torch.sin(angle)
    shape = (-1,) + (1,) * (a.ndim - 1)
    return weight_a.view(shape) * a + weight_b.view(shape) * b


def pad_to_multiple(x, multiple):
    """`x` with its right and bottom edges repeated until both sides divide by `multiple`."""
    height, width = x.shape[-2:]
    pad = (-width % multiple, -height % multiple)
    return torch.nn.functional.pad(x, (0, pad[0], 0, pad[1]), mode="replicate")


def row_by_row(function):
    """`function` on one row of its tensors at a time, for when memory is short; the results are joined again.

    All tensors that it is given must have as many rows as the first.
    """

    def each(first, *others, **named):
        rows = [
            function(first[i : i + 1], *(x[i : i + 1] for x in others), **{k: x[i : i + 1] for k, x in named.items()})
            for i in range(len(first))
        ]
        return torch.cat(rows)

    return each


def batched(conds, uncond):
    """The extra arguments of all `conds`, a list of `(cond, weight)`, and then of `uncond`, as one batch."""
    return {name: torch.cat([*(cond[name] for cond, _ in conds), uncond[name]]) for name in uncond}


def added(outputs, conds):
    """What a model says to all of `conds` together, and to none, of its `outputs` for the batch of them."""
    *each, negative = outputs.chunk(len(conds) + 1)
    if len(conds) == 1 and conds[0][1] == 1:
        return each[0], negative
    return negative + sum(weight * (said - negative) for said, (_, weight) in zip(each, conds, strict=True)), negative
