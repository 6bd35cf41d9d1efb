"""Training a token transformer: hidden tokens are told from the others and the words (Chang et al., 2022, eq. 1)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from engines import tensors
from engines.errors import BadRequest
from engines.runtime import autocast
from engines.training.captioned import CaptionedRecipe
from engines.training.drawing import DrawingTrainer
from engines.training.muon import Muon
from engines.vqgan import decoding
from engines.vqgan.generator import TokenGenerator, TokenGeneratorConfig
from engines.vqgan.transformer import TransformerConfig

REACH = 3  # spacings of the codebook over which embeddings begin alike


@dataclass(frozen=True, kw_only=True)
class TokenRecipe(CaptionedRecipe):
    """All that a run depends on besides its pictures, its VQGAN and its text encoder."""

    patch: int = 2  # tokens a side of a patch
    width: int = 192
    layers: int = 6
    heads: int = 6
    dropout: float = 0.0
    batch: int = 32
    rate: float = 2e-3  # peak learning rate
    alike: int = 16  # codes that count as right for one: itself and its nearest; 1 is itself alone
    caption_dropout: float = 0.1  # for guidance
    ema_decays: tuple = (0.999, 0.9998)  # two lengths, of which the better is kept


class Alike:
    """Which codes of a codebook `(n_embed, D)` look alike, and the loss that takes any of them for right.

    A large codebook has codes that only an arbitrary hair's breadth tells apart, and nothing can be learned
    from which of them it was. What a place should hold is told by how near they are (soft labels; Lee et
    al., 2022, section 3.2.3): a Gaussian of the codebook's `spacing`, the median distance of a code to its
    nearest, over the `count` nearest with itself. Raises `BadRequest` for a codebook most of whose codes are
    the same.
    """

    def __init__(self, codes, count):
        # by differences: as products of vectors, small distances drown in rounding
        distances = torch.cdist(codes, codes, compute_mode="donot_use_mm_for_euclid_dist")
        nearest, indices = distances.topk(min(max(count, 2), len(codes)), largest=False)
        self.spacing = nearest[:, 1].median().item()
        if not self.spacing:
            raise BadRequest("Most codes of this VQGAN are the same, and tokens tell nothing; train another VQGAN.")
        self.indices = indices[:, :count]
        self.weights = (-(nearest[:, :count] / self.spacing).square() / 2).softmax(1)

    def cross_entropy(self, logits, codes):
        """Of logits `(N, n_embed)` with the soft labels of `codes (N,)`; the mean, a scalar."""
        likely = logits.log_softmax(1).gather(1, self.indices[codes])
        return -(self.weights[codes] * likely).sum(1).mean()


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
            patch=recipe.patch,
            width=recipe.width,
            layers=recipe.layers,
            heads=recipe.heads,
            context_dim=recipe.text_width,
            dropout=recipe.dropout,
        )
        return TokenGeneratorConfig(shape, text, tokenizer, recipe.size)

    def new_optimizers(self, parameters):
        linear = {id(module.weight) for module in self.model.modules() if isinstance(module, nn.Linear)}
        matrices = [parameter for parameter in parameters if id(parameter) in linear]
        rest = [parameter for parameter in parameters if id(parameter) not in linear]
        return [Muon(matrices, self.recipe.rate, weight_decay=self.weight_decay), *super().new_optimizers(rest)]

    def prepare(self, is_new):
        codes = self.first_stage.quantize.codebook
        self.alike = Alike(codes, self.recipe.alike)
        if is_new:
            self.model.transformer.begin_with(codes, REACH * self.alike.spacing)
        self.pictures.apply(lambda latents: self.first_stage.quantize(latents.to(self.device)).indices.cpu())

    def loss(self, rows, captions, rng):
        times, places = rng.random(len(rows)), torch.rand(len(rows), rows[0].encoded.numel())
        logits, tokens = self.hidden_logits(rows, captions, times, places)
        return self.alike.cross_entropy(logits, tokens)

    def loss_of_held_out(self, rows, captions):
        times = torch.linspace(0.05, 0.95, len(rows)).tolist()
        places = tensors.noise(range(len(rows)), (rows[0].encoded.numel(),))
        return F.cross_entropy(*self.hidden_logits(rows, captions, times, places))

    def hidden_logits(self, rows, captions, times, places):
        """Logits `(N, n_embed)` of the tokens that `decoding.hide` hides, and those tokens `(N,)`."""
        tokens = torch.stack([row.encoded for row in rows]).to(self.device)
        hidden = decoding.hide(places, times).view_as(tokens).to(self.device)
        transformer = self.model.transformer
        with autocast(self.device, self.precision):
            features = transformer.features(tokens, hidden, **self.model.words(captions))
            logits = transformer.logits(features[hidden.flatten(1)])
        return logits.float(), tokens[hidden]

    def draw(self, words, nothing, steps=12, cfg_scale=3.0):
        count, side = len(words["context"]), self.recipe.size // self.first_stage.config.factor
        tokens = torch.zeros(count, side, side, dtype=torch.long, device=self.device)
        model = decoding.guided(self.model.transformer, words, nothing, cfg_scale)
        chance = decoding.Chance(range(count), side, side)
        hidden = torch.ones_like(tokens, dtype=torch.bool)
        return self.model.decode(decoding.decode(model, tokens, hidden, chance, steps=steps))
