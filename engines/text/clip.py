"""Words and pictures in one space (CLIP; Radford et al., 2021): how the text encoder learns what words look like."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from engines.errors import BadRequest
from engines.text.encoder import TextConfig, TextEncoder
from engines.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class CLIPConfig:
    """All of the model but its weights."""

    text: TextConfig
    tokenizer: str  # the JSON text of the byte-pair encoding
    latent_mean: tuple[float, ...]  # of the training latents, a channel
    latent_std: float  # of the training latents; the picture tower sees them with mean 0 and spread 1
    latent_size: int = 16  # sides of the latents; a multiple of 4
    ch: int = 64  # channels of the picture tower's first level

    def __post_init__(self):
        object.__setattr__(self, "latent_mean", tuple(self.latent_mean))
        if self.latent_size < 4 or self.latent_size % 4:
            raise BadRequest(f"latent_size of a CLIP is {self.latent_size}; it must be a multiple of 4.")
        if self.ch < 8 or self.ch % 8:
            raise BadRequest(f"ch of a CLIP is {self.ch}; it must be a multiple of 8.")


class CLIP(nn.Module):
    """A text tower and a small convolutional picture tower over the latents of an autoencoder."""

    family = "clip"

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.tokenizer = Tokenizer(config.tokenizer, config.text.context_length)
        self.text = TextEncoder(config.text)
        self.text_projection = nn.Linear(config.text.width, config.text.width, bias=False)
        ch = config.ch
        self.picture = nn.Sequential(
            *_layer(len(config.latent_mean), ch),
            *_layer(ch, 2 * ch, stride=2),
            *_layer(2 * ch, 2 * ch),
            *_layer(2 * ch, 4 * ch, stride=2),
            *_layer(4 * ch, 4 * ch),
            nn.Flatten(),
            nn.Linear(4 * ch * (config.latent_size // 4) ** 2, config.text.width),
        )
        self.logit_scale = nn.Parameter(torch.tensor(math.log(10.0)))

    def embed_texts(self, texts):
        """Unit vectors `(B, width)` of a list of texts."""
        tokens = torch.from_numpy(self.tokenizer.encode(texts)).to(self.logit_scale.device)
        return F.normalize(self.text_projection(self.text(tokens)[1]), dim=-1)

    def embed_latents(self, x):
        """Unit vectors `(B, width)` of latents `(B, C, h, w)` with mean 0 and spread 1."""
        return F.normalize(self.picture(x), dim=-1)

    def similarity(self, texts, pictures):
        """How well embedded texts fit embedded pictures: `(texts, pictures)`, scaled for a softmax."""
        return self.logit_scale.exp().clamp(max=100) * texts @ pictures.T


def _layer(in_channels, out_channels, stride=1):
    return nn.Conv2d(in_channels, out_channels, 3, stride, 1), nn.GroupNorm(8, out_channels), nn.SiLU()
