"""Training latent diffusion: the denoiser learns what noise was added to latents (Rombach et al., 2022, eq. 2)."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from engines import tensors
from engines.diffusion import guidance, samplers, schedules
from engines.diffusion.latent import LatentDiffusion, LatentDiffusionConfig
from engines.diffusion.unet import UNetConfig
from engines.runtime import autocast
from engines.training.captioned import CaptionedRecipe, to_tensor
from engines.training.drawing import DrawingTrainer
from engines.training.masks import random_mask


@dataclass(frozen=True, kw_only=True)
class DiffusionRecipe(CaptionedRecipe):
    """All that a run depends on besides its pictures, its autoencoder and its text encoder."""

    unet: UNetConfig
    prediction: str = "flow"
    hole: str = "filled"  # how the net sees what it is to paint
    batch: int = 32
    rate: float = 8e-4  # peak learning rate
    mask_share: float = 0.25  # of a batch that learns to inpaint; the rest draws from words alone
    masked_photo_share: float = 0.6  # of those; what people restore is mostly photographs
    masked_caption_dropout: float = 0.5  # of those; a restoration has words only now and then
    caption_dropout: float = 0.1  # for guidance
    time_mean: float = 1.6  # of the logit of the training times; above 0 favours high noise
    masked_time_mean: float = 0.0  # where the picture around is known, words decide less
    time_std: float = 1.2
    known_weight: float = 0.1  # of an error where the picture is known, against 1 where it is to be painted
    ema_decays: tuple = (0.999, 0.9998)  # two lengths, of which the better is kept

    @property
    def masked(self):
        """How many rows of a batch, the last ones, have holes to fill."""
        return round(self.mask_share * self.batch)

    def odds(self):
        whole = super().odds()[self.masked :]
        return whole + [(self.masked_photo_share, self.masked_caption_dropout)] * self.masked


class DiffusionTrainer(DrawingTrainer):
    """A UNet learns to remove noise from latents; a share of each batch learns to fill holes."""

    model_class = LatentDiffusion
    net = "unet"

    def new_config(self, tokenizer, text):
        mean, std = self.pictures.spread()
        return LatentDiffusionConfig(
            unet=self.recipe.unet,
            text=text,
            tokenizer=tokenizer,
            prediction=self.recipe.prediction,
            latent_mean=mean,
            latent_std=std,
            size=self.recipe.size,
            hole=self.recipe.hole,
        )

    def config_of(self, start):
        unet = replace(start.config.unet, dropout=self.recipe.unet.dropout)
        return replace(start.config, unet=unet, hole=self.recipe.hole)

    def prepare(self, is_new):
        self.pictures.normalise(self.model.config.latent_mean, self.model.config.latent_std)
        self.denoiser = self.model.denoiser()
        with torch.no_grad():
            self.blank = self.model.nothing_around(1, self.recipe.size, self.recipe.size)

    def loss(self, rows, captions, rng):
        # Logit-normal times (Esser et al., 2024, section 3.1), here towards high noise: it is there that
        # words decide, and what a little noise hides is learned long before.
        means = torch.full((len(rows),), self.recipe.time_mean)
        means[len(rows) - self.recipe.masked :] = self.recipe.masked_time_mean
        logits = means + self.recipe.time_std * torch.randn(len(rows))
        t = 1 + 998 * torch.sigmoid(logits).to(self.device)
        n = torch.randn(len(rows), *rows[0].encoded.shape).to(self.device)
        return self.denoising_loss(rows, captions, self.surroundings(rows, rng), t, n)

    def loss_of_held_out(self, rows, captions):
        t = torch.linspace(50, 950, len(rows)).to(self.device)
        n = tensors.noise(range(len(rows)), rows[0].encoded.shape).to(self.device)
        return self.denoising_loss(rows, captions, self.blank.expand(len(rows), -1, -1, -1), t, n)

    def denoising_loss(self, rows, captions, concat, t, n):
        """Mean squared error of the net's raw output, at times `t (B,)` with noise `n (B, C, h, w)`.

        Beside a hole `known_weight` counts, so that a scratch is not lost in what the net only has to copy.
        """
        x0 = torch.stack([row.encoded for row in rows]).to(self.device)
        sigma = self.model.noise.sigma(t)
        x = x0 + sigma.view(-1, 1, 1, 1) * n
        c_in = self.denoiser.scalings(sigma)[2].view(-1, 1, 1, 1)
        with autocast(self.device, self.precision):
            words = self.model.words(captions)
            raw = self.model.unet(c_in * x, self.model.noise.t(sigma), concat=concat, **words)
        weight = torch.where(concat[:, :1] > 0, 1, self.recipe.known_weight)
        weight = weight / weight.mean((1, 2, 3), keepdim=True)
        return (weight * (raw.float() - self.denoiser.target(x0, n, sigma)).square()).mean()

    def surroundings(self, rows, rng):
        """Whole pictures to draw, and at the end of the batch those with holes to fill."""
        masked = self.recipe.masked
        blank = self.blank.expand(len(rows) - masked, -1, -1, -1)
        if not masked:
            return blank
        masks = np.stack([random_mask(self.recipe.size, rng) for _ in range(masked)])
        pictures = to_tensor([row.pixels for row in rows[-masked:]], self.device)
        with torch.no_grad():
            holes = self.model.surroundings(pictures, torch.from_numpy(masks).unsqueeze(1).to(self.device))
        return torch.cat([blank, holes])

    def draw(self, words, nothing, steps=12, cfg_scale=3.0):
        count = len(words["context"])
        around = {"concat": self.blank.expand(count, -1, -1, -1)}
        model = guidance.guided(self.denoiser, words | around, nothing | around, cfg_scale)
        sigmas = schedules.linear(self.model.noise, steps)
        noise = tensors.noise(range(count), self.blank[0, 1:].shape).to(self.device)
        x = samplers.sample_dpmpp_2m(model, noise * sigmas[0], sigmas.to(self.device))
        return self.model.decode(x)
