"""Samplers: from noise to a picture along a falling schedule of sigmas.

Every sampler is a free function

    sample_x(model, x, sigmas, *, callback=None, noise_sampler=None, ...) -> x

`model(x, sigma) -> denoised` with `sigma (B,)`; `x (B, ...)` starts as `x0 + sigmas[0] * n`; `sigmas
(steps + 1,)` falls to exactly 0. `callback(Step)` is called at the end of each step and may raise
`Cancelled`. `noise_sampler(sigma, sigma_next)` gives standard normal noise like `x`; only the
samplers that draw fresh noise call it. Raises `AtelierError` when the numbers leave the finite.

In the variance-exploding frame the deterministic samplers solve

    dx / dsigma = (x - denoised) / sigma                (Karras et al., 2022, eq. 1 and 3)

and the noisy ones the reverse diffusion with the same marginals. In `lambda = -log sigma` the solvers
of the DPM-Solver family keep the form of their papers with alpha = 1.
"""

import functools
import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from engines import errors, tensors


@dataclass(frozen=True)
class Step:
    """Step `index` of `count` is done, counted from 1.

    It began with `x (B, ...)` at noise level `sigma`, and the model saw `denoised (B, ...)` in it.
    """

    index: int
    count: int
    x: torch.Tensor
    sigma: float
    denoised: torch.Tensor


def noise_sampler_from_seeds(seeds, shape, device="cpu"):
    """Fresh noise `(len(seeds), *shape)` for each step, picture i from its own seed's generator alone.

    Each generator goes on where `tensors.noise(seeds, shape)` ended: drawn from the start, the first
    step's noise would be the starting noise once more.
    """
    generators = [tensors.generator(seed) for seed in seeds]

    def draw():
        return torch.stack([torch.randn(shape, generator=generator) for generator in generators])

    draw()
    return lambda sigma, sigma_next: draw().to(device)


def _sampler(steps):
    # The sampler around a generator that yields `(x, denoised)` after each of its steps.

    @functools.wraps(steps)
    @torch.no_grad()
    def sample(model, x, sigmas, *, callback=None, noise_sampler=None, **options):
        levels = sigmas.tolist()
        count = len(levels) - 1

        def denoise(x, sigma):
            return model(x, x.new_full((len(x),), sigma))

        walk = steps(denoise, x, levels, noise_sampler or _no_noise, **options)
        for index, (x_next, denoised) in enumerate(walk, start=1):
            if not torch.isfinite(x_next).all():
                raise errors.AtelierError(
                    f"The numbers overflowed in step {index} of {count} and no picture can come of it; "
                    "lower the guidance, choose another sampler, or run the model in float32."
                )
            if callback is not None:
                callback(Step(index, count, x, levels[index - 1], denoised))
            x = x_next
        return x

    del sample.__wrapped__  # help() and inspect show what a caller passes, not the generator's arguments
    return sample


def _no_noise(sigma, sigma_next):
    raise TypeError("This sampler draws fresh noise in its steps: pass it a noise_sampler.")


# ---------------------------------------------------------------- one step after the other


@_sampler
def sample_euler(model, x, sigmas, noise_sampler):
    """Euler's method (Karras et al., 2022, algorithm 1 without its corrector)."""
    for sigma, sigma_next in pairwise(sigmas):
        denoised = model(x, sigma)
        x = x + (sigma_next - sigma) * (x - denoised) / sigma
        yield x, denoised


@_sampler
def sample_euler_ancestral(model, x, sigmas, noise_sampler):
    """An Euler step below the next level, then fresh noise up to it (Song et al., 2021, eq. 47)."""
    for sigma, sigma_next in pairwise(sigmas):
        sigma_up = _ancestral(sigma, sigma_next)
        sigma_down = math.sqrt(sigma_next**2 - sigma_up**2)
        denoised = model(x, sigma)
        x = x + (sigma_down - sigma) * (x - denoised) / sigma
        if sigma_next > 0:
            x = x + sigma_up * noise_sampler(sigma, sigma_next)
        yield x, denoised


