"""Training a token transformer: hidden tokens are told from the others and the words (Chang et al., 2022, eq. 1)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from engines import tensors
from engines.runtime import autocast
from engines.training.captioned import CaptionedRecipe
from engines.training.drawing import DrawingTrainer
from engines.vqgan import decoding
from engines.vqgan.generator import TokenGenerator, TokenGeneratorConfig
from engines.vqgan.transformer import TransformerConfig


@dataclass(frozen=True, kw_only=True)
class TokenRecipe(CaptionedRecipe):
    """All that a run depends on besides its pictures, its VQGAN and its text encoder."""

    width: int = 192
    layers: int = 6
    heads: int = 6
    dropout: float = 0.1
    batch: int = 32
    rate: float = 1e-3  # peak learning rate
    smoothing: float = 0.1  # of the labels, as MaskGIT's
    caption_dropout: float = 0.1  # for guidance
    ema_decay: float = 0.999


class TokenTrainer(DrawingTrainer):
    """A transformer learns to tell the hidden tokens of the VQGAN `first_stage`."""

    model_class = TokenGenerator
    net = "transformer"
    betas = (0.9, 0.96)
    weight_decay = 0.03

    def new_config(self, tokenizer, text):
        recipe = self.recipe
        shape = TransformerConfig(
            n_embed=self.first_stage.codebook_config.n_embed,
            side=recipe.size // self.first_stage.config.factor,
            width=recipe.width,
            layers=recipe.layers,
            heads=recipe.heads,
            context_dim=recipe.text_width,
            dropout=recipe.dropout,
        )
        return TokenGeneratorConfig(shape, text, tokenizer, recipe.size)

    def prepare(self):
        self.pictures.apply(lambda latents: self.first_stage.quantize(latents.to(self.device)).indices.cpu())

    def loss(self, rows, captions, rng):
        times, places = rng.random(len(rows)), torch.rand(len(rows), rows[0].encoded.numel())
        return self.hidden_loss(rows, captions, times, places, self.recipe.smoothing)

    def loss_of_held_out(self, rows, captions):
        times = torch.linspace(0.05, 0.95, len(rows)).tolist()
        places = tensors.noise(range(len(rows)), (rows[0].encoded.numel(),))
        return self.hidden_loss(rows, captions, times, places)

    def hidden_loss(self, rows, captions, times, places, smoothing=0.0):
        """Cross-entropy of the tokens that `decoding.hide` hides."""
        tokens = torch.stack([row.encoded for row in rows]).to(self.device)
        hidden = decoding.hide(places, times).view_as(tokens).to(self.device)
        with autocast(self.device):
            logits = self.model.transformer(tokens, hidden, **self.model.words(captions))
        return F.cross_entropy(logits[hidden].float(), tokens[hidden], label_smoothing=smoothing)

    def draw(self, words, nothing, steps=12, cfg_scale=3.0):
        count, side = len(words["context"]), self.recipe.size // self.first_stage.config.factor
        tokens = torch.zeros(count, side, side, dtype=torch.long, device=self.device)
        model = decoding.guided(self.model.transformer, words, nothing, cfg_scale)
        chance = decoding.Chance(range(count), side, side)
        hidden = torch.ones_like(tokens, dtype=torch.bool)
        return self.model.decode(decoding.decode(model, tokens, hidden, chance, steps=steps))
