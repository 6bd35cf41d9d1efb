"""The GPT of taming-transformers (Esser et al., 2021): a VQGAN's tokens one after the other, row by row.

Modules carry the names of the published checkpoints. The picture's tokens follow one that says what it is: the number
of a class, or `START`.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from engines.errors import BadRequest
from engines.vqgan import decoding

START = 0  # comes first where there are no classes


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a GPT, and what it may be asked."""

    n_embed: int  # codes of the VQGAN
    side: int  # tokens a side of the maps it learned
    width: int
    layers: int
    heads: int  # attention heads; divides width
    classes: int | None = None  # 0 where it knows none; of None neither is known, and all is taken

    def __post_init__(self):
        if self.width % self.heads:
            raise BadRequest(f"A GPT of width {self.width} cannot be split into {self.heads} heads.")


class Attention(nn.Module):
    """Multi-head attention of each token to itself and those before it."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.key, self.query, self.value, self.proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x, past=None):
        q, k, v = (
            part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, T, width / heads)
            for part in (self.query, self.key, self.value)
        )
        if past is not None:
            k, v = (torch.cat(pair, dim=2) for pair in zip(past, (k, v), strict=True))
        count, seen = q.shape[2], k.shape[2]
        before = torch.ones(count, seen, dtype=torch.bool, device=x.device).tril(seen - count)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=before)
        return self.proj(x.transpose(1, 2).flatten(2)), (k, v)


class Block(nn.Module):
    """Attention and feed-forward, each pre-normed and added."""

    def __init__(self, width, heads):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x, past=None):
        told, past = self.attn(self.ln1(x), past)
        x = x + told
        return x + self.mlp(self.ln2(x)), past


class GPT(nn.Module):
    """How likely each code comes next.

    Tokens `(B, T)` int64 become logits `(B, T, n_embed)`, and the keys and values of every block, with which the next
    call goes on after them as `past`.
    """

    def __init__(self, config):
        super().__init__()
        self.tok_emb = nn.Embedding(config.n_embed, config.width)
        self.pos_emb = nn.Parameter(torch.zeros(1, config.side**2, config.width))
        self.blocks = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.layers))
        self.ln_f = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, config.n_embed, bias=False)

    def forward(self, tokens, past=None):
        begin = past[0][0].shape[2] if past else 0
        x = self.tok_emb(tokens) + self.pos_emb[:, begin : begin + tokens.shape[1]]
        kept = []
        for block, before in zip(self.blocks, past or [None] * len(self.blocks), strict=True):
            x, pair = block(x, before)
            kept.append(pair)
        return self.head(self.ln_f(x)), kept


class RasterGenerator(nn.Module):
    """The GPT and its frozen VQGAN."""

    family = "taming-transformer"

    def __init__(self, config, first_stage):
        super().__init__()
        if config.n_embed != first_stage.codebook_config.n_embed:
            raise BadRequest(
                f"The transformer knows {config.n_embed} codes, and the VQGAN has "
                f"{first_stage.codebook_config.n_embed}; the two must be equal."
            )
        self.config = config
        self.first_stage = first_stage.requires_grad_(False).eval()
        self.transformer = GPT(config)

    @property
    def size(self):
        """Pixels a side of the pictures that it learned from, the only ones that it draws."""
        return self.config.side * self.first_stage.config.factor

    @property
    def size_multiple(self):
        """Pixels that both sides of a picture must be a multiple of."""
        return self.first_stage.config.factor

    @property
    def device(self):
        return self.transformer.pos_emb.device

    def first(self, prompt):
        """The token of a class by its number, a text, or `START` of an empty one. Raises `BadRequest` for another."""
        classes = self.config.classes
        if not prompt and not classes:
            return START
        if classes == 0:
            raise BadRequest("This model reads no words and knows no classes: leave the prompt empty.")
        most = classes or self.config.n_embed
        if prompt not in map(str, range(most)):
            raise BadRequest(
                f"The prompt is “{prompt}”; this model reads no words but the number of a class, from 0 to {most - 1}"
                f"{'' if classes else ', or nothing if it knows none'}."
            )
        return int(prompt)

    def decode(self, tokens):
        """Pictures `(B, 3, H, W)` of tokens `(B, h, w)`."""
        return self.first_stage.decode_indices(tokens)


def follow(model, first, noise, *, temperature=1.0, top_k=0, top_p=1.0, callback=None):
    """The tokens `(B, N)` that follow `first (B,)`, each guessed from all before it, as `decoding.guess` does.

    `model(tokens, past) -> (logits, past)` as a `GPT`. `noise (B, N, n_embed)` is Gumbel noise. `callback(index,
    tokens)` is called after each token, with zeros in the place of those to come.
    """
    token, past = first[:, None], None
    tokens = first.new_zeros(noise.shape[:2])
    for index in range(noise.shape[1]):
        logits, past = model(token, past)
        scores = logits[:, -1:].float().log_softmax(-1)
        token = decoding.guess(scores, noise[:, index : index + 1].to(scores), temperature, top_k, top_p)
        tokens[:, index : index + 1] = token
        if callback:
            callback(index + 1, tokens)
    return tokens
