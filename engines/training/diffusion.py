"""Training latent diffusion: the denoiser learns what noise was added to latents (Rombach et al., 2022, eq. 2)."""

import itertools
from dataclasses import dataclass, replace

import numpy as np
import torch

from engines import tensors
from engines.checkpoints import models
from engines.diffusion import guidance, samplers, schedules
from engines.diffusion.latent import LatentDiffusion, LatentDiffusionConfig
from engines.diffusion.unet import UNetConfig
from engines.errors import BadRequest
from engines.pictures import grid
from engines.runtime import autocast
from engines.text.captions import BACKGROUNDS, compose
from engines.text.encoder import TextConfig
from engines.text.tokenizer import Tokenizer
from engines.training import data
from engines.training.loop import MovingAverage, load_optimizer_state, optimizer_state
from engines.training.masks import random_mask

PHOTOGRAPH = ("a photograph", "一张照片")
EVERY_HELD_OUT = 250  # steps between two looks at the held-out loss
SHOWN = ("red heart", "pizza", "cat face", "grinning face", "house", "green apple", "automobile", "苹果")


@dataclass(frozen=True)
class DiffusionRecipe:
    """All that a run depends on besides its pictures and its autoencoder."""

    unet: UNetConfig
    text_width: int = 192
    text_layers: int = 3
    text_heads: int = 4
    vocab_size: int = 3000
    context_length: int = 24  # tokens of a caption, start and end included
    prediction: str = "flow"
    size: int = 128  # pixels of the pictures
    batch: int = 32
    rate: float = 8e-4  # peak learning rate
    variants: int = 2  # encoded versions of each picture: an icon first on white, then on random backgrounds
    photo_share: float = 0.06  # of a batch, where the folder has both icons and photographs
    flip_share: float = 0.0  # of the variants; letters and maps do not like it
    mask_share: float = 0.125  # of a batch that learns to inpaint; the rest draws from words alone
    caption_dropout: float = 0.1  # share of captions replaced by nothing, for guidance
    chinese_share: float = 0.35  # of the captions that have a Chinese text
    ema_decay: float = 0.999
    seed: int = 0


