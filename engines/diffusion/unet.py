"""The conditional UNet of latent diffusion (Rombach et al., 2022, section 3 and appendix E).

Modules carry the names of the published single-file checkpoints of Stable Diffusion 1 and 2, so
that their weights load by equality of keys. So are those of SDXL, whose transformers are deeper the
coarser their level (Podell et al., 2023, section 2.1).
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from engines.errors import BadRequest


@dataclass(frozen=True)
class UNetConfig:
    """The shape of a UNet; the defaults are those of Stable Diffusion 1's inpainting model."""

    in_channels: int = 9  # latents, and where the model inpaints: mask (1) and masked latents
    out_channels: int = 4  # channels of the latents
    ch: int = 320  # channels of the first level
    ch_mult: tuple[int, ...] = (1, 2, 4, 4)  # channels of each level, in multiples of ch
    num_res_blocks: int = 2  # residual blocks a level on the way down; one more on the way up
    attention_levels: tuple[int, ...] = (0, 1, 2)  # levels with transformers, 0 is the finest
    context_dim: int = 768  # width of the context tokens
    num_heads: int = 8  # heads of every attention, where head_dim is 0
    head_dim: int = 0  # channels of a head; 0 splits by num_heads instead
    transformer_depth: int | tuple[int, ...] = 1  # blocks in each transformer, or of each level, then of the middle
    use_linear_projection: bool = False  # into and out of a transformer: linear (SD 2) or 1x1 convolution
    adm_dim: int = 0  # width of the one vector a picture added to the time embedding; 0 is none
    guidance_dim: int = 0  # of the sinusoids of the guidance that a distilled net is told; 0 for one that is guided
    norm_groups: int = 32  # groups of every group norm; divides the channels of every level
    dropout: float = 0.0  # inside the residual blocks, in [0, 1)

    def __post_init__(self):
        # A config read back from JSON holds lists.
        object.__setattr__(self, "ch_mult", tuple(self.ch_mult))
        object.__setattr__(self, "attention_levels", tuple(self.attention_levels))
        if not isinstance(self.transformer_depth, int):
            object.__setattr__(self, "transformer_depth", tuple(self.transformer_depth))
        for name in ("in_channels", "out_channels", "ch", "num_res_blocks", "context_dim", "num_heads",
                     "norm_groups"):
            if getattr(self, name) < 1:
                raise BadRequest(f"{name} of a UNet is {getattr(self, name)}; it must be at least 1.")
        for name in ("head_dim", "adm_dim", "guidance_dim"):
            if getattr(self, name) < 0:
                raise BadRequest(f"{name} of a UNet is {getattr(self, name)}; it must not be negative.")
        if not self.ch_mult or min(self.ch_mult) < 1:
            raise BadRequest(f"ch_mult of a UNet is {self.ch_mult}; it needs a number from 1 for each level.")
        if not 0 <= self.dropout < 1:
            raise BadRequest(f"dropout of a UNet is {self.dropout}; it must lie in [0, 1).")
        if not set(self.attention_levels) <= set(range(len(self.ch_mult))):
            raise BadRequest(
                f"attention_levels of a UNet are {self.attention_levels}; "
                f"with {len(self.ch_mult)} levels they must lie between 0 and {len(self.ch_mult) - 1}."
            )
        if len(self.depths) != len(self.attention_levels) + 1 or min(self.depths) < 1:
            raise BadRequest(
                f"transformer_depth of a UNet is {self.transformer_depth}; it must be at least 1, "
                "or such a number for each of attention_levels and one for the middle."
            )
        if self.guidance_dim % 2 or self.guidance_dim == 2:
            raise BadRequest(f"guidance_dim of a UNet is {self.guidance_dim}; its sinusoids need 4, 6, 8 or more.")
        if self.ch % 2:
            raise BadRequest(f"ch of a UNet is {self.ch}; the time embedding needs an even number.")
        for channels in self.channels:
            if channels % self.norm_groups:
                raise BadRequest(
                    f"A level of the UNet has {channels} channels; "
                    f"norm_groups={self.norm_groups} must divide them."
                )
        heads, what = (self.head_dim, "head_dim") if self.head_dim else (self.num_heads, "num_heads")
        for level in self.attention_levels + ((len(self.ch_mult) - 1,) if self.attention_levels else ()):
            if self.channels[level] % heads:
                raise BadRequest(
                    f"Level {level} of the UNet has {self.channels[level]} channels; "
                    f"{what}={heads} must divide them."
                )

    @property
    def channels(self):
        """Channels of each level, finest first."""
        return tuple(self.ch * mult for mult in self.ch_mult)

    @property
    def depths(self):
        """Blocks in the transformers of each of `attention_levels`, and last in that of the middle."""
        if isinstance(self.transformer_depth, int):
            return (self.transformer_depth,) * (len(self.attention_levels) + 1)
        return self.transformer_depth

    @property
    def depth_of(self):
        """Blocks in the transformers of each level that has some, by its number."""
        return dict(zip(self.attention_levels, self.depths[:-1], strict=True))

    @property
    def size_multiple(self):
        """Height and width of the latents must be multiples of this."""
        return 2 ** (len(self.ch_mult) - 1)


