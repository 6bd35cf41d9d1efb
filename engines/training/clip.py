"""Training the text encoder as CLIP's: captions and pictures find each other in a batch (Radford et al., 2021, 2.3).

A text encoder that begins as noise learns words from a denoiser's loss very slowly; after this it knows
which words look alike, in both languages, and the denoiser only has to listen.
"""

from dataclasses import dataclass

import torch
from PIL import Image

from engines.errors import BadRequest
from engines.pictures import grid
from engines.runtime import autocast
from engines.text.clip import CLIP, CLIPConfig
from engines.training.captioned import CaptionedRecipe
from engines.training.loop import fingerprint
from engines.training.losses import contrastive
from engines.training.trainer import CaptionedTrainer


@dataclass(frozen=True, kw_only=True)
class CLIPRecipe(CaptionedRecipe):
    """All that a run depends on besides its pictures and its autoencoder."""

    ch: int = 64  # channels of the picture tower's first level
    batch: int = 256
    photo_share: float = 0.02
    rate: float = 1e-3  # peak learning rate
    noise: float = 0.7  # most noise on the latents: coarse shape and colour shall count
    ema_decays: tuple = (0.99,)


class CLIPTrainer(CaptionedTrainer):
    """Learns which captions and pictures belong together."""

    betas = (0.9, 0.98)
    weight_decay = 0.05
    every_held_out = 50

    def __init__(self, recipe, examples, first_stage, device="cpu", card=None, report=None):
        super().__init__(recipe, examples, first_stage, device, card, report)
        if len({row.text() for row in self.pictures.rows}) < 2:
            raise BadRequest("The pictures of this folder have no captions to learn from; add a metadata.jsonl.")
        tokenizer, text = self.pictures.vocabulary()
        mean, std = self.pictures.spread()
        self.pictures.normalise(mean, std)
        side = self.pictures.rows[0].encoded.shape[-1]
        self.model = CLIP(CLIPConfig(text, tokenizer.to_json(), mean, std, side, recipe.ch)).to(self.device)
        self.begin()

    def step(self, index, rate_share):
        rows, captions = self._pairs(index)
        x = torch.stack([row.encoded for row in rows])
        x = x + self.recipe.noise * torch.rand(len(x), 1, 1, 1) * torch.randn_like(x)
        similarity = self._similarity(captions, x.to(self.device))
        loss = contrastive(similarity)
        self.learn(loss, index, rate_share)
        row = {"loss": loss.item(), "found": found(similarity)}
        if self.looks(index):
            row["held-out found"] = found(self._held_out())
        return row

    def _pairs(self, index):
        """The rows and captions of one step, none twice: a twin would be a wrong answer that is right."""
        rows, captions, _ = self.pictures.draw(index)
        of_captions = dict(zip(reversed(captions), reversed(rows), strict=True))
        of_rows = {id(row): (row, caption) for caption, row in of_captions.items()}
        rows, captions = zip(*of_rows.values(), strict=True)
        return rows, captions

    def _similarity(self, captions, x):
        # products of unit vectors, scaled up to a hundredfold, want all the bits of float32
        with autocast(self.device, self.precision):
            texts, pictures = self.model.embed_texts(captions), self.model.embed_latents(x)
        return self.model.similarity(texts.float(), pictures.float())

    @torch.no_grad()
    def _held_out(self):
        """Similarity of the held-out captions and pictures by the averaged weights."""
        rows = self.pictures.held_out
        x = torch.stack([row.encoded for row in rows]).to(self.device)
        with self.average.swapped():
            return self._similarity([row.caption() for row in rows], x)

    def samples(self):
        """Eight held-out pictures above those that their captions find; without any held out, eight that were seen."""
        rows = self.pictures.held_out
        if not rows:
            return grid(_images(self.pictures.rows[:8]), 8)
        best = self._held_out().argmax(1).tolist()
        return grid(_images(rows[:8]) + _images([rows[i] for i in best[:8]]), len(rows[:8]))

    def fingerprint(self):
        """What a run must keep to be continued: the shapes, the words and the autoencoder."""
        config = self.model.config
        shape = config.text, config.tokenizer, config.latent_size, config.ch, self.recipe.ema_decays
        return fingerprint(*shape, self.first_stage.state_dict())


def found(similarity):
    """Share of the texts whose own picture is the best of the batch."""
    return (similarity.argmax(1).cpu() == torch.arange(len(similarity))).float().mean().item()


def _images(rows):
    return [Image.fromarray(row.pixels) for row in rows]