class DiffusionTrainer:
    """Learns the pictures that are not held out. `first_stage` is the autoencoder; `start` a model to go on from."""

    def __init__(self, recipe, examples, first_stage, device="cpu", card=None, start=None, report=None):
        torch.manual_seed(recipe.seed)
        self.recipe, self.device, self.card = recipe, torch.device(device), card or {}
        self.batch = recipe.batch
        self.first_stage = first_stage.to(self.device).eval()
        seen = [example for example in examples if not example.held_out]
        if not seen:
            raise BadRequest("Every picture of the folder is held out from training; add more pictures.")
        self.pictures = self._variants(seen, report)
        self.held_out = self._variants([example for example in examples if example.held_out][:64], None)[:64]
        icons = [i for i, row in enumerate(self.pictures) if row.is_icon]
        photos = [i for i, row in enumerate(self.pictures) if not row.is_icon]
        self.pools = [pool for pool in (icons, photos) if pool]
        if start is None:
            self.model = LatentDiffusion(self._config(seen), self.first_stage)
        else:
            self.model = start
        self.model.to(self.device)
        self._to_model_frame()
        with torch.no_grad():
            self.blank = self.model.nothing_around(1, recipe.size, recipe.size)
        self.denoiser = self.model.denoiser()
        learned = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.average = MovingAverage(self.model, recipe.ema_decay)
        self.optimizer = torch.optim.AdamW(learned, recipe.rate, betas=(0.9, 0.99), weight_decay=0.01)

    @torch.no_grad()
    def _variants(self, examples, report, chunk=32):
        """Every example encoded `variants` times, on white first, as a list of `Variant`."""
        rng = np.random.default_rng([self.recipe.seed, 1])
        rows = []
        for example, number in itertools.product(examples, range(self.recipe.variants)):
            is_icon = example.pixels.shape[2] == 4
            background = "white" if is_icon else ""
            if is_icon and number:
                background = list(BACKGROUNDS)[1 + rng.integers(len(BACKGROUNDS) - 1)]
            pixels = data.crop(example.pixels, self.recipe.size, rng)
            pixels = data.on_background(pixels, BACKGROUNDS.get(background))
            if rng.random() < self.recipe.flip_share:
                pixels = pixels[:, ::-1]
            rows.append(Variant(example, np.ascontiguousarray(pixels), background, is_icon))
        for first in range(0, len(rows), chunk):
            part = rows[first : first + chunk]
            latents = self.first_stage.encode(_to_tensor([row.pixels for row in part], self.device)).cpu()
            rows[first : first + chunk] = [replace(row, latents=x) for row, x in zip(part, latents, strict=True)]
            if report:
                report({"encoded": first + len(part), "of": len(rows)})
        return rows

    def _config(self, seen):
        recipe = self.recipe
        names = list(PHOTOGRAPH) + [
            compose(text, example.style, background)
            for example in seen
            for text in (example.text, example.text_zh, *example.aliases)
            if text
            for background in ("white", "blue")
        ]
        backgrounds = [compose(text, "flat", name) for text in PHOTOGRAPH for name in BACKGROUNDS] * 2
        tokenizer = Tokenizer.train(names + backgrounds, recipe.vocab_size, recipe.context_length)
        latents = torch.stack([row.latents for row in self.pictures])
        mean = latents.mean((0, 2, 3))
        return LatentDiffusionConfig(
            unet=recipe.unet,
            text=TextConfig(
                vocab_size=tokenizer.vocab_size,
                context_length=recipe.context_length,
                width=recipe.text_width,
                layers=recipe.text_layers,
                heads=recipe.text_heads,
                end_token=tokenizer.end_token,
            ),
            tokenizer=tokenizer.to_json(),
            prediction=recipe.prediction,
            latent_mean=tuple(mean.tolist()),
            latent_std=(latents - mean.view(1, -1, 1, 1)).std().item(),
            size=recipe.size,
        )

    def _to_model_frame(self):
        mean, std = self.model.latent_mean[0].cpu(), self.model.config.latent_std
        for row in itertools.chain(self.pictures, self.held_out):
            row.latents.sub_(mean).div_(std)

    def draw(self, index):
        """The batch of one step, from the step's number alone: variants and their captions."""
        rng = np.random.default_rng([self.recipe.seed, 2, index])
        rows, captions = [], []
        for _ in range(self.recipe.batch):
            pool = self.pools[-1 if rng.random() < self.recipe.photo_share else 0]
            row = self.pictures[pool[rng.integers(len(pool))]]
            rows.append(row)
            captions.append("" if rng.random() < self.recipe.caption_dropout else self.caption(row, rng))
        return rows, captions, rng

    def caption(self, row, rng):
        """One of the ways to say what a picture shows; now and then without style or background."""
        example = row.example
        chinese = rng.random() < self.recipe.chinese_share
        text = example.text or ("" if row.is_icon else PHOTOGRAPH[0])
        if chinese and (example.text_zh or not example.text):
            text = example.text_zh or ("" if row.is_icon else PHOTOGRAPH[1])
        elif example.aliases and rng.random() < 0.15:
            text = example.aliases[rng.integers(len(example.aliases))]
        style = example.style if rng.random() < 0.9 else ""
        said = rng.random() < (0.3 if row.background == "white" else 0.95)
        return compose(text, style, row.background if said else "")

    def surroundings(self, rows, rng):
        """Whole pictures to draw, and at the end of the batch `mask_share` of them with holes to fill."""
        masked = round(self.recipe.mask_share * len(rows))
        blank = self.blank.expand(len(rows) - masked, -1, -1, -1)
        if not masked:
            return blank
        masks = np.stack([random_mask(self.recipe.size, rng) for _ in range(masked)])
        pictures = _to_tensor([row.pixels for row in rows[-masked:]], self.device)
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
        rows, captions, rng = self.draw(index)
        # Logit-normal times: most of the work is in the middle (Esser et al., 2024, section 3.1).
        t = 1 + 998 * torch.sigmoid(torch.randn(len(rows))).to(self.device)
        n = torch.randn(len(rows), *rows[0].latents.shape).to(self.device)
        loss = self.loss(rows, captions, self.surroundings(rows, rng), t, n)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.average.update(index)
        row = {"loss": loss.item()}
        if self.held_out and (index + 1) % EVERY_HELD_OUT == 0:
            row["held-out loss"] = self.held_out_loss()
        return row

    @torch.no_grad()
    def held_out_loss(self):
        """The loss of the averaged weights on fixed held-out pictures, times and noise."""
        self.model.eval()
        rows = self.held_out
        t = torch.linspace(50, 950, len(rows)).to(self.device)
        n = tensors.noise(range(len(rows)), rows[0].latents.shape).to(self.device)
        captions = [compose(row.example.text, row.example.style, row.background) for row in rows]
        self.average.swap()
        loss = self.loss(rows, captions, self.blank.expand(len(rows), -1, -1, -1), t, n).item()
        self.average.swap()
        return loss

    @torch.no_grad()
    def samples(self):
        """Eight pictures of fixed words by the averaged weights."""
        self.model.eval()
        self.average.swap()
        count = len(SHOWN)
        styles = itertools.cycle(("3d", "flat", "glossy", "cartoon"))
        texts = [compose(text, style) for text, style in zip(SHOWN, styles, strict=False)]
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
        self.average.values = state["average"]
        load_optimizer_state(self.optimizer, state["optimizer"])

    def export(self, path):
        """The averaged weights and the autoencoder in float16, with configuration and card."""
        self.average.swap()
        models.save(path, self.model, self.card)
        self.average.swap()


@dataclass(frozen=True)
class Variant:
    """One encoded version of a picture."""

    example: data.Example
    pixels: np.ndarray  # uint8 (size, size, 3)
    background: str  # its name; empty for a photograph
    is_icon: bool
    latents: torch.Tensor | None = None  # (C, h, w)


def _to_tensor(pictures, device):
    return tensors.from_bytes(torch.from_numpy(np.stack(pictures))).to(device)