def timestep_embedding(timesteps, dim, max_period=10_000):
    """Sinusoids of the time, cosines first: `(B,)`, whole or fractional, to `(B, dim)` float32.

    The frequencies fall geometrically from 1 to nearly 1 / max_period (Vaswani et al., 2017, section 3.5).
    """
    half = dim // 2
    exponent = torch.arange(half, dtype=torch.float32, device=timesteps.device) / half
    angles = timesteps[:, None].float() * torch.exp(-math.log(max_period) * exponent)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def guidance_embedding(scales, dim):
    """Sinusoids of guidance scales, sines first: `(B,)` to `(B, dim)` (Luo et al., 2023, "Latent consistency models").

    The frequencies fall geometrically from 1000 to 1/10 a unit of the scale above 1.
    """
    half = dim // 2
    exponent = torch.arange(half, dtype=torch.float32, device=scales.device) / (half - 1)
    angles = 1000 * (scales[:, None].float() - 1) * torch.exp(-math.log(10_000) * exponent)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def zero(module):
    """`module` with all its parameters zero: a residual branch that starts as nothing."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


class Attention(nn.Module):
    """Multi-head attention from `x` `(B, N, C)` to `context` `(B, T, context_dim)` (Vaswani et al., 2017)."""

    def __init__(self, channels, context_dim, heads):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(context_dim, channels, bias=False)
        self.to_v = nn.Linear(context_dim, channels, bias=False)
        self.to_out = nn.Sequential(nn.Linear(channels, channels))

    def by_head(self, part):
        """`(B, N, C)` as `(B, heads, N, C / heads)`."""
        return part.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, x, context):
        q, k, v = (self.by_head(part) for part in (self.to_q(x), self.to_k(context), self.to_v(context)))
        attended = F.scaled_dot_product_attention(q, k, v)
        return self.to_out(attended.transpose(1, 2).flatten(2))


class GEGLU(nn.Module):
    """A linear layer gated by the GELU of another (Shazeer, 2020)."""

    def __init__(self, channels, inner):
        super().__init__()
        self.proj = nn.Linear(channels, 2 * inner)

    def forward(self, x):
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    """The gated feed-forward layer of a transformer block, four times as wide inside."""

    def __init__(self, channels):
        super().__init__()
        # Published keys count a dropout between the two layers; it has rate 0 in every published model.
        inner = 4 * channels
        self.net = nn.Sequential(GEGLU(channels, inner), nn.Identity(), nn.Linear(inner, channels))

    def forward(self, x):
        return self.net(x)


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention to the context, feed-forward; each pre-normed and added."""

    def __init__(self, channels, context_dim, heads):
        super().__init__()
        self.attn1 = Attention(channels, channels, heads)
        self.ff = FeedForward(channels)
        self.attn2 = Attention(channels, context_dim, heads)
        self.norm1 = nn.LayerNorm(channels)
        self.norm2 = nn.LayerNorm(channels)
        self.norm3 = nn.LayerNorm(channels)

    def forward(self, x, context):
        normed = self.norm1(x)
        x = x + self.attn1(normed, normed)
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    """Transformer blocks over the pixels of `h` `(B, C, H, W)`, added to it (Rombach et al., 2022, 3.3)."""

    def __init__(self, channels, depth, config):
        super().__init__()
        heads = channels // config.head_dim if config.head_dim else config.num_heads
        self.linear = config.use_linear_projection

        def project():
            return nn.Linear(channels, channels) if self.linear else nn.Conv2d(channels, channels, 1)

        self.norm = nn.GroupNorm(config.norm_groups, channels, eps=1e-6)
        self.proj_in = project()
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(channels, config.context_dim, heads) for _ in range(depth)
        )
        self.proj_out = zero(project())

    def forward(self, h, context):
        def to_tokens(x):  # (B, C, H, W) -> (B, H * W, C)
            return x.flatten(2).transpose(1, 2)

        def to_pixels(x):  # (B, H * W, C) -> (B, C, H, W)
            return x.transpose(1, 2).unflatten(2, h.shape[-2:])

        x = self.norm(h)
        x = self.proj_in(to_tokens(x)) if self.linear else to_tokens(self.proj_in(x))
        for block in self.transformer_blocks:
            x = block(x, context)
        x = to_pixels(self.proj_out(x)) if self.linear else self.proj_out(to_pixels(x))
        return h + x


