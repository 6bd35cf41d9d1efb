"""A net's raw output as a picture without noise, for each way that nets are trained.

    denoised = c_skip x + c_out net(c_in x, c_noise)        (Karras et al., 2022, eq. 7)

Here `x = x0 + sigma n` is variance exploding, and `c_in x` is what the net saw in its training:
`(x0 + sigma n) / sqrt(1 + sigma^2)` of the variance-preserving processes, `(1 - t) x0 + t n` of flow.
"""


class Denoiser:
    """`model(x, sigma, **extra) -> denoised` round a net and the noise process of its training.

    `net(x, t, **extra)` takes times `t (B,)` in the unit of `noise.t`. With `dtype` the net's input
    and `extra` are cast to the precision that the net runs in; scalings, times, numbers a row and the result keep that
    of `x`.
    """

    def __init__(self, net, noise, dtype=None):
        self.net = net
        self.noise = noise
        self.dtype = dtype

    def __call__(self, x, sigma, **extra):
        """`x (B, ...)` with noise `sigma (B,)` > 0 to its estimate of x0, `(B, ...)`."""
        c_skip, c_out, c_in, c_noise = self.scalings(sigma)
        if self.dtype:
            extra = {name: value.to(self.dtype) if value.ndim > 1 else value for name, value in extra.items()}
        raw = self.net((_per_row(c_in, x) * x).to(self.dtype or x.dtype), c_noise, **extra)
        return _per_row(c_skip, x) * x + _per_row(c_out, x) * raw.to(x.dtype)

    def scalings(self, sigma):
        """`(c_skip, c_out, c_in, c_noise)`, each `(B,)`, for `sigma (B,)`."""
        raise NotImplementedError

    def target(self, x0, n, sigma):
        """What the net's raw output should be for `x = x0 + sigma n`; `x0, n (B, ...)`, `sigma (B,)`."""
        raise NotImplementedError


class EpsDenoiser(Denoiser):
    """The net predicts the noise n (Ho et al., 2020)."""

    def scalings(self, sigma):
        return sigma.new_ones(sigma.shape), -sigma, (1 + sigma**2).rsqrt(), self.noise.t(sigma)

    def target(self, x0, n, sigma):
        return n


class VDenoiser(Denoiser):
    """The net predicts the velocity `v = (n - sigma x0) / sqrt(1 + sigma^2)` (Salimans & Ho, 2022)."""

    def scalings(self, sigma):
        c_in = (1 + sigma**2).rsqrt()
        return c_in**2, -sigma * c_in, c_in, self.noise.t(sigma)

    def target(self, x0, n, sigma):
        sigma = _per_row(sigma, x0)
        return (n - sigma * x0) * (1 + sigma**2).rsqrt()


class X0Denoiser(Denoiser):
    """The net predicts the clean x0 itself."""

    def scalings(self, sigma):
        return sigma.new_zeros(sigma.shape), sigma.new_ones(sigma.shape), (1 + sigma**2).rsqrt(), self.noise.t(sigma)

    def target(self, x0, n, sigma):
        return x0


class FlowDenoiser(Denoiser):
    """The net predicts the flow's velocity `n - x0` at `t = sigma / (1 + sigma)` (Liu et al., 2023)."""

    def scalings(self, sigma):
        c_in = 1 / (1 + sigma)
        return c_in, -sigma * c_in, c_in, self.noise.t(sigma)

    def target(self, x0, n, sigma):
        return n - x0


DENOISERS = {"eps": EpsDenoiser, "v": VDenoiser, "x0": X0Denoiser, "flow": FlowDenoiser}


def _per_row(value, x):
    return value.view(-1, *[1] * (x.ndim - 1))
