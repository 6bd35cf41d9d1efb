"""Painting into a picture with a denoiser that has never heard of masks: what is known is kept on its way.

In the frame of the samplers `x = x0 + sigma n`. A denoiser that answers with the known latents where they
are known leads any of them along `known + sigma n` there: the known region with its noise of each level
(Lugmayr et al., 2022, eq. 8), for which no sampler has to know of it.
"""

import torch


def kept(model, known, strength, sigmas, steps):
    """A `model(x, sigma) -> denoised` that answers with `known` wherever it is not painted yet.

    `strength`, which like `known` goes with `x (B, C, h, w)`, says at each place for which share of all
    `steps` it is painted, counted from the end (differential diffusion; Levin & Fried, 2023): 1 from the
    first step on, 0 never. `sigmas` are the levels of this run, falling to 0, the last ones of `steps`.
    """
    painted = (strength * steps).round()

    def denoise(x, sigma):
        left = (sigmas < float(sigma[0]) * (1 - 1e-6)).sum().item()
        return torch.where(painted >= max(left, 1), model(x, sigma), known)

    return denoise


def resampled(sampler, jumps, length):
    """`sampler` as one that goes back after every `length` steps, `jumps` times, and tries them again.

    Going back adds the noise that the steps took away; on the second try what is painted knows what stands
    around it (resampling; Lugmayr et al., 2022, section 4.2). Its `callback` sees every step of every try.
    """

    def sample(model, x, sigmas, *, callback=None, noise_sampler=None):
        count = len(sigmas) - 1
        firsts = range(0, count, length)
        total, done = count + jumps * sum(min(length, count - first) for first in firsts), 0

        def told(step):
            nonlocal done
            done += 1
            if callback:
                callback(type(step)(done, total, step.x, step.sigma, step.denoised))

        for first in firsts:
            levels = sigmas[first : first + length + 1]
            high, low = levels[0], levels[-1]
            for go in range(jumps + 1):
                if go:
                    x = x + (high**2 - low**2).sqrt() * noise_sampler(low, high)
                x = sampler(model, x, levels, callback=told, noise_sampler=noise_sampler)
        return x

    return sample if jumps else sampler
