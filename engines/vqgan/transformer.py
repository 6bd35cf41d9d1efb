"""The token transformer of MaskGIT and Muse (Chang et al., 2022 and 2023): which code stands where.

It sees a map of tokens, some of them hidden, and words, and says for every place how likely each code is.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from engines.errors import BadRequest


@dataclass(frozen=True)
class TransformerConfig:
    """The shape of a token transformer."""

    n_embed: int = 1024  # codes of the VQGAN
    side: int = 16  # tokens a side of the maps it learns; positions of other maps are interpolated
    patch: int = 1  # tokens a side of the squares that the blocks see as one
    width: int = 768  # channels of a token, and of a patch
    layers: int = 24
    heads: int = 12  # attention heads; divides width
    context_dim: int = 768  # width of the context tokens
    dropout: float = 0.0  # after attention and feed-forward, in [0, 1)

    def __post_init__(self):
        for name in ("n_embed", "side", "patch", "width", "layers", "heads", "context_dim"):
            if getattr(self, name) < 1:
                raise BadRequest(f"{name} of a token transformer is {getattr(self, name)}; it must be at least 1.")
        if self.width % self.heads:
            raise BadRequest(f"A token transformer of width {self.width} cannot be split into {self.heads} heads.")
        if not 0 <= self.dropout < 1:
            raise BadRequest(f"dropout of a token transformer is {self.dropout}; it must lie in [0, 1).")


class Attention(nn.Module):
    """Multi-head attention from `x (B, N, width)` to `context (B, T, context_dim)` (Vaswani et al., 2017)."""

    def __init__(self, width, context_dim, heads):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(context_dim, width)
        self.to_v = nn.Linear(context_dim, width)
        self.to_out = nn.Linear(width, width)

    def forward(self, x, context):
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, N or T, width / heads)
            for part in (self.to_q(x), self.to_k(context), self.to_v(context))
        )
        return self.to_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Self-attention, cross-attention to the words, feed-forward; each pre-normed and added."""

    def __init__(self, config):
        super().__init__()
        width = config.width
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.attention = Attention(width, width, config.heads)
        self.listening = Attention(width, config.context_dim, config.heads)
        self.feed_forward = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x, context):
        normed = self.norm1(x)
        x = x + self.dropout(self.attention(normed, normed))
        x = x + self.dropout(self.listening(self.norm2(x), context))
        return x + self.dropout(self.feed_forward(self.norm3(x)))


class TokenTransformer(nn.Module):
    """Logits `(B, h, w, n_embed)` for every place of a map of tokens of which some are hidden.

    `tokens` is `(B, h, w)` int64, `hidden` `(B, h, w)` bool, `context` `(B, T, context_dim)`; what the
    tokens are where they are hidden has no influence.
    """

    def __init__(self, config):
        super().__init__()
        self.config = config
        width, patch = config.width, config.patch
        self.tokens = nn.Embedding(config.n_embed + 1, width)
        self.patch_embed = nn.Conv2d(width, width, patch, stride=patch)
        side = math.ceil(config.side / patch)
        self.positions = nn.Parameter(0.02 * torch.randn(1, width, side, side))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.unpatch = nn.ConvTranspose2d(width, width, patch, stride=patch)
        self.head = nn.Sequential(nn.GELU(), nn.LayerNorm(width))
        self.bias = nn.Parameter(torch.zeros(config.n_embed))
        self._init_weights()

    def forward(self, tokens, hidden, context):
        return self.logits(self.features(tokens, hidden, context)).unflatten(1, tokens.shape[1:])

    def features(self, tokens, hidden, context):
        """What is known of every place: `(B, h * w, width)`, of which `logits` are told."""
        height, width = tokens.shape[1:]
        patch, unknown = self.config.patch, self.config.n_embed  # the embedding after the last code's
        # a map that patches do not fill goes on unseen
        tokens = F.pad(tokens.masked_fill(hidden, unknown), (0, -width % patch, 0, -height % patch), value=unknown)
        x = self.patch_embed(self.tokens(tokens).permute(0, 3, 1, 2))
        positions, shape = self.positions, x.shape[2:]
        if shape != positions.shape[2:]:
            positions = F.interpolate(positions, size=shape, mode="bicubic")
        x = (x + positions).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x, context)
        x = self.unpatch(self.norm(x).transpose(1, 2).unflatten(2, shape))
        return x[:, :, :height, :width].flatten(2).transpose(1, 2)

    def logits(self, features):
        """Logits `(..., n_embed)` of features `(..., width)`."""
        # The codes' own embeddings are the classifier (Press & Wolf, 2017).
        return F.linear(self.head(features), self.tokens.weight[:-1], self.bias)

    @torch.no_grad()
    def begin_with(self, codes, reach):
        """Let embeddings of codes begin alike that are alike: as random Fourier features (Rahimi & Recht, 2007).

        `codes` is the codebook `(n_embed, D)`; how alike two begin falls with their distance as a Gaussian of
        the width `reach`.
        """
        frequencies = torch.randn(codes.shape[1], self.config.width).to(codes) / reach
        phases = 2 * math.pi * torch.rand(self.config.width).to(codes)
        self.tokens.weight[:-1] = 0.02 * 2**0.5 * torch.cos(codes @ frequencies + phases)

    def _init_weights(self):
        """Normal weights of spread 0.02, as BERT's and MaskGIT's; branches into the sum start smaller."""
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        for block in self.blocks:
            for last in (block.attention.to_out, block.listening.to_out, block.feed_forward[2]):
                nn.init.normal_(last.weight, std=0.02 / (2 * self.config.layers) ** 0.5)
