"""Training a token transformer: hidden tokens are told from the others and the words (Chang et al., 2022, eq. 1)."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from engines import tensors
from engines.checkpoints import models
from engines.pictures import grid
from engines.runtime import autocast
from engines.training.captioned import CaptionedLatents, CaptionedRecipe, shown_captions
from engines.training.loop import MovingAverage, load_optimizer_state, optimizer_state
from engines.vqgan import decoding
from engines.vqgan.generator import TokenGenerator, TokenGeneratorConfig
from engines.vqgan.transformer import TransformerConfig

EVERY_HELD_OUT = 250  # steps between two looks at the held-out loss


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


class TokenTrainer:
    """Learns the pictures that are not held out, as tokens of the VQGAN `first_stage`.

    `clip` is a trained CLIP whose tokenizer and text encoder the model takes over and goes on training;
    without one it learns words anew. `start` is a model to go on from.
    """

    def __init__(self, recipe, examples, first_stage, device="cpu", card=None, start=None, clip=None, report=None):
        torch.manual_seed(recipe.seed)
        self.recipe, self.device, self.card = recipe, torch.device(device), card or {}
        self.batch = recipe.batch
        self.first_stage = first_stage.to(self.device).eval()
        self.pictures = CaptionedLatents(recipe, examples, self.first_stage, self.device, report)
        self.pictures.apply(lambda latents: self.first_stage.quantize(latents.to(self.device)).indices.cpu())
        self.model = self._model(start, clip).to(self.device)
        learned = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.average = MovingAverage(self.model, recipe.ema_decay)
        self.optimizer = torch.optim.AdamW(learned, recipe.rate, betas=(0.9, 0.96), weight_decay=0.03)

    def _model(self, start, clip):
        """A model to train: new, or with the transformer of `start`; its words those of `clip`, of `start`, or new."""
        recipe = self.recipe
        if start is None:
            tokenizer, text = self.pictures.vocabulary()
            shape = TransformerConfig(
                n_embed=self.first_stage.codebook_config.n_embed,
                side=recipe.size // self.first_stage.config.factor,
                width=recipe.width,
                layers=recipe.layers,
                heads=recipe.heads,
                context_dim=recipe.text_width,
                dropout=recipe.dropout,
            )
            config = TokenGeneratorConfig(shape, text, tokenizer.to_json(), recipe.size)
        else:
            config = start.config
        words = clip or start
        if words is not None:
            config = replace(config, text=words.config.text, tokenizer=words.config.tokenizer)
        model = TokenGenerator(config, self.first_stage)
        if start is not None:
            model.transformer.load_state_dict(start.transformer.state_dict())
        if words is not None:
            model.text.load_state_dict(words.text.state_dict())
        return model

    def loss(self, rows, captions, times, places):
        """Cross-entropy of the tokens that `decoding.hide` hides."""
        tokens = torch.stack([row.latents for row in rows]).to(self.device)
        hidden = decoding.hide(places, times).view_as(tokens).to(self.device)
        with autocast(self.device):
            logits = self.model.transformer(tokens, hidden, **self.model.words(captions))
        smoothing = self.recipe.smoothing if self.model.training else 0.0
        return F.cross_entropy(logits[hidden].float(), tokens[hidden], label_smoothing=smoothing)

    def step(self, index, rate_share):
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.rate * rate_share
        self.model.train()
        rows, captions, rng = self.pictures.draw(index)
        loss = self.loss(rows, captions, rng.random(len(rows)), torch.rand(len(rows), rows[0].latents.numel()))
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
        """The loss of the averaged weights on fixed held-out pictures, times and places, without smoothing."""
        self.model.eval()
        rows = self.pictures.held_out
        places = tensors.noise(range(len(rows)), (rows[0].latents.numel(),))
        times = torch.linspace(0.05, 0.95, len(rows)).tolist()
        self.average.swap()
        loss = self.loss(rows, [row.caption() for row in rows], times, places).item()
        self.average.swap()
        return loss

    @torch.no_grad()
    def samples(self):
        """Eight pictures of fixed words by the averaged weights."""
        self.model.eval()
        self.average.swap()
        captions = shown_captions()
        count, side = len(captions), self.recipe.size // self.first_stage.config.factor
        tokens = torch.zeros(count, side, side, dtype=torch.long, device=self.device)
        model = decoding.guided(
            self.model.transformer, self.model.words(captions), self.model.words([""] * count), 3.0
        )
        chance = decoding.Chance(range(count), side, side)
        tokens = decoding.decode(model, tokens, torch.ones_like(tokens, dtype=torch.bool), chance, steps=12)
        pictures = tensors.to_images(self.model.decode(tokens))
        self.average.swap()
        return grid(pictures, 4)

    def state(self):
        return {
            "transformer": self.model.transformer.state_dict(),
            "text": self.model.text.state_dict(),
            "average": self.average.values,
            "optimizer": optimizer_state(self.optimizer),
        }

    def load_state(self, state):
        self.model.transformer.load_state_dict(state["transformer"])
        self.model.text.load_state_dict(state["text"])
        self.average.load(state["average"])
        load_optimizer_state(self.optimizer, state["optimizer"])

    def export(self, path):
        """The averaged weights and the VQGAN in float16, with configuration and card."""
        self.average.swap()
        models.save(path, self.model, self.card)
        self.average.swap()
