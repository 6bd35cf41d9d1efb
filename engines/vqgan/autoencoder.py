"""The autoencoder of the VQGAN paper (Esser et al., 2021), with a vector-quantized or a KL bottleneck.

Modules carry the names of the published taming-transformers and latent-diffusion checkpoints.
"""

import copy
import itertools
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import nn

from engines.errors import BadRequest
from engines.vqgan.quantizer import GumbelQuantizer, VectorQuantizer


@dataclass(frozen=True)
class AutoencoderConfig:
    """Shape of encoder and decoder. One latent stands for `factor x factor` pixels."""

    in_channels: int = 3
    ch: int = 128  # channels at the first level
    ch_mult: tuple[int, ...] = (1, 1, 2, 2, 4)  # channels of each level, in units of ch
    num_res_blocks: int = 2  # a level of the encoder; the decoder has one more
    attention_levels: tuple[int, ...] = (4,)  # levels with self-attention beside the middle
    z_channels: int = 256  # channels between encoder and bottleneck
    embed_dim: int = 256  # channels of a code or latent
    norm_groups: int = 32
    patch: int = 1  # pixels a side that a space-to-depth stem and a pixel-shuffle head fold away
    dropout: float = 0.0
    larger: int = 0  # blocks of a second head, for pictures of twice the sides; 0 is no such head

    def __post_init__(self):
        # A config read back from JSON holds lists.
        object.__setattr__(self, "ch_mult", tuple(self.ch_mult))
        object.__setattr__(self, "attention_levels", tuple(self.attention_levels))
        for name in ("in_channels", "ch", "num_res_blocks", "z_channels", "embed_dim", "norm_groups", "patch"):
            if getattr(self, name) < 1:
                raise BadRequest(f"{name} of an autoencoder is {getattr(self, name)}; it must be at least 1.")
        if not self.ch_mult or min(self.ch_mult) < 1:
            raise BadRequest(f"ch_mult of an autoencoder is {self.ch_mult}; it needs a number from 1 for each level.")
        if not 0 <= self.dropout < 1:
            raise BadRequest(f"dropout of an autoencoder is {self.dropout}; it must lie in [0, 1).")
        if self.larger < 0:
            raise BadRequest(f"larger of an autoencoder is {self.larger}; it must not be negative.")
        for mult in (1, *self.ch_mult):  # the first level starts from ch itself
            if self.ch * mult % self.norm_groups:
                raise BadRequest(f"{self.ch * mult} channels do not divide into {self.norm_groups} groups.")
        if any(not 0 <= level < len(self.ch_mult) for level in self.attention_levels):
            raise BadRequest(f"attention_levels must lie between 0 and {len(self.ch_mult) - 1}.")

    @property
    def factor(self):
        return self.patch * 2 ** (len(self.ch_mult) - 1)


@dataclass(frozen=True)
class CodebookConfig:
    """The codebook of a VQGAN; the fields are those of `VectorQuantizer`, or the first of a `GumbelQuantizer`."""

    n_embed: int = 1024
    beta: float = 0.25
    l2_normalised: bool = False
    ema_decay: float = 0.0
    gumbel: bool = False  # codes are chosen by logits, and do not learn

    def __post_init__(self):
        if self.n_embed < 1:
            raise BadRequest(f"n_embed of a codebook is {self.n_embed}; it must be at least 1.")
        if not self.beta >= 0:
            raise BadRequest(f"beta of a codebook is {self.beta}; it must not be negative.")
        if not 0 <= self.ema_decay < 1:
            raise BadRequest(f"ema_decay of a codebook is {self.ema_decay}; it must lie in [0, 1).")


def norm(channels, groups):
    return nn.GroupNorm(groups, channels, eps=1e-6)


class ResBlock(nn.Module):
    def __init__(self, in_channels, out_channels, config):
        super().__init__()
        self.norm1 = norm(in_channels, config.norm_groups)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = norm(out_channels, config.norm_groups)
        self.dropout = nn.Dropout(config.dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        if in_channels != out_channels:
            self.nin_shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x):
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return (self.nin_shortcut(x) if "nin_shortcut" in self._modules else x) + h


class Attention(nn.Module):
    """Single-head self-attention over the positions of a map."""

    def __init__(self, channels, groups):
        super().__init__()
        self.norm = norm(channels, groups)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x):
        h = self.norm(x)
        q, k, v = (part(h).flatten(2).transpose(1, 2) for part in (self.q, self.k, self.v))
        h = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj_out(h.transpose(1, 2).reshape(x.shape))


