"""Classifier-free guidance (Ho & Salimans, 2022), as a wrapper that no sampler and no net knows of."""

import math

import torch

from engines import tensors


def guided(model, cond, uncond, cfg_scale, *, rescale=0.0, interval=(0.0, math.inf)):
    """A `model(x, sigma) -> denoised` that leans away from `uncond` towards `cond`.

    `cond` and `uncond` hold the model's extra arguments, tensors batched like `x`. For several prompts at
    once, `cond` is a list of `(cond, weight)`, whose directions away from `uncond` are added (Liu et al.,
    2022, eq. 11). Guidance acts while `low < sigma <= high` of `interval` (Kynkäänniemi et al., 2024);
    outside it, and for `cfg_scale` 1, the model is evaluated once and plainly with `cond`. `rescale` in [0,
    1] brings the spread of each picture back to that of the unguided one (Lin et al., 2023, eq. 14-16); it
    acts on the denoised picture, so that every parameterisation of the net is treated alike.
    """
    low, high = interval
    conds = cond if isinstance(cond, list) else [(cond, 1.0)]
    alone = conds[0][0] if len(conds) == 1 and conds[0][1] == 1 else None

    def denoise(x, sigma):
        acts = cfg_scale != 1 and low < float(sigma[0]) <= high
        if alone is not None and not acts:
            return model(x, sigma, **alone)
        told = tensors.batched(conds, uncond)
        times = len(conds) + 1
        positive, negative = tensors.added(model(torch.cat([x] * times), torch.cat([sigma] * times), **told), conds)
        if not acts:
            return positive
        denoised = negative + cfg_scale * (positive - negative)
        if rescale:
            rescaled = denoised * (_spread(positive) / _spread(denoised))
            denoised = rescale * rescaled + (1 - rescale) * denoised
        return denoised

    return denoise


def by_stages(models, sigmas):
    """A `model(x, sigma)` that is another from some share of the steps on; `models` are `(share, model)`, from 0 on.

    `sigmas (steps + 1,)` falls to 0. A model begins with the step whose sigma it first sees.
    """
    steps = len(sigmas) - 1
    begins = [(float(sigmas[round(share * steps)]), model) for share, model in models]

    def denoise(x, sigma):
        return [model for begin, model in begins if float(sigma[0]) <= begin or model is begins[0][1]][-1](x, sigma)

    return denoise


def interval_of_steps(sigmas, start, end):
    """The interval of sigmas that spans a share of the steps: from `start` to `end`, both in [0, 1].

    `sigmas (steps + 1,)` falls to 0. A step is inside by the sigma that it begins with.
    """
    steps = len(sigmas) - 1
    return float(sigmas[round(end * steps)]), float(sigmas[round(start * steps)])


def _spread(x):
    return x.std(dim=tuple(range(1, x.ndim)), keepdim=True)
