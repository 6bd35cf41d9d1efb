"""Latent diffusion (Rombach et al., 2022): a UNet on the latents of an autoencoder, led by words."""

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from engines import blending
from engines.diffusion.denoisers import DENOISERS
from engines.diffusion.schedules import DiscreteNoise, FlowNoise, alphas_cumprod, scaled_linear_betas
from engines.diffusion.unet import UNet, UNetConfig
from engines.errors import BadRequest, unknown
from engines.text import tokenizer
from engines.text.encoder import TextConfig, TextEncoder


def _grey(pictures, hole):
    """As Stable Diffusion's inpainting model was trained; its hard edges colour the latents beside them."""
    return pictures * ~hole


def filled(pictures, hole):
    """`pictures (B, 3, H, W)` with what is around `hole (B, 1, H, W)` bool continued into it, grey where nothing is."""
    rows = [
        blending.membrane(picture.permute(1, 2, 0).numpy(), ~there[0].numpy())
        for picture, there in zip(pictures.cpu(), hole.cpu(), strict=True)
    ]
    return torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2).contiguous().to(pictures)


SIZES = 8, 4096  # pixels a side of the pictures that a model can have learned from
HOLES = {"grey": _grey, "filled": filled}


@dataclass(frozen=True)
class LatentDiffusionConfig:
    """All of the model but its weights and its autoencoder."""

    unet: UNetConfig
    text: TextConfig
    tokenizer: str  # the JSON text of the byte-pair encoding
    prediction: str = "flow"  # what the net predicts, a name in DENOISERS
    latent_mean: tuple[float, ...] = field(default=(0.0, 0.0, 0.0, 0.0))  # of the training latents, a channel
    latent_std: float = 1.0  # of the training latents; the UNet sees them with mean 0 and spread 1
    size: int = 128  # pixels a side of the training pictures
    hole: str = "grey"  # how the net sees what is to be painted, a key of HOLES

    def __post_init__(self):
        object.__setattr__(self, "latent_mean", tuple(self.latent_mean))
        if self.prediction not in DENOISERS:
            raise unknown("prediction", self.prediction, DENOISERS)
        if self.hole not in HOLES:
            raise unknown("hole", self.hole, HOLES)
        if self.text.width != self.unet.context_dim:
            raise BadRequest(
                f"The text encoder is {self.text.width} wide, and the UNet listens to {self.unet.context_dim}; "
                "the two must be equal."
            )
        if len(self.latent_mean) != self.unet.out_channels:
            raise BadRequest(f"latent_mean needs {self.unet.out_channels} numbers, one a channel of the latents.")
        if not all(map(math.isfinite, self.latent_mean)) or not 0 < self.latent_std < math.inf:
            raise BadRequest("latent_mean and latent_std must be finite numbers, and latent_std above 0.")
        if not SIZES[0] <= self.size <= SIZES[1]:
            raise BadRequest(f"The size of a model is {self.size}; it must lie between {SIZES[0]} and {SIZES[1]}.")


class LatentDiffusion(nn.Module):
    """UNet, text encoder and the frozen autoencoder, and the frames between them.

    With `1 + 2 C` input channels for `C` of the latents, the UNet sees a mask and the latents of the
    masked picture beside the noisy latents, as Stable Diffusion's inpainting model does.
    """

    family = "latent-diffusion"

    def __init__(self, config, first_stage):
        super().__init__()
        self.config = config
        self.first_stage = first_stage.requires_grad_(False).eval()
        self.unet = UNet(config.unet)
        self.text = TextEncoder(config.text)
        self.tokenizer = tokenizer.opened(config.tokenizer, config.text.context_length)
        # flow has a noise of its own; the others have that of Stable Diffusion
        with torch.device("cpu"):  # numbers, also where a net is built without memory
            discrete = DiscreteNoise(alphas_cumprod(scaled_linear_betas()))
        self.noise = FlowNoise() if config.prediction == "flow" else discrete
        self.register_buffer("latent_mean", torch.tensor(config.latent_mean).view(1, -1, 1, 1), persistent=False)

    @property
    def inpaints(self):
        return self.config.unet.in_channels > self.config.unet.out_channels

    @property
    def device(self):
        return self.latent_mean.device

    @property
    def size(self):
        """Pixels a side of the pictures that it learned from."""
        return self.config.size

    @property
    def size_multiple(self):
        """Pixels that both sides of a picture must be a multiple of."""
        return self.first_stage.config.factor * self.config.unet.size_multiple

    def denoiser(self):
        """The UNet as `model(x, sigma, **extra) -> denoised`."""
        return DENOISERS[self.config.prediction](self.unet, self.noise)

    def encode(self, pictures):
        """Latents `(B, C, h, w)` of `(B, 3, H, W)` in the frame of the UNet: mean 0, spread 1."""
        return (self.first_stage.encode(pictures) - self.latent_mean) / self.config.latent_std

    def decode(self, x):
        """Pictures `(B, 3, H, W)` of latents in the frame of the UNet."""
        return self.first_stage.decode(x * self.config.latent_std + self.latent_mean)

    def words(self, texts):
        """The UNet's conditioning on a list of texts: `context (B, T, width)`, and `vector` where it takes one.

        A text may be pieces `(words, weight)`.
        """
        tokens = torch.from_numpy(self.tokenizer.encode(texts)).to(self.latent_mean.device)
        hidden, pooled = self.text(tokens, torch.from_numpy(self.tokenizer.weights(texts)).to(tokens.device))
        return {"context": hidden, "vector": pooled} if self.config.unet.adm_dim else {"context": hidden}

    def surroundings(self, pictures, mask):
        """What the UNet is told of the picture around the hole: `concat (B, 1 + C, h, w)`.

        `pictures (B, 3, H, W)`; `mask (B, 1, H, W)`, 1 = repaint; what is repainted is hidden as `HOLES` say.
        """
        small = nn.functional.max_pool2d(mask, self.first_stage.config.factor)
        return torch.cat([small, self.encode(HOLES[self.config.hole](pictures, mask >= 0.5))], dim=1)

    def nothing_around(self, count, height, width):
        """`surroundings` of `count` pictures of `height x width` pixels that are repainted whole."""
        grey = self.latent_mean.new_zeros(1, 3, height, width)
        return self.surroundings(grey, torch.ones_like(grey[:, :1])).expand(count, -1, -1, -1)
