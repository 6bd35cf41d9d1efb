"""Training an upscaler: what small pictures lack is told from under noise, and from nothing at all."""

from dataclasses import dataclass, field, replace

import numpy as np
import torch

from engines import tensors
from engines.diffusion.upscaler import Upscaler, UpscalerConfig, enlarged
from engines.pictures import grid
from engines.runtime import autocast
from engines.training import data
from engines.training.loop import fingerprint
from engines.training.trainer import Trainer
from engines.training.wear import reduced, worn

MEASURED = 256  # crops of each scale that the spread of residuals is told from


@dataclass(frozen=True, kw_only=True)
class UpscalerRecipe:
    """All that a run depends on besides its pictures."""

    net: UpscalerConfig = field(default_factory=UpscalerConfig)
    size: int = 256  # pixels a side that icons are reduced to; photographs keep up to twice as much
    crop: int = 32  # pixels a side of the small pictures
    batch: int = 16
    rate: float = 8e-4  # peak learning rate
    photo_share: float = 0.7  # of a batch, where the folder has both icons and photographs
    clean_share: float = 0.4  # of a batch: made smaller and nothing else
    mean_share: float = 0.5  # of a batch: told from nothing, as the first step does
    ema_decays: tuple = (0.999,)
    seed: int = 0


class UpscalerTrainer(Trainer):
    """Learns the pictures that are not held out; raises `BadRequest` if all of them are."""

    weight_decay = 1e-4

    def __init__(self, recipe, examples, device="cpu", card=None, start=None):
        torch.manual_seed(recipe.seed)
        self.recipe, self.device, self.card = recipe, torch.device(device), card or {}
        self.batch = recipe.batch
        kept = data.not_held_out(examples)
        self.pools = [[e for e in kept if e.pixels.shape[2] == channels] for channels in (4, 3)]
        self.shown = data.evenly([example for example in examples if example.held_out], 8)
        self.model = Upscaler(start.config if start else replace(recipe.net, residual_std=self._spread()))
        if start:
            self.model.load_state_dict(start.state_dict())
        self.model.to(self.device)
        self.begin()

    def _spread(self):
        # of what bicubic enlargement lacks at each scale, over the whole way of wear
        found = {scale: [] for scale in self.recipe.net.scales}
        for index in range(len(found) * -(-MEASURED // self.batch)):
            large, small, _, scale = self.pictures(index)
            found[scale].append((large - enlarged(small, scale)).square().mean())
        return tuple(torch.stack(errors).mean().sqrt().item() for errors in found.values())

    def pictures(self, index):
        """The batch of one step, from the step's number alone: large and small pictures, wear `(B,)`, and the scale."""
        recipe, rng = self.recipe, np.random.default_rng([self.recipe.seed, index])
        scale = recipe.net.scales[index % len(recipe.net.scales)]
        pools = [pool for pool in self.pools if pool]
        large, small, wears = [], [], []
        for _ in range(recipe.batch):
            pool = pools[-1 if rng.random() < recipe.photo_share else 0]
            pixels = data.crop(pool[rng.integers(len(pool))].pixels, recipe.crop * scale, rng)
            pixels = data.on_background(pixels, data.random_background(rng)[1])
            pixels = np.ascontiguousarray(np.rot90(pixels, rng.integers(4))[:, :: 1 - 2 * int(rng.integers(2))])
            wear = 0.0 if rng.random() < recipe.clean_share else rng.uniform(0.05, 1)
            large.append(pixels)
            small.append(worn(pixels, scale, wear, rng))
            wears.append(wear)
        large, small = (tensors.from_bytes(torch.from_numpy(np.stack(rows))) for rows in (large, small))
        return large.to(self.device), small.to(self.device), torch.tensor(wears).float().to(self.device), scale

    def step(self, index, rate_share):
        self.model.train()
        large, small, wear, scale = self.pictures(index)
        residual = self.model.residual(large, small, scale)
        t = torch.rand(len(residual), device=self.device)
        told = round(self.recipe.mean_share * len(residual))
        t[:told] = 1
        at = t.view(-1, 1, 1, 1)
        noisy = (1 - at) * residual + at * torch.randn(residual.shape).to(self.device)
        noisy[:told] = 0
        with autocast(self.device, self.precision):
            found = self.model(small, noisy, t, wear, scale)
        errors = (found.float() - residual).square().mean((1, 2, 3))
        loss = errors.mean()
        self.learn(loss, index, rate_share)
        return {"loss": loss.item(), "of the mean": errors[:told].mean().item() if told else loss.item()}

    @torch.no_grad()
    def samples(self):
        """Held-out pictures at a quarter of their sides, enlarged by bicubic and by the averaged weights."""
        self.model.eval()
        scale, rows, rng = max(self.recipe.net.scales), [], np.random.default_rng(0)
        side = self.recipe.crop * scale
        with self.average.swapped():
            for example in self.shown:
                large = data.middle(example.pixels, side)
                small = tensors.from_bytes(torch.from_numpy(reduced(large, scale, rng)[None])).to(self.device)
                shape = small.shape[0], 3 * scale * scale, *small.shape[2:]
                made = self.model.sample(small, scale, noise=lambda index, shape=shape: torch.zeros(shape))
                rows += [tensors.to_images(x)[0] for x in (enlarged(small, scale), made)]
        return grid(rows or [tensors.to_images(torch.zeros(1, 3, side, side))[0]], 4)

    def fingerprint(self):
        return fingerprint(self.model.config, self.recipe.ema_decays)
