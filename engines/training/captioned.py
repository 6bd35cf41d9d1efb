"""Captioned pictures as latents: what the trainers of words and pictures draw their batches from."""

import itertools
from dataclasses import dataclass, replace

import numpy as np
import torch

from engines import tensors
from engines.text.captions import BACKGROUNDS, compose
from engines.text.encoder import TextConfig
from engines.text.tokenizer import Tokenizer
from engines.training import data

PHOTOGRAPH = ("a photograph", "一张照片")
HELD_OUT = 64  # pictures, evenly taken, to watch a run by
SHOWN = ("red heart", "pizza", "cat face", "grinning face", "house", "green apple", "automobile", "苹果")


@dataclass(frozen=True, kw_only=True)
class CaptionedRecipe:
    """How pictures and captions are drawn and how words are read: the part that the recipes share."""

    text_width: int = 192
    text_layers: int = 3
    text_heads: int = 4
    vocab_size: int = 3000
    context_length: int = 24  # tokens of a caption, start and end included
    size: int = 128  # pixels of the pictures
    batch: int
    variants: int = 2  # encoded versions of each icon: first on white, then on random backgrounds
    photo_variants: int = 16  # of each photograph: windows of any size, every other one mirrored
    photo_share: float = 0.03  # of a batch, where the folder has both icons and photographs
    flip_share: float = 0.0  # of the variants of icons; letters and maps do not like it
    caption_dropout: float = 0.0  # share of captions replaced by nothing
    chinese_share: float = 0.35  # of the captions that have a Chinese text
    seed: int = 0

    def odds(self):
        """For each row of a batch, how likely it is a photograph, and how likely its caption is empty."""
        return [(self.photo_share, self.caption_dropout)] * self.batch


@dataclass(frozen=True)
class Variant:
    """One encoded version of a picture."""

    example: data.Example
    pixels: np.ndarray  # uint8 (size, size, 3)
    background: str  # its name; empty for a photograph
    is_icon: bool
    encoded: torch.Tensor | None = None  # its latents (C, h, w), or what a trainer has made of them

    def caption(self):
        """All that can be said of it in English."""
        return compose(self.text(), self.example.style, self.background)

    def text(self, chinese=False):
        """What it shows; of a photograph without a caption, that it is one."""
        example = self.example
        if chinese and example.text_zh:
            return example.text_zh
        return example.text or ("" if self.is_icon else PHOTOGRAPH[chinese])