class Downsample(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x):
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return self.conv(F.interpolate(x, scale_factor=2.0))


class Middle(nn.Module):
    def __init__(self, channels, config):
        super().__init__()
        self.block_1 = ResBlock(channels, channels, config)
        self.attn_1 = Attention(channels, config.norm_groups)
        self.block_2 = ResBlock(channels, channels, config)

    def forward(self, x):
        return self.block_2(self.attn_1(self.block_1(x)))


class Level(nn.Module):
    """The blocks of one resolution, each followed by attention where configured."""

    def __init__(self, in_channels, out_channels, blocks, attention, config):
        super().__init__()
        widths = [in_channels] + [out_channels] * blocks
        self.block = nn.ModuleList(ResBlock(*pair, config) for pair in itertools.pairwise(widths))
        self.attn = nn.ModuleList(
            Attention(out_channels, config.norm_groups) for _ in range(blocks if attention else 0)
        )

    def forward(self, x):
        for i, block in enumerate(self.block):
            x = block(x)
            if self.attn:
                x = self.attn[i](x)
        return x


class Encoder(nn.Module):
    """Pictures `(B, 3, H, W)` to maps `(B, out_channels, H / factor, W / factor)`."""

    def __init__(self, config, out_channels):
        super().__init__()
        widths = [config.ch * mult for mult in config.ch_mult]
        self.patch = config.patch
        self.conv_in = nn.Conv2d(config.in_channels * config.patch**2, config.ch, 3, padding=1)
        self.down = nn.ModuleList()
        for i, width in enumerate(widths):
            before = config.ch if i == 0 else widths[i - 1]
            level = Level(before, width, config.num_res_blocks, i in config.attention_levels, config)
            if i < len(widths) - 1:
                level.downsample = Downsample(width)
            self.down.append(level)
        self.mid = Middle(widths[-1], config)
        self.norm_out = norm(widths[-1], config.norm_groups)
        self.conv_out = nn.Conv2d(widths[-1], out_channels, 3, padding=1)

    def forward(self, x):
        h = self.conv_in(F.pixel_unshuffle(x, self.patch))
        for i, level in enumerate(self.down):
            h = level(h)
            if i < len(self.down) - 1:
                h = level.downsample(h)
        return self.conv_out(F.silu(self.norm_out(self.mid(h))))


class Decoder(nn.Module):
    """Maps `(B, z_channels, h, w)` to pictures `(B, 3, h * factor, w * factor)`, or `larger`, of twice the sides."""

    def __init__(self, config):
        super().__init__()
        widths = [config.ch * mult for mult in config.ch_mult]
        self.patch = config.patch
        self.conv_in = nn.Conv2d(config.z_channels, widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1], config)
        self.up = nn.ModuleList()
        for i, width in enumerate(widths):
            before = widths[min(i + 1, len(widths) - 1)]
            level = Level(before, width, config.num_res_blocks + 1, i in config.attention_levels, config)
            if i > 0:
                level.upsample = Upsample(width)
            self.up.append(level)
        self.norm_out = norm(widths[0], config.norm_groups)
        self.conv_out = nn.Conv2d(widths[0], config.in_channels * config.patch**2, 3, padding=1)
        if config.larger:
            self.larger = LargerHead(widths[0], config)

    def forward(self, z, larger=False):
        h = self.mid(self.conv_in(z))
        for i in reversed(range(len(self.up))):
            h = self.up[i](h)
            if i > 0:
                h = self.up[i].upsample(h)
        if larger:
            return self.larger(h)
        return F.pixel_shuffle(self.conv_out(F.silu(self.norm_out(h))), self.patch)


class LargerHead(nn.Module):
    """The last map of a decoder to pictures of twice the sides."""

    def __init__(self, width, config):
        super().__init__()
        self.patch = config.patch
        self.upsample = Upsample(width)
        self.block = nn.Sequential(*(ResBlock(width, width, config) for _ in range(config.larger)))
        self.norm_out = norm(width, config.norm_groups)
        self.conv_out = nn.Conv2d(width, config.in_channels * config.patch**2, 3, padding=1)

    def forward(self, h):
        h = self.block(self.upsample(h))
        return F.pixel_shuffle(self.conv_out(F.silu(self.norm_out(h))), self.patch)


