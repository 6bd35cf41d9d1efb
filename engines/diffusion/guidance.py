"""Classifier-free guidance (Ho & Salimans, 2022), as a wrapper that no sampler and no net knows of."""

import math

import torch


def guided(model, cond, uncond, cfg_scale, *, rescale=0.0, interval=(0.0, math.inf)):
    """A `model(x, sigma) -> denoised` that leans away from `uncond` towards `cond`.

    `cond` and `uncond` hold the model's extra arguments, tensors batched like `x`. Guidance acts
    while `low < sigma <= high` of `interval` (Kynkäänniemi et al., 2024); outside it, and for
    `cfg_scale` 1, the model is evaluated once and plainly with `cond`. `rescale` in [0, 1] brings the
    spread of each picture back to that of the unguided one (Lin et al., 2023, eq. 14-16); it acts on
    the denoised picture, so that every parameterisation of the net is treated alike.
    """
    low, high = interval

    def denoise(x, sigma):
        if cfg_scale == 1 or not low < float(sigma[0]) <= high:
            return model(x, sigma, **cond)
        both = {name: torch.cat([cond[name], uncond[name]]) for name in cond}
        positive, negative = model(torch.cat([x, x]), torch.cat([sigma, sigma]), **both).chunk(2)
        denoised = negative + cfg_scale * (positive - negative)
        if rescale:
            rescaled = denoised * (_spread(positive) / _spread(denoised))
            denoised = rescale * rescaled + (1 - rescale) * denoised
        return denoised

    return denoise


def interval_of_steps(sigmas, start, end):
    """The interval of sigmas that spans a share of the steps: from `start` to `end`, both in [0, 1].

    `sigmas (steps + 1,)` falls to 0. A step is inside by the sigma that it begins with.
    """
    steps = len(sigmas) - 1
    return float(sigmas[round(end * steps)]), float(sigmas[round(start * steps)])


def _spread(x):
    return x.std(dim=tuple(range(1, x.ndim)), keepdim=True)
