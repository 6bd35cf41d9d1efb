"""Data whose every answer is known in closed form: what an ideal net says, and where samples must end."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Mixture:
    """Pictures whose values are independent draws from Gaussians on the line, mixed with `weights`.

    All three are tuples of the same length; the weights sum to 1 and the stds are above 0.
    """

    weights: tuple[float, ...]
    means: tuple[float, ...]
    stds: tuple[float, ...]

    def denoised(self, x, sigma):
        """The mean of x0 given `x = x0 + sigma n`, `(B, ...)`; `sigma` is `(B,)` or one number."""
        weights, means, variances, total = self._components(x, sigma)
        logits = weights.log() - total.log() / 2 - (x[..., None] - means) ** 2 / (2 * total)
        each = means + variances / total * (x[..., None] - means)
        return (logits.softmax(-1) * each).sum(-1)

    def cdf(self, x, sigma):
        """The share of all `x0 + sigma n` that lies below `x (B, ...)`.

        Samples moved by the probability flow keep their share: on the line no path overtakes another.
        """
        weights, means, _, total = self._components(x, sigma)
        return (weights * torch.special.ndtr((x[..., None] - means) / total.sqrt())).sum(-1)

    def draw(self, shape, sigma, generator):
        """Samples of `x0 + sigma n` in float64."""
        weights, means, stds = (torch.tensor(row, dtype=torch.float64) for row in (self.weights, self.means, self.stds))
        chosen = torch.multinomial(weights, torch.Size(shape).numel(), replacement=True, generator=generator)
        n = torch.randn(shape, generator=generator, dtype=torch.float64)
        return means[chosen].view(shape) + (stds[chosen] ** 2 + sigma**2).sqrt().view(shape) * n

    @property
    def mean(self):
        return sum(weight * mean for weight, mean in zip(self.weights, self.means, strict=True))

    @property
    def variance(self):
        rows = zip(self.weights, self.means, self.stds, strict=True)
        return sum(weight * (std**2 + (mean - self.mean) ** 2) for weight, mean, std in rows)

    def _components(self, x, sigma):
        # weights, means, variances without and with the noise, `(..., components)` beside `x[..., None]`
        weights, means, stds = (x.new_tensor(row) for row in (self.weights, self.means, self.stds))
        sigma = torch.as_tensor(sigma, dtype=x.dtype).reshape(-1, *[1] * x.ndim)
        return weights, means, stds**2, stds**2 + sigma**2
