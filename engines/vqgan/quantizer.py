"""Vector quantization: every latent vector becomes an entry of a codebook, the nearest or the one of most weight."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True)
class Quantized:
    """`codes (B, D, h, w)` with straight-through gradient, `indices (B, h, w)` int64, and the scalar loss."""

    codes: torch.Tensor
    indices: torch.Tensor
    loss: torch.Tensor


class Quantizer(nn.Module):
    """What has a `codebook (n_embed, embed_dim)`."""

    l2_normalised = False

    def lookup(self, indices):
        """The codes `(B, D, h, w)` of `indices (B, h, w)`."""
        return F.embedding(indices, self.codebook).permute(0, 3, 1, 2)


class VectorQuantizer(Quantizer):
    """Nearest-code quantizer (van den Oord et al., 2017).

    The codebook `(n_embed, embed_dim)` learns by gradient (eq. 3) or, with `ema_decay > 0`, as the
    running mean of the vectors that chose each code (their appendix A.1). With `l2_normalised` both
    vectors and codes lie on the unit sphere (Yu et al., 2022). A code of an EMA codebook whose
    running count falls below `restart_below` is dead and restarts at a random vector of the batch.
    """

    def __init__(self, n_embed, embed_dim, *, beta=0.25, l2_normalised=False, ema_decay=0.0, restart_below=0.05):
        super().__init__()
        self.beta, self.l2_normalised = beta, l2_normalised
        self.ema_decay, self.restart_below = ema_decay, restart_below
        self.embedding = nn.Embedding(n_embed, embed_dim)
        nn.init.uniform_(self.embedding.weight, -1 / n_embed, 1 / n_embed)
        if l2_normalised:
            self.embedding.weight.data = F.normalize(torch.randn(n_embed, embed_dim), dim=1)
        if ema_decay:
            self.embedding.weight.requires_grad_(False)
            self.register_buffer("counts", torch.zeros(n_embed), persistent=False)
            self.register_buffer("sums", self.embedding.weight.detach().clone(), persistent=False)
            self.register_load_state_dict_post_hook(VectorQuantizer._alive)

    def _alive(self, _):
        """Codes that come from a file are in use: training goes on from them instead of restarting them."""
        self.sums = self.embedding.weight.detach().clone()  # where they are, which may be elsewhere than before
        self.counts = torch.ones_like(self.sums[:, 0])

    @property
    def codebook(self):
        weight = self.embedding.weight
        return F.normalize(weight, dim=1) if self.l2_normalised else weight

    def forward(self, z):
        """Quantize `z (B, D, h, w)`; in training mode an EMA codebook also learns from it."""
        if self.l2_normalised:
            z = F.normalize(z, dim=1)
        flat = z.permute(0, 2, 3, 1).reshape(-1, z.shape[1])
        indices = self.nearest(flat)
        codes = self.lookup(indices.view(z.shape[0], *z.shape[2:]))
        if self.training and self.ema_decay:
            self._follow(flat.detach(), indices)
        loss = self.beta * F.mse_loss(z, codes.detach())
        if not self.ema_decay:
            loss = loss + F.mse_loss(codes, z.detach())
        return Quantized(z + (codes - z).detach(), indices.view(z.shape[0], *z.shape[2:]), loss)

    def nearest(self, vectors):
        """Indices `(N,)` of the codes nearest to `vectors (N, D)` in Euclidean distance."""
        codebook = self.codebook
        return torch.addmm(codebook.square().sum(1), vectors, codebook.T, alpha=-2).argmin(1)

    @torch.no_grad()
    def _follow(self, vectors, indices):
        n_embed = len(self.counts)
        self.counts.lerp_(torch.bincount(indices, minlength=n_embed).to(vectors), 1 - self.ema_decay)
        self.sums.lerp_(torch.zeros_like(self.sums).index_add_(0, indices, vectors), 1 - self.ema_decay)
        dead = (self.counts < self.restart_below).nonzero().flatten()[: len(vectors)]
        chosen = torch.randperm(len(vectors))[: len(dead)]
        self.counts[dead] = 1.0
        self.sums[dead] = vectors[chosen.to(vectors.device)]
        self.embedding.weight.copy_(self.sums / self.counts.clamp(min=1e-5).unsqueeze(1))


class GumbelQuantizer(Quantizer):
    """Quantizer by logits: each latent vector becomes the code of the highest (Ramesh et al., 2021).

    The published ones learned by the Gumbel-softmax relaxation (Jang et al., 2017). Here nothing is left to chance, and
    nothing learns: the loss is 0.
    """

    def __init__(self, n_embed, embed_dim):
        super().__init__()
        self.embed = nn.Embedding(n_embed, embed_dim)
        self.proj = nn.Conv2d(embed_dim, n_embed, 1)

    @property
    def codebook(self):
        return self.embed.weight

    def forward(self, z):
        """Quantize `z (B, D, h, w)`."""
        indices = self.proj(z).argmax(1)
        return Quantized(self.lookup(indices), indices, z.new_zeros(()))


def usage(indices, n_embed):
    """How many codes `indices` use, and their perplexity: exp of the entropy of their frequencies."""
    counts = torch.bincount(indices.flatten(), minlength=n_embed).double()
    shares = counts[counts > 0] / counts.sum()
    return int((counts > 0).sum()), float(torch.exp(-(shares * shares.log()).sum()))