@_sampler
def sample_heun(model, x, sigmas, noise_sampler):
    """Heun's second-order method (Karras et al., 2022, algorithm 1)."""
    for sigma, sigma_next in pairwise(sigmas):
        denoised = model(x, sigma)
        slope = (x - denoised) / sigma
        x_euler = x + (sigma_next - sigma) * slope
        if sigma_next > 0:
            slope_next = (x_euler - model(x_euler, sigma_next)) / sigma_next
            x = x + (sigma_next - sigma) * (slope + slope_next) / 2
        else:
            x = x_euler
        yield x, denoised


@_sampler
def sample_dpm_2(model, x, sigmas, noise_sampler):
    """DPM-Solver-2: the slope in the middle of the step in log sigma (Lu et al., 2022, algorithm 1)."""
    for sigma, sigma_next in pairwise(sigmas):
        denoised = model(x, sigma)
        slope = (x - denoised) / sigma
        if sigma_next > 0:
            sigma_middle = math.sqrt(sigma * sigma_next)
            x_middle = x + (sigma_middle - sigma) * slope
            slope = (x_middle - model(x_middle, sigma_middle)) / sigma_middle
        x = x + (sigma_next - sigma) * slope
        yield x, denoised


@_sampler
def sample_ddim(model, x, sigmas, noise_sampler, *, eta=0.0):
    """Denoising diffusion implicit models (Song et al., 2021, eq. 12 and 16).

    `eta` in [0, 1] is the share of the ancestral noise. At 0 the step is Euler's in this frame.
    """
    for sigma, sigma_next in pairwise(sigmas):
        sigma_up = eta * _ancestral(sigma, sigma_next)
        denoised = model(x, sigma)
        eps = (x - denoised) / sigma
        x = denoised + math.sqrt(sigma_next**2 - sigma_up**2) * eps
        if sigma_up > 0:
            x = x + sigma_up * noise_sampler(sigma, sigma_next)
        yield x, denoised


@_sampler
def sample_ddpm(model, x, sigmas, noise_sampler):
    """Draws from the posterior of the next level given x and x0 (Ho et al., 2020, eq. 6 and 7).

    The variance is the paper's smaller choice, beta tilde: the other, beta, leaves noise in the
    picture when steps are few. With it the law of each step is also that of Euler ancestral.
    """
    for sigma, sigma_next in pairwise(sigmas):
        kept = (sigma_next / sigma) ** 2
        denoised = model(x, sigma)
        x = (1 - kept) * denoised + kept * x
        if sigma_next > 0:
            x = x + _ancestral(sigma, sigma_next) * noise_sampler(sigma, sigma_next)
        yield x, denoised


@_sampler
def sample_lcm(model, x, sigmas, noise_sampler):
    """Multistep consistency sampling: to the end, and back up with fresh noise (Luo et al., 2023, algorithm 3)."""
    for sigma, sigma_next in pairwise(sigmas):
        denoised = model(x, sigma)
        x = denoised
        if sigma_next > 0:
            x = x + sigma_next * noise_sampler(sigma, sigma_next)
        yield x, denoised


def _ancestral(sigma, sigma_next):
    # the spread of x at the next level, given x at this one and x0
    return sigma_next * math.sqrt(1 - (sigma_next / sigma) ** 2)


# ---------------------------------------------------------------- with a memory of the steps before


@_sampler
def sample_lms(model, x, sigmas, noise_sampler, *, order=4):
    """Linear multistep of Adams-Bashforth on uneven steps; `order` 1 to 4, rising from 1 at the start."""
    nodes, slopes = [], []
    for sigma, sigma_next in pairwise(sigmas):
        denoised = model(x, sigma)
        nodes = [sigma, *nodes][:order]
        slopes = [(x - denoised) / sigma, *slopes][:order]
        weights = _adams_bashforth(nodes, sigma_next)
        x = x + sum(weight * slope for weight, slope in zip(weights, slopes, strict=True))
        yield x, denoised


def _adams_bashforth(nodes, end):
    # Integrals from nodes[0] to `end` of the Lagrange polynomials over up to four nodes: of degree 3 at
    # most, for which the two points of Gauss and Legendre are exact.
    half = (end - nodes[0]) / 2
    points = [nodes[0] + half * (1 + side / math.sqrt(3)) for side in (-1, 1)]
    return [
        half * sum(math.prod((point - other) / (node - other) for other in nodes if other != node) for point in points)
        for node in nodes
    ]