class ResBlock(nn.Module):
    """Two convolutions with the time embedding added between them, and a residual connection."""

    def __init__(self, in_channels, out_channels, emb_dim, config):
        super().__init__()
        self.in_layers = nn.Sequential(
            nn.GroupNorm(config.norm_groups, in_channels, eps=1e-5),
            nn.SiLU(),
            nn.Conv2d(in_channels, out_channels, 3, padding=1),
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb_dim, out_channels))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(config.norm_groups, out_channels, eps=1e-5),
            nn.SiLU(),
            nn.Dropout(config.dropout),
            zero(nn.Conv2d(out_channels, out_channels, 3, padding=1)),
        )
        same = in_channels == out_channels
        self.skip_connection = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x, emb):
        h = self.in_layers(x) + self.emb_layers(emb)[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(h)


class Downsample(nn.Module):
    """Half the height and width, by a strided convolution."""

    def __init__(self, channels):
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x):
        return self.op(x)


class Upsample(nn.Module):
    """Twice the height and width: nearest neighbours, then a convolution."""

    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class Stage(nn.Sequential):
    """Layers in a row, each given what it takes: the time embedding, the context, or neither."""

    def forward(self, h, emb, context):
        for layer in self:
            if isinstance(layer, ResBlock):
                h = layer(h, emb)
            elif isinstance(layer, SpatialTransformer):
                h = layer(h, context)
            else:
                h = layer(h)
        return h


