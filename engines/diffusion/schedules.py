"""Noise: what a model was trained on, and in which steps a sampler takes it away.

All of it is written in `sigma`, the noise of the variance-exploding frame `x = x0 + sigma * n`
(Karras et al., 2022). A *noise process* ties sigma to the time that the net was conditioned on; a
*step schedule* is a `(steps + 1,)` float32 tensor of sigmas that falls to exactly 0.
"""

import math

import torch

from engines import errors

# ---------------------------------------------------------------- betas of the discrete processes


def linear_betas(steps=1000, start=1e-4, end=0.02):
    """`(steps,)` float64 betas, even between `start` and `end` (Ho et al., 2020)."""
    return torch.linspace(start, end, steps, dtype=torch.float64)


def scaled_linear_betas(steps=1000, start=0.00085, end=0.012):
    """`(steps,)` float64 betas, even in their square roots (Rombach et al., 2022: Stable Diffusion)."""
    return torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2


def cosine_betas(steps=1000, offset=0.008, limit=0.999):
    """`(steps,)` float64 betas whose products follow a squared cosine (Nichol & Dhariwal, 2021, eq. 17)."""
    time = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    alphas_cumprod = torch.cos((time + offset) / (1 + offset) * math.pi / 2) ** 2
    return (1 - alphas_cumprod[1:] / alphas_cumprod[:-1]).clamp(max=limit)


def alphas_cumprod(betas):
    """The products of `1 - beta`: the share of the picture's variance left at each training step."""
    return torch.cumprod(1 - betas, dim=0)


# ---------------------------------------------------------------- noise processes


class DiscreteNoise:
    """Noise in numbered training steps, `sigma_k = sqrt((1 - a_k) / a_k)`, interpolated in log sigma.

    `alphas_cumprod` is `(levels,)`, falling, inside (0, 1). Times are training steps in
    [0, levels - 1], between the steps too; sigmas outside the range get the nearest time.
    """

    def __init__(self, alphas_cumprod):
        alphas = alphas_cumprod.double()
        self.log_sigmas = ((1 - alphas) / alphas).log() / 2
        self.levels = len(alphas)
        self.sigma_min = math.exp(self.log_sigmas[0])
        self.sigma_max = math.exp(self.log_sigmas[-1])

    def sigma(self, t):
        """The noise `(...)` at times `t (...)`."""
        table = self.log_sigmas.to(t.device, t.dtype)
        below = t.floor().clamp(0, self.levels - 2).long()
        return torch.lerp(table[below], table[below + 1], (t - below).clamp(0, 1)).exp()

    def t(self, sigma):
        """The time `(...)` at which the noise is `sigma (...)`."""
        table, log_sigma = self.log_sigmas.to(sigma.device, sigma.dtype), sigma.log()
        below = (torch.searchsorted(table, log_sigma) - 1).clamp(0, self.levels - 2)
        low, high = table[below], table[below + 1]
        return below + ((log_sigma - low) / (high - low)).clamp(0, 1)

    def time(self, share):
        """The times at `share (...)` of the way from the cleanest level, 0, to the noisiest, 1."""
        return share * (self.levels - 1)


class FlowNoise:
    """Rectified flow, `x_t = (1 - t) x0 + t n` (Liu et al., 2023), with `sigma = t / (1 - t)`.

    Times are 1000 t, as published flow models are conditioned. The levels are t = 0.001 to 0.999, so
    that sigma stays finite, moved by `shift` towards the noise for large pictures: `shift` multiplies
    every sigma, which is `t -> shift t / (1 + (shift - 1) t)` (Esser et al., 2024, eq. 23).
    """

    def __init__(self, shift=1.0):
        self.shift = shift
        self.levels = 999
        self.sigma_min = shift * 0.001 / 0.999
        self.sigma_max = shift * 0.999 / 0.001
        self.t_max = 1000 * self.sigma_max / (1 + self.sigma_max)

    def sigma(self, t):
        """The noise `(...)` at times `t (...)`; times past the last level are held to it."""
        t = t.clamp(max=self.t_max)
        return t / (1000 - t)

    def t(self, sigma):
        """The time `(...)` at which the noise is `sigma (...)`."""
        return 1000 * sigma / (1 + sigma)

    def time(self, share):
        """The times at `share (...)` of the way from the cleanest level, 0, to the noisiest, 1."""
        unshifted = 1 + share * (self.levels - 1)
        return self.t(self.shift * unshifted / (1000 - unshifted))


# ---------------------------------------------------------------- step schedules


def linear(noise, steps):
    """Even in the model's own time, from its noisiest level to its cleanest, then 0."""
    return _at_shares(noise, _ramp(steps))


def karras(noise, steps, rho=7.0):
    """Even in `sigma ** (1 / rho)` (Karras et al., 2022, eq. 5)."""
    high, low = noise.sigma_max ** (1 / rho), noise.sigma_min ** (1 / rho)
    return _to_zero((low + _ramp(steps) * (high - low)) ** rho)


def exponential(noise, steps):
    """Even in log sigma."""
    high, low = math.log(noise.sigma_max), math.log(noise.sigma_min)
    return _to_zero((low + _ramp(steps) * (high - low)).exp())


def simple(noise, steps):
    """Every n-th level of the training, counted from the noisiest ("trailing", Lin et al., 2023, table 2)."""
    skipped = (torch.arange(steps, dtype=torch.float64) * noise.levels / steps).round()
    return _at_shares(noise, (noise.levels - 1 - skipped) / (noise.levels - 1))


def sgm_uniform(noise, steps):
    """Even in the model's own time, the last step reaching from a whole step away to 0."""
    return _at_shares(noise, _ramp(steps + 1)[:-1])


SCHEDULES = {schedule.__name__: schedule for schedule in (linear, karras, exponential, simple, sgm_uniform)}


def by_name(name):
    """The schedule `(noise, steps) -> sigmas` of that name. Raises `BadRequest` for an unknown one."""
    if name not in SCHEDULES:
        raise errors.unknown("scheduler", name, SCHEDULES)
    return SCHEDULES[name]


def tail(sigmas, strength):
    """The end of a schedule, for picture to picture: `round(steps * strength)` of its steps, at least 1.

    `strength` in (0, 1]; the picture is noised to the first sigma of the tail.
    """
    steps = max(1, round((len(sigmas) - 1) * strength))
    return sigmas[-(steps + 1):]


def _ramp(steps):
    # a single step starts where many would, at the noisiest level
    return torch.linspace(1, 0, steps, dtype=torch.float64)


def _at_shares(noise, shares):
    return _to_zero(noise.sigma(noise.time(shares)))


def _to_zero(sigmas):
    return torch.cat([sigmas, sigmas.new_zeros(1)]).float()