@_sampler
def sample_dpmpp_2m(model, x, sigmas, noise_sampler):
    """DPM-Solver++(2M) (Lu et al., 2022, "DPM-Solver++", algorithm 2); the last step is of first order."""
    before = None
    for sigma, sigma_next in pairwise(sigmas):
        denoised = model(x, sigma)
        kept = sigma_next / sigma
        x = kept * x + (1 - kept) * _extrapolated(denoised, sigma, sigma_next, before)
        before = sigma, denoised
        yield x, denoised


@_sampler
def sample_dpmpp_2m_sde(model, x, sigmas, noise_sampler):
    """SDE-DPM-Solver++(2M) (Lu et al., 2022, "DPM-Solver++", the solvers for diffusion SDEs)."""
    before = None
    for sigma, sigma_next in pairwise(sigmas):
        denoised = model(x, sigma)
        kept = (sigma_next / sigma) ** 2
        x = kept * x + (1 - kept) * _extrapolated(denoised, sigma, sigma_next, before)
        if sigma_next > 0:
            x = x + sigma_next * math.sqrt(1 - kept) * noise_sampler(sigma, sigma_next)
        before = sigma, denoised
        yield x, denoised


def _extrapolated(denoised, sigma, sigma_next, before):
    # The denoised picture in the middle of the step in lambda, from this one and the one before.
    if before is None or sigma_next == 0:
        return denoised
    sigma_before, denoised_before = before
    ratio = math.log(sigma / sigma_next) / math.log(sigma_before / sigma)
    return denoised + ratio / 2 * (denoised - denoised_before)


@_sampler
def sample_unipc(model, x, sigmas, noise_sampler):
    """UniPC of order 2 in B2(h) and data prediction: predict, then correct (Zhao et al., 2023, section 3).

    The corrector costs no evaluation of its own: it uses the one that begins the next step.
    """
    x_before, seen = x, []  # where the last step began, and (sigma, denoised) of the last two
    for sigma, sigma_next in pairwise(sigmas):
        denoised = model(x, sigma)
        if seen:
            x = _unified(x_before, seen[-1], sigma, [*seen[:-1], (sigma, denoised)])
        x_before, seen = x, [*seen[-1:], (sigma, denoised)]
        x = denoised if sigma_next == 0 else _unified(x, seen[-1], sigma_next, seen[:-1])
        yield x, denoised


def _unified(x, base, sigma_next, others):
    # One step of UniP or UniC from `x` at `base`, with the denoised pictures of the `others`, each a
    # (sigma, denoised): z = -h, B(h) = e^z - 1, and weights rho with
    # sum_k rho_k r_k^(j-1) = j! phi_(j+1)(z) / phi_1(z), one equation for each of the others.
    sigma, denoised = base
    z = math.log(sigma_next / sigma)
    ratios = [math.log(other / sigma) / z for other, _ in others]
    phi, sides = [math.expm1(z) / z], []
    for j in range(1, len(others) + 1):
        phi.append((phi[-1] - 1 / math.factorial(j)) / z)
        sides.append(math.factorial(j) * phi[j] / phi[0])
    # the paper's value for a single one, right to its order for every h
    rhos = np.linalg.solve(np.vander(ratios, increasing=True).T, sides) if len(others) > 1 else [0.5] * len(others)
    for rho, ratio, (_, other) in zip(rhos, ratios, others, strict=True):
        denoised = denoised + float(rho) / ratio * (other - base[1])
    return math.exp(z) * x - math.expm1(z) * denoised


SAMPLERS = {
    sampler.__name__.removeprefix("sample_"): sampler
    for sampler in (
        sample_euler,
        sample_euler_ancestral,
        sample_heun,
        sample_dpm_2,
        sample_ddim,
        sample_ddpm,
        sample_lcm,
        sample_lms,
        sample_dpmpp_2m,
        sample_dpmpp_2m_sde,
        sample_unipc,
    )
}


def by_name(name):
    """The sampler of that name. Raises `BadRequest` for an unknown one."""
    if name not in SAMPLERS:
        raise errors.unknown("sampler", name, SAMPLERS)
    return SAMPLERS[name]
