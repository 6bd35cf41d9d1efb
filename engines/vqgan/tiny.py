"""TAESD (Bohan, 2023): an autoencoder of a few plain convolutions, distilled from that of Stable Diffusion.

Its latents are those that the UNet sees, of a spread near 1. Modules carry the numbers of the published files.
"""

from dataclasses import dataclass

import torch
from torch import nn

from engines.errors import BadRequest

BOUND = 3  # of the latents that the decoder sees


@dataclass(frozen=True)
class TinyAutoencoderConfig:
    """Shape of encoder and decoder. One latent stands for `factor x factor` pixels."""

    ch: int = 64  # channels of every layer
    blocks: tuple[int, ...] = (1, 3, 3, 3)  # of each level, from the pictures to the latents
    embed_dim: int = 4  # channels of a latent

    def __post_init__(self):
        object.__setattr__(self, "blocks", tuple(self.blocks))  # a config read back from JSON holds lists
        for name in ("ch", "embed_dim"):
            if getattr(self, name) < 1:
                raise BadRequest(f"{name} of an autoencoder is {getattr(self, name)}; it must be at least 1.")
        if not self.blocks or min(self.blocks) < 0:
            raise BadRequest(f"blocks of an autoencoder are {self.blocks}; it needs a number from 0 for each level.")

    @property
    def factor(self):
        return 2 ** (len(self.blocks) - 1)


class Bounded(nn.Module):
    def forward(self, x):
        return torch.tanh(x / BOUND) * BOUND


class Block(nn.Module):
    def __init__(self, ch):
        super().__init__()
        first, second, third = (_conv(ch, ch) for _ in range(3))
        self.conv = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third)

    def forward(self, x):
        return torch.relu(self.conv(x) + x)


def _conv(in_channels, out_channels, **options):
    return nn.Conv2d(in_channels, out_channels, 3, padding=1, **options)


def _blocks(ch, count):
    return [Block(ch) for _ in range(count)]


class TinyAutoencoder(nn.Module):
    """Pictures to latents and back, without a bottleneck of chance or codes."""

    family = "taesd"

    def __init__(self, config):
        super().__init__()
        self.config, ch = config, config.ch
        first, *deeper = config.blocks
        down, up = [_conv(3, ch), *_blocks(ch, first)], []
        for count in deeper:
            down += [_conv(ch, ch, stride=2, bias=False), *_blocks(ch, count)]
            up = [*_blocks(ch, count), nn.Upsample(scale_factor=2), _conv(ch, ch, bias=False), *up]
        self.encoder = nn.Sequential(*down, _conv(ch, config.embed_dim))
        self.decoder = nn.Sequential(
            Bounded(), _conv(config.embed_dim, ch), nn.ReLU(), *up, *_blocks(ch, first), _conv(ch, 3)
        )

    def encode(self, x):
        """Latents `(B, embed_dim, h, w)` of pictures."""
        return self.encoder((x + 1) / 2)

    def decode(self, latents):
        """Pictures of `latents`."""
        return 2 * self.decoder(latents) - 1

    def forward(self, x):
        """Reconstruction of `x`."""
        return self.decode(self.encode(x))
