"""A diffusion upscaler: what a small picture lacks, drawn in one to four steps (after Saharia et al., 2021, SR3).

What is diffused is the residual, the large picture less the bicubic one. It is worked on at the size of the
small picture, `scale x scale` pixels as channels of one place (Shi et al., 2016), so that no convolution runs
at full resolution. Nothing in the net looks further than `reach`: a tile with so much around it knows of no seam.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from engines.diffusion.unet import timestep_embedding, zero
from engines.errors import BadRequest


@dataclass(frozen=True)
class UpscalerConfig:
    """The shape of the net; `residual_std` is that of the training residuals at each scale, whose mean is 0."""

    ch: int = 48
    blocks: int = 8
    scales: tuple[int, ...] = (2, 4)
    residual_std: tuple[float, ...] = (0.1, 0.1)

    def __post_init__(self):
        object.__setattr__(self, "scales", tuple(self.scales))
        object.__setattr__(self, "residual_std", tuple(self.residual_std))
        if min(self.ch, self.blocks, *self.scales) < 1 or self.ch % 2:
            raise BadRequest("An upscaler needs an even number of channels, and at least one block and one scale.")
        if len(self.residual_std) != len(self.scales):
            raise BadRequest("residual_std needs one number for each scale of an upscaler.")
        if not all(0 < std < math.inf for std in self.residual_std):
            raise BadRequest("residual_std of an upscaler must be finite numbers above 0.")


def device_of(net):
    """Where the weights of a net are."""
    return next(net.parameters()).device


class Block(nn.Module):
    """Two convolutions round a modulated activation (Perez et al., 2018, FiLM), added to what came in."""

    def __init__(self, ch):
        super().__init__()
        self.conv1 = nn.Conv2d(ch, ch, 3, padding=1)
        self.conv2 = zero(nn.Conv2d(ch, ch, 3, padding=1))
        self.film = zero(nn.Linear(2 * ch, 2 * ch))

    def forward(self, h, emb):
        scale, shift = self.film(emb)[:, :, None, None].chunk(2, dim=1)
        return h + self.conv2(F.silu(self.conv1(h) * (1 + scale) + shift))


class Upscaler(nn.Module):
    """The net and its frames: pictures in [-1, 1], residuals with spread 1 as `(B, 3 scale^2, h, w)`."""

    family = "upscaler"

    def __init__(self, config):
        super().__init__()
        self.config = config
        ch = config.ch
        self.embed = nn.Sequential(nn.Linear(2 * ch, 2 * ch), nn.SiLU(), nn.Linear(2 * ch, 2 * ch), nn.SiLU())
        self.stems = nn.ModuleDict({str(s): nn.Conv2d(3 + 3 * s * s, ch, 3, padding=1) for s in config.scales})
        self.blocks = nn.ModuleList(Block(ch) for _ in range(config.blocks))
        self.heads = nn.ModuleDict({str(s): zero(nn.Conv2d(ch, 3 * s * s, 3, padding=1)) for s in config.scales})

    device = property(device_of)

    @property
    def reach(self):
        """Pixels of the small picture, on each side of a place, that one pass looks at to draw it."""
        return 2 * self.config.blocks + 2

    def forward(self, small, noisy, t, wear, scale):
        """The residual without noise, as the net thinks of it.

        `small (B, 3, h, w)`; `noisy (B, 3 scale^2, h, w)`, `(1 - t) residual + t noise`, and nothing but zeros at
        `t` 1, where the answer is the mean of all that it may be; `t (B,)` and `wear (B,)`, how worn the small
        picture is, in [0, 1].
        """
        ch = self.config.ch
        emb = self.embed(torch.cat([timestep_embedding(1000 * value, ch) for value in (t, wear)], dim=1))
        h = self.stems[str(scale)](torch.cat([small, noisy], dim=1))
        for block in self.blocks:
            h = block(h, emb)
        return self.heads[str(scale)](h)

    def residual(self, large, small, scale):
        """What `small` lacks of `large (B, 3, scale h, scale w)`, in the frame of the net."""
        return F.pixel_unshuffle(large - enlarged(small, scale), scale) / self._std(scale)

    def picture(self, residual, small, scale):
        """The large picture `(B, 3, scale h, scale w)`, the inverse of `residual`."""
        return enlarged(small, scale) + F.pixel_shuffle(residual * self._std(scale), scale)

    def _std(self, scale):
        return self.config.residual_std[self.config.scales.index(scale)]

    def sample(self, small, scale, *, noise, steps=1, wear=0.0, detail=0.0, callback=None):
        """The large picture of `small (B, 3, h, w)`.

        The first step answers with the mean of all that may be there: what is nearest on the whole, and soft. Each
        of the others hides it under less and less of `noise(index) (B, 3 scale^2, h, w)` and looks again, as
        consistency models do (Song et al., 2023, algorithm 1). `detail` in [0, 1] is how much of what is found
        so is taken, from none to all. `callback(index)` is called after every step.
        """
        rows = small.new_ones(len(small))
        worn = wear * rows
        mean = made = self(small, torch.zeros_like(noise(0)), rows, worn, scale)
        for index in range(1, steps):
            if callback:
                callback(index)
            t = 1 - index / steps
            made = self(small, (1 - t) * made + t * noise(index), t * rows, worn, scale)
        if callback:
            callback(steps)
        return self.picture(mean + detail * (made - mean), small, scale)


def enlarged(small, scale):
    """The bicubic enlargement of `small (B, 3, h, w)`, which the net starts from."""
    return F.interpolate(small, scale_factor=scale, mode="bicubic")