def _quantizer(codebook, embed_dim):
    if codebook.gumbel:
        return GumbelQuantizer(codebook.n_embed, embed_dim)
    return VectorQuantizer(
        codebook.n_embed,
        embed_dim,
        beta=codebook.beta,
        l2_normalised=codebook.l2_normalised,
        ema_decay=codebook.ema_decay,
    )


class VQGAN(nn.Module):
    """Encoder, codebook, decoder.

    `encode` gives latents before quantization, so that a diffusion model may learn on them;
    `decode` snaps latents to codes first, as latent diffusion's VQ models do.
    """

    family = "vqgan"

    def __init__(self, config, codebook):
        super().__init__()
        self.config, self.codebook_config = config, codebook
        self.encoder = Encoder(config, config.z_channels)
        self.quant_conv = nn.Conv2d(config.z_channels, config.embed_dim, 1)
        self.quantize = _quantizer(codebook, config.embed_dim)
        self.post_quant_conv = nn.Conv2d(config.embed_dim, config.z_channels, 1)
        self.decoder = Decoder(config)

    def encode(self, x):
        """Latents `(B, embed_dim, h, w)` of pictures; on the unit sphere if the codebook is."""
        latents = self.quant_conv(self.encoder(x))
        return F.normalize(latents, dim=1) if self.quantize.l2_normalised else latents

    def decode(self, latents, larger=False):
        """Pictures of the codes that `latents` become."""
        return self.decode_codes(self.quantize(latents).codes, larger)

    def decode_codes(self, codes, larger=False):
        """Pictures of `codes (B, embed_dim, h, w)` as they are; `larger`, by the second head."""
        return self.decoder(self.post_quant_conv(codes), larger)

    def decode_indices(self, indices, larger=False):
        """Pictures of tokens `(B, h, w)`."""
        return self.decode_codes(self.quantize.lookup(indices), larger)

    def forward(self, x):
        """Reconstruction of `x` and the `Quantized` bottleneck."""
        quantized = self.quantize(self.encode(x))
        return self.decode_codes(quantized.codes), quantized


class Larger(nn.Module):
    """The VQGAN `stage` by its second head: the same latents, each for twice as many pixels a side."""

    family = VQGAN.family

    def __init__(self, stage):
        super().__init__()
        self.stage = stage
        self.config = replace(stage.config, patch=2 * stage.config.patch)
        self.codebook_config, self.quantize = stage.codebook_config, stage.quantize

    def encode(self, x):
        """Latents of pictures `(B, 3, H, W)` at half their sides."""
        return self.stage.encode(F.avg_pool2d(x, 2))

    def decode(self, latents):
        return self.stage.decode(latents, larger=True)

    def decode_indices(self, indices):
        return self.stage.decode_indices(indices, larger=True)


def with_first_stage(model, stage):
    """A model that draws, with the autoencoder `stage` in the place of its own; all else belongs to both."""
    other = copy.copy(model)
    other._modules = model._modules | {"first_stage": stage}
    return other


class KLAutoencoder(nn.Module):
    """The same encoder and decoder around a diagonal Gaussian (Kingma & Welling, 2014)."""

    family = "kl"

    def __init__(self, config):
        super().__init__()
        if config.larger:
            raise BadRequest("A second head is for the codes of a VQGAN; leave larger at 0.")
        self.config = config
        self.encoder = Encoder(config, 2 * config.z_channels)
        self.quant_conv = nn.Conv2d(2 * config.z_channels, 2 * config.embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(config.embed_dim, config.z_channels, 1)
        self.decoder = Decoder(config)

    def posterior(self, x):
        """Mean and logarithm of the variance, `(B, embed_dim, h, w)` each."""
        mean, log_var = self.quant_conv(self.encoder(x)).chunk(2, dim=1)
        return mean, log_var.clamp(-30, 20)

    def encode(self, x):
        """The mode of the posterior."""
        return self.posterior(x)[0]

    def decode(self, latents):
        return self.decoder(self.post_quant_conv(latents))

    def forward(self, x):
        """Reconstruction from one sample of the posterior, and its KL divergence from N(0, 1) a latent."""
        mean, log_var = self.posterior(x)
        sample = mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)
        kl = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).mean()
        return self.decode(sample), kl
