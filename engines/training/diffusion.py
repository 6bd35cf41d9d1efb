"""Training latent diffusion: the denoiser learns what noise was added to latents (Rombach et al., 2022, eq. 2)."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from engines import tensors
from engines.checkpoints import models
from engines.diffusion import guidance, samplers, schedules
from engines.diffusion.latent import LatentDiffusion, LatentDiffusionConfig
from engines.diffusion.unet import UNetConfig
from engines.pictures import grid
from engines.runtime import autocast
from engines.training.captioned import CaptionedLatents, CaptionedRecipe, shown_captions, to_tensor
from engines.training.loop import MovingAverage, load_optimizer_state, optimizer_state
from engines.training.masks import random_mask

EVERY_HELD_OUT = 250  # steps between two looks at the held-out loss


@dataclass(frozen=True, kw_only=True)
class DiffusionRecipe(CaptionedRecipe):
    """All that a run depends on besides its pictures, its autoencoder and its text encoder."""

    unet: UNetConfig
    prediction: str = "flow"
    batch: int = 32
    rate: float = 8e-4  # peak learning rate
    mask_share: float = 0.0625  # of a batch that learns to inpaint; the rest draws from words alone
    caption_dropout: float = 0.1  # for guidance
    time_mean: float = 1.6  # of the logit of the training times; above 0 favours high noise
    time_std: float = 1.2
    ema_decay: float = 0.999


class DiffusionTrainer:
    """Learns the pictures that are not held out.

    `first_stage` is the autoencoder; `start` a model to go on from. `clip` is a trained CLIP whose
    tokenizer and text encoder the model takes over and goes on training; without one it learns words anew.
    """

    def __init__(self, recipe, examples, first_stage, device="cpu", card=None, start=None, clip=None, report=None):
        torch.manual_seed(recipe.seed)
        self.recipe, self.device, self.card = recipe, torch.device(device), card or {}
        self.batch = recipe.batch
        self.first_stage = first_stage.to(self.device).eval()
        self.pictures = CaptionedLatents(recipe, examples, self.first_stage, self.device, report)
        self.model = self._model(start, clip).to(self.device)
        self.pictures.normalise(self.model.config.latent_mean, self.model.config.latent_std)
        with torch.no_grad():
            self.blank = self.model.nothing_around(1, recipe.size, recipe.size)
        self.denoiser = self.model.denoiser()
        learned = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.average = MovingAverage(self.model, recipe.ema_decay)
        self.optimizer = torch.optim.AdamW(learned, recipe.rate, betas=(0.9, 0.99), weight_decay=0.01)

    def _model(self, start, clip):
        """A model to train: new, or with the UNet of `start`; its words those of `clip`, of `start`, or new."""
        if start is None:
            tokenizer, text = self.pictures.vocabulary()
            mean, std = self.pictures.spread()
            config = LatentDiffusionConfig(
                unet=self.recipe.unet,
                text=text,
                tokenizer=tokenizer.to_json(),
                prediction=self.recipe.prediction,
                latent_mean=mean,
                latent_std=std,
                size=self.recipe.size,
            )
        else:
            config = start.config
        words = clip or start
        if words is not None:
            config = replace(config, text=words.config.text, tokenizer=words.config.tokenizer)
        model = LatentDiffusion(config, self.first_stage)
        if start is not None:
            model.unet.load_state_dict(start.unet.state_dict())
        if words is not None:
            model.text.load_state_dict(words.text.state_dict())
        return model

    def surroundings(self, rows, rng):
        """Whole pictures to draw, and at the end of the batch `mask_share` of them with holes to fill."""
        masked = round(self.recipe.mask_share * len(rows))
        blank = self.blank.expand(len(rows) - masked, -1, -1, -1)
        if not masked:
            return blank
        masks = np.stack([random_mask(self.recipe.size, rng) for _ in range(masked)])
        pictures = to_tensor([row.pixels for row in rows[-masked:]], self.device)
        with torch.no_grad():
            holes = self.model.surroundings(pictures, torch.from_numpy(masks).unsqueeze(1).to(self.device))
        return torch.cat([blank, holes])

    def loss(self, rows, captions, concat, t, n):
        """Mean squared error of the net's raw output, at times `t (B,)` with noise `n (B, C, h, w)`."""
        x0 = torch.stack([row.latents for row in rows]).to(self.device)
        sigma = self.model.noise.sigma(t)
        x = x0 + sigma.view(-1, 1, 1, 1) * n
        c_in = self.denoiser.scalings(sigma)[2].view(-1, 1, 1, 1)
        with autocast(self.device):
            words = self.model.words(captions)
            raw = self.model.unet(c_in * x, self.model.noise.t(sigma), concat=concat, **words)
        return (raw.float() - self.denoiser.target(x0, n, sigma)).square().mean()

    def step(self, index, rate_share):
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.rate * rate_share
        self.model.unet.train()
        rows, captions, rng = self.pictures.draw(index)
        # Logit-normal times (Esser et al., 2024, section 3.1), here towards high noise: it is there that
        # words decide, and what a little noise hides is learned long before.
        logits = self.recipe.time_mean + self.recipe.time_std * torch.randn(len(rows))
        t = 1 + 998 * torch.sigmoid(logits).to(self.device)
        n = torch.randn(len(rows), *rows[0].latents.shape).to(self.device)
        loss = self.loss(rows, captions, self.surroundings(rows, rng), t, n)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.average.update(index)
        row = {"loss": loss.item()}
        if self.pictures.held_out and (index + 1) % EVERY_HELD_OUT == 0:
            row["held-out loss"] = self.held_out_loss()
        return row

    @torch.no_grad()
    def held_out_loss(self):
        """The loss of the averaged weights on fixed held-out pictures, times and noise."""
        self.model.eval()
        rows = self.pictures.held_out
        t = torch.linspace(50, 950, len(rows)).to(self.device)
        n = tensors.noise(range(len(rows)), rows[0].latents.shape).to(self.device)
        captions = [row.caption() for row in rows]
        self.average.swap()
        loss = self.loss(rows, captions, self.blank.expand(len(rows), -1, -1, -1), t, n).item()
        self.average.swap()
        return loss

    @torch.no_grad()
    def samples(self):
        """Eight pictures of fixed words by the averaged weights."""
        self.model.eval()
        self.average.swap()
        texts = shown_captions()
        count = len(texts)
        concat = {"concat": self.blank.expand(count, -1, -1, -1)}
        model = guidance.guided(
            self.denoiser, self.model.words(texts) | concat, self.model.words([""] * count) | concat, 3.0
        )
        sigmas = schedules.linear(self.model.noise, 12)
        noise = tensors.noise(range(count), self.blank[0, 1:].shape).to(self.device)
        x = samplers.sample_dpmpp_2m(model, noise * sigmas[0], sigmas.to(self.device))
        pictures = tensors.to_images(self.model.decode(x))
        self.average.swap()
        return grid(pictures, 4)

    def state(self):
        return {
            "unet": self.model.unet.state_dict(),
            "text": self.model.text.state_dict(),
            "average": self.average.values,
            "optimizer": optimizer_state(self.optimizer),
        }

    def load_state(self, state):
        self.model.unet.load_state_dict(state["unet"])
        self.model.text.load_state_dict(state["text"])
        self.average.load(state["average"])
        load_optimizer_state(self.optimizer, state["optimizer"])

    def export(self, path):
        """The averaged weights and the autoencoder in float16, with configuration and card."""
        self.average.swap()
        models.save(path, self.model, self.card)
        self.average.swap()