class UNet(nn.Module):
    """The raw output of the net, `(B, out_channels, h, w)`; what it means is the denoiser's to say.

    `x` is `(B, C, h, w)`, `timesteps` `(B,)`, `context` `(B, T, context_dim)`. `vector`
    `(B, adm_dim)` is given exactly when `adm_dim` > 0. `concat` `(B, in_channels - C, h, w)` holds
    further input channels, for Stable Diffusion's inpainting the mask and the masked picture's latents.
    `guidance` `(B,)`, the scale at which words are to be followed, is given exactly when `guidance_dim` > 0.
    Raises `BadRequest` for a height or width that is no multiple of `config.size_multiple`, for channels
    that do not add up to `in_channels`, and for a vector or guidance that is missing or not expected.
    """

    def __init__(self, config):
        super().__init__()
        self.config = config
        emb_dim = 4 * config.ch
        self.time_embed = nn.Sequential(nn.Linear(config.ch, emb_dim), nn.SiLU(), nn.Linear(emb_dim, emb_dim))
        if config.guidance_dim:
            self.guidance_proj = zero(nn.Linear(config.guidance_dim, config.ch, bias=False))
        if config.adm_dim:
            self.label_emb = nn.Sequential(
                nn.Sequential(nn.Linear(config.adm_dim, emb_dim), nn.SiLU(), nn.Linear(emb_dim, emb_dim))
            )

        def block(level, in_channels):
            """A residual block into `level`, with a transformer after it where the level has attention."""
            channels = config.channels[level]
            layers = [ResBlock(in_channels, channels, emb_dim, config)]
            if level in config.depth_of:
                layers.append(SpatialTransformer(channels, config.depth_of[level], config))
            return layers

        # Down: every stage leaves a skip connection.
        levels = range(len(config.ch_mult))
        channels = config.ch
        skips = [channels]
        self.input_blocks = nn.ModuleList([Stage(nn.Conv2d(config.in_channels, channels, 3, padding=1))])
        for level in levels:
            for _ in range(config.num_res_blocks):
                self.input_blocks.append(Stage(*block(level, channels)))
                channels = config.channels[level]
                skips.append(channels)
            if level != levels[-1]:
                self.input_blocks.append(Stage(Downsample(channels)))
                skips.append(channels)

        # Middle
        attention = [SpatialTransformer(channels, config.depths[-1], config)] if config.attention_levels else []
        self.middle_block = Stage(
            ResBlock(channels, channels, emb_dim, config),
            *attention,
            ResBlock(channels, channels, emb_dim, config),
        )

        # Up: every stage takes a skip connection, last in first out.
        self.output_blocks = nn.ModuleList()
        for level in reversed(levels):
            for index in range(config.num_res_blocks + 1):
                layers = block(level, channels + skips.pop())
                channels = config.channels[level]
                if level and index == config.num_res_blocks:
                    layers.append(Upsample(channels))
                self.output_blocks.append(Stage(*layers))

        self.out = nn.Sequential(
            nn.GroupNorm(config.norm_groups, channels, eps=1e-5),
            nn.SiLU(),
            zero(nn.Conv2d(channels, config.out_channels, 3, padding=1)),
        )

    def forward(self, x, timesteps, context, vector=None, concat=None, guidance=None):
        h = x if concat is None else torch.cat([x, concat], dim=1)
        self._check(h, vector, guidance)
        time = timestep_embedding(timesteps, self.config.ch).to(h.dtype)
        if guidance is not None:
            time = time + self.guidance_proj(guidance_embedding(guidance, self.config.guidance_dim).to(h.dtype))
        emb = self.time_embed(time)
        if vector is not None:
            emb = emb + self.label_emb(vector)
        skips = []
        for stage in self.input_blocks:
            h = stage(h, emb, context)
            skips.append(h)
        h = self.middle_block(h, emb, context)
        for stage in self.output_blocks:
            h = stage(torch.cat([h, skips.pop()], dim=1), emb, context)
        return self.out(h)

    def _check(self, h, vector, guidance):
        channels, height, width = h.shape[1:]
        multiple = self.config.size_multiple
        if height % multiple or width % multiple:
            raise BadRequest(
                f"The latents are {width}x{height}; "
                f"this model needs width and height in multiples of {multiple}."
            )
        if channels != self.config.in_channels:
            raise BadRequest(f"The UNet was given {channels} channels; it takes {self.config.in_channels}.")
        if (vector is not None) != (self.config.adm_dim > 0):
            needs = "needs a vector a picture" if self.config.adm_dim else "takes no vector"
            raise BadRequest(f"This UNet {needs} (adm_dim is {self.config.adm_dim}).")
        if (guidance is not None) != (self.config.guidance_dim > 0):
            needs = "needs the guidance scale" if self.config.guidance_dim else "takes no guidance scale"
            raise BadRequest(f"This UNet {needs} (guidance_dim is {self.config.guidance_dim}).")
