"""The two nets of Real-ESRGAN, as they are published: dense residual blocks, and a compact chain of convolutions.

Both take and give pictures `(B, 3, H, W)` in [0, 1], whose sides grow by `scale`.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from engines.diffusion.upscaler import device_of

ENOUGH = 24  # pixels round a place: what is further away changes it too little to be seen


@dataclass(frozen=True)
class RRDBConfig:
    """`scale` is 1, 2 or 4: the net enlarges four times, and first folds its picture where that is too much."""

    ch: int = 64
    growth: int = 32
    blocks: int = 23
    scale: int = 4


class DenseBlock(nn.Module):
    """Five convolutions, each of all that was before it, and a fifth of the last added (Wang et al., 2018, ESRGAN)."""

    def __init__(self, ch, growth):
        super().__init__()
        for number in range(5):
            out = ch if number == 4 else growth
            self.add_module(f"conv{number + 1}", nn.Conv2d(ch + number * growth, out, 3, padding=1))

    def forward(self, x):
        parts = [x]
        for number in range(1, 5):
            parts.append(F.leaky_relu(getattr(self, f"conv{number}")(torch.cat(parts, dim=1)), 0.2))
        return x + 0.2 * self.conv5(torch.cat(parts, dim=1))


class RRDB(nn.Module):
    """Three dense blocks, a fifth of whose result is added."""

    def __init__(self, ch, growth):
        super().__init__()
        self.rdb1, self.rdb2, self.rdb3 = (DenseBlock(ch, growth) for _ in range(3))

    def forward(self, x):
        return x + 0.2 * self.rdb3(self.rdb2(self.rdb1(x)))


class RRDBNet(nn.Module):
    """The generator of ESRGAN and of Real-ESRGAN's x2plus and x4plus (Wang et al., 2021)."""

    family = "rrdb"
    reach = ENOUGH

    def __init__(self, config):
        super().__init__()
        self.config, self.scale = config, config.scale
        self.fold = 4 // config.scale
        ch = config.ch
        self.conv_first = nn.Conv2d(3 * self.fold**2, ch, 3, padding=1)
        self.body = nn.Sequential(*(RRDB(ch, config.growth) for _ in range(config.blocks)))
        self.conv_body, self.conv_up1, self.conv_up2, self.conv_hr = (nn.Conv2d(ch, ch, 3, padding=1) for _ in range(4))
        self.conv_last = nn.Conv2d(ch, 3, 3, padding=1)

    device = property(device_of)

    def forward(self, x):
        height, width = x.shape[-2:]
        x = F.pad(x, (0, -width % self.fold, 0, -height % self.fold), mode="replicate")
        h = self.conv_first(F.pixel_unshuffle(x, self.fold))
        h = h + self.conv_body(self.body(h))
        for up in (self.conv_up1, self.conv_up2):
            h = F.leaky_relu(up(F.interpolate(h, scale_factor=2, mode="nearest")), 0.2)
        return self.conv_last(F.leaky_relu(self.conv_hr(h), 0.2))[..., : height * self.scale, : width * self.scale]


@dataclass(frozen=True)
class SRVGGConfig:
    """A chain of `blocks` convolutions of `ch` channels, at the size of the small picture."""

    ch: int = 64
    blocks: int = 32
    scale: int = 4


class SRVGGNet(nn.Module):
    """Real-ESRGAN's compact net, of general-x4v3 and animevideov3: what the nearest pixels lack, by pixel shuffle."""

    family = "srvgg"

    def __init__(self, config):
        super().__init__()
        self.config, self.scale = config, config.scale
        self.reach = config.blocks + 2
        ch = config.ch
        layers = [nn.Conv2d(3, ch, 3, padding=1), nn.PReLU(ch)]
        for _ in range(config.blocks):
            layers += [nn.Conv2d(ch, ch, 3, padding=1), nn.PReLU(ch)]
        self.body = nn.Sequential(*layers, nn.Conv2d(ch, 3 * config.scale**2, 3, padding=1))

    device = property(device_of)

    def forward(self, x):
        return F.pixel_shuffle(self.body(x), self.scale) + F.interpolate(x, scale_factor=self.scale, mode="nearest")