class CaptionedLatents:
    """The pictures of a folder that are not held out, encoded, and some of those that are, once each.

    `rows` and `held_out` are lists of `Variant`. Raises `BadRequest` if every picture is held out.
    """

    def __init__(self, recipe, examples, first_stage, device, report=None):
        self.recipe, self.first_stage, self.device = recipe, first_stage, device
        self.rows = self._variants(data.not_held_out(examples), (recipe.variants, recipe.photo_variants), report)
        held_out = [example for example in examples if example.held_out]
        self.held_out = self._variants(data.evenly(held_out, HELD_OUT), (1, 1), None)
        icons = [i for i, row in enumerate(self.rows) if row.is_icon]
        photos = [i for i, row in enumerate(self.rows) if not row.is_icon]
        self._pools = [pool for pool in (icons, photos) if pool]

    @torch.no_grad()
    def _variants(self, examples, counts, report, chunk=32):
        """Every icon and every photograph encoded so many times, as a list of `Variant`."""
        rng = np.random.default_rng([self.recipe.seed, 1])
        rows = []
        for example in examples:
            is_icon = example.pixels.shape[2] == 4
            make = self._icon if is_icon else self._photograph
            rows += [make(example, number, rng) for number in range(counts[not is_icon])]
        for first in range(0, len(rows), chunk):
            part = rows[first : first + chunk]
            latents = self.first_stage.encode(to_tensor([row.pixels for row in part], self.device)).cpu()
            rows[first : first + chunk] = [replace(row, encoded=x) for row, x in zip(part, latents, strict=True)]
            if report:
                report({"encoded": first + len(part), "of": len(rows)})
        return rows

    def _icon(self, example, number, rng):
        """On white first, then on a random background."""
        background = list(BACKGROUNDS)[1 + rng.integers(len(BACKGROUNDS) - 1)] if number else "white"
        pixels = data.crop(example.pixels, self.recipe.size, rng)
        pixels = data.on_background(pixels, BACKGROUNDS[background])
        if rng.random() < self.recipe.flip_share:
            pixels = pixels[:, ::-1]
        return Variant(example, np.ascontiguousarray(pixels), background, is_icon=True)

    def _photograph(self, example, number, rng):
        """A window of any size, reduced to that of the training."""
        pixels = data.window(example.pixels, self.recipe.size, rng)
        return Variant(example, np.ascontiguousarray(pixels[:, ::-1] if number % 2 else pixels), "", is_icon=False)

    def spread(self):
        """Mean of each channel and the one standard deviation of the latents."""
        latents = torch.stack([row.encoded for row in self.rows])
        mean = latents.mean((0, 2, 3))
        return tuple(mean.tolist()), (latents - mean.view(1, -1, 1, 1)).std().item()

    def normalise(self, mean, std):
        """Bring all latents into the frame of a model: mean 0, spread 1."""
        mean = torch.tensor(mean).view(-1, 1, 1)
        self.apply(lambda latents: (latents - mean) / std)

    @torch.no_grad()
    def apply(self, function, chunk=256):
        """Put `function(latents (B, C, h, w))`, a tensor of as many rows, in the place of all latents."""
        for rows in (self.rows, self.held_out):
            for first in range(0, len(rows), chunk):
                part = rows[first : first + chunk]
                made = function(torch.stack([row.encoded for row in part]))
                rows[first : first + chunk] = [replace(row, encoded=x) for row, x in zip(part, made, strict=True)]

    def vocabulary(self):
        """A tokenizer learned from the captions, and the text encoder's shape that goes with it."""
        recipe = self.recipe
        examples = {id(row.example): row.example for row in self.rows}.values()
        names = list(PHOTOGRAPH) + [
            compose(text, example.style, background)
            for example in examples
            for text in (example.text, example.text_zh, *example.aliases)
            if text
            for background in ("white", "blue")
        ]
        backgrounds = [compose(text, "flat", name) for text in PHOTOGRAPH for name in BACKGROUNDS] * 2
        tokenizer = Tokenizer.train(names + backgrounds, recipe.vocab_size, recipe.context_length)
        shape = TextConfig(
            vocab_size=tokenizer.vocab_size,
            context_length=recipe.context_length,
            width=recipe.text_width,
            layers=recipe.text_layers,
            heads=recipe.text_heads,
            end_token=tokenizer.end_token,
        )
        return tokenizer, shape

    def draw(self, index):
        """The batch of one step, from the step's number alone: variants, their captions, and a generator for more."""
        rng = np.random.default_rng([self.recipe.seed, 2, index])
        rows, captions = [], []
        for photo_share, caption_dropout in self.recipe.odds():
            pool = self._pools[-1 if rng.random() < photo_share else 0]
            row = self.rows[pool[rng.integers(len(pool))]]
            rows.append(row)
            captions.append("" if rng.random() < caption_dropout else self.caption(row, rng))
        return rows, captions, rng

    def caption(self, row, rng):
        """One of the ways to say what a picture shows; now and then without style or background."""
        example = row.example
        chinese = rng.random() < self.recipe.chinese_share
        text = row.text(chinese)
        if not (chinese and example.text_zh) and example.aliases and rng.random() < 0.15:
            text = example.aliases[rng.integers(len(example.aliases))]
        style = example.style if rng.random() < 0.9 else ""
        said = rng.random() < (0.3 if row.background == "white" else 0.95)
        return compose(text, style, row.background if said else "")


def to_tensor(pictures, device):
    """A list of uint8 pictures `(H, W, 3)` as one tensor `(B, 3, H, W)` in [-1, 1]."""
    return tensors.from_bytes(torch.from_numpy(np.stack(pictures))).to(device)


def shown_captions():
    """The words of which every run draws its samples, in all styles."""
    styles = itertools.cycle(("3d", "flat", "glossy", "cartoon"))
    return list(map(compose, SHOWN, styles))
