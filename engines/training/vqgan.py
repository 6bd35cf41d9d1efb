"""Training a VQGAN: autoencoder against discriminator (Esser et al., 2021, eq. 5 to 7)."""

from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F

from engines import metrics, tensors
from engines.checkpoints import models
from engines.errors import BadRequest, unknown
from engines.pictures import grid
from engines.runtime import autocast
from engines.training import data, losses
from engines.training.adversary import Adversary
from engines.training.augment import diff_augment
from engines.training.captioned import Variant
from engines.training.loop import MovingAverage, fingerprint, load_optimizer_state, optimizer_state
from engines.training.redrawing import Redrawing
from engines.vqgan.autoencoder import VQGAN, AutoencoderConfig, CodebookConfig
from engines.vqgan.discriminator import PatchDiscriminator
from engines.vqgan.quantizer import usage

# parts of a VQGAN that learn
LEARNS = {
    "all": ("",),
    "decoder": ("post_quant_conv.", "decoder."),
    "larger": ("decoder.larger.",),  # the head for twice the sides, which reads what the decoder has made
}


@dataclass(frozen=True)
class VQGANRecipe:
    """All that a run depends on besides its pictures."""

    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    codebook: CodebookConfig = field(default_factory=CodebookConfig)
    size: int = 128  # pixels that pictures are reduced to
    crop: int = 64  # pixels a side of what a step sees
    batch: int = 24
    rate: float = 4e-4  # peak learning rate of the autoencoder
    discriminator_rate: float = 2e-4
    discriminator_ch: int = 32
    discriminator_layers: int = 2
    border: float = 0.0  # how much more errors count at the edges of a picture; decoders know of nothing beyond them
    perceptual_weight: float = 0.5
    lpips: str = ""  # path of LPIPS weights; without, a fixed random network compares pictures
    adversarial: str = "hinge"
    adversarial_weight: float = 0.1
    adversarial_start: int = 2000  # steps before the discriminator joins
    inexact: float = 0.0  # most noise on the latents of a picture: what a model draws is never quite right
    redrawn: float = 0.0  # share of the batches whose latents a model redraws, that they be as it makes them
    guidance: float = 2.5  # which that model is told
    farthest: float = 0.5  # of the path to noise, from where it leads back
    diversity_weight: float = 0.0  # of the mode-seeking term; for decoders that vary with their noise
    learns: str = "all"  # one of LEARNS; unless all does, the codes stay, and with them the models that draw in them
    photo_share: float = 0.3  # of a batch, where the folder has both icons and photographs
    ema_decay: float = 0.999
    seed: int = 0

    def __post_init__(self):
        if self.adversarial not in losses.ADVERSARIAL:
            raise unknown("adversarial loss", self.adversarial, losses.ADVERSARIAL)
        if self.learns not in LEARNS:
            raise unknown("part of a VQGAN", self.learns, LEARNS)


class VQGANTrainer:
    """Learns the pictures that are not held out, from a new VQGAN or from `start`.

    `drawer`, a model of few steps on the codes of `start`, redraws what a decoder is to learn where the recipe says so.
    Raises `BadRequest` if all of the pictures are held out, for a recipe of a part alone without codes to decode, and
    for one with a use for a drawer without such, or the other way round.
    """

    precision = "auto"  # one of runtime.PRECISIONS

    def __init__(self, recipe, examples, device="cpu", card=None, start=None, drawer=None):
        if recipe.learns != "all" and start is None:
            raise BadRequest("A decoder alone learns the codes of a trained VQGAN: name that one with --from.")
        if bool(recipe.redrawn) != bool(drawer):
            raise BadRequest(
                "This preset has no use for --drawer; leave it out."
                if drawer
                else "This preset learns from what a model draws: name one of few steps with --drawer."
            )
        torch.manual_seed(recipe.seed)
        self.recipe, self.device, self.card = recipe, torch.device(device), card or {}
        self.batch = recipe.batch
        kept = data.not_held_out(examples)
        self.icons = [example for example in kept if example.pixels.shape[2] == 4]
        self.photos = [example for example in kept if example.pixels.shape[2] == 3]
        self.shown = [example for example in examples if example.held_out][:: max(1, len(examples) // 80)][:8]
        self.model = self._model(start).to(self.device)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name.startswith(LEARNS[recipe.learns]))
        self.redrawing = drawer and Redrawing(drawer.to(self.device), self.model, recipe.guidance, recipe.farthest)
        if self.model.codebook_config.ema_decay:  # which follows what it quantizes
            self.model.quantize.requires_grad_(False)
        discriminator = PatchDiscriminator(
            recipe.autoencoder.in_channels, recipe.discriminator_ch, recipe.discriminator_layers
        ).to(self.device)
        self.adversary = Adversary(discriminator, recipe.discriminator_rate, recipe.adversarial)
        self.perceptual = losses.LPIPS(recipe.lpips) if recipe.lpips else metrics.RandomPerceptual()
        self.perceptual.to(self.device)
        self.average = MovingAverage(self.model, recipe.ema_decay)
        learned = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(learned, recipe.rate, betas=(0.9, 0.95), weight_decay=1e-4)

    def _model(self, start):
        recipe, shape = self.recipe, self.recipe.autoencoder
        if start is None:
            return VQGAN(shape, recipe.codebook)
        # a second head reads what the decoder makes: with another decoder it must be learned anew
        blocks = (start.config.larger or shape.larger) if recipe.learns == "larger" else 0
        model = VQGAN(replace(start.config, larger=blocks), start.codebook_config)
        state = model.state_dict()
        model.load_state_dict(state | {name: value for name, value in start.state_dict().items() if name in state})
        return model

    def _reconstructed(self, x, captions=()):
        """What the part that learns makes of pictures, whose latents are redrawn by `captions`, and the bottleneck."""
        larger = self.recipe.learns == "larger"
        with autocast(self.device, self.precision):
            latents = self.model.encode(F.avg_pool2d(x, 2) if larger else x)
        latents = latents.float()
        if captions:
            latents = self.redrawing(latents, captions)
        elif self.recipe.inexact and self.model.training:
            most = self.recipe.inexact * torch.rand(len(x), 1, 1, 1)
            latents = latents + (most * torch.randn(latents.shape)).to(latents)
        quantized = self.model.quantize(latents)
        with autocast(self.device, self.precision):
            y = self.model.decode_codes(quantized.codes, larger)
        return y.float(), quantized

    def pictures(self, index):
        """The batch of one step, drawn from the step's number alone.

        `(B, 3, crop, crop)`, and their captions where they are to be redrawn, else none.
        """
        rng = np.random.default_rng([self.recipe.seed, index])
        redrawn = rng.random() < self.recipe.redrawn
        photo_share = 0 if redrawn else self.recipe.photo_share  # what few words tell of would become something else
        rows, captions = [], []
        for _ in range(self.recipe.batch):
            from_photos = self.photos and (not self.icons or rng.random() < photo_share)
            source = self.photos if from_photos else self.icons
            example = source[rng.integers(len(source))]
            pixels = data.crop(example.pixels, self.recipe.crop, rng)
            background, colour = data.random_background(rng)
            pixels = data.on_background(pixels, colour)
            rows.append(pixels[:, ::-1] if rng.random() < 0.5 else pixels)
            captions.append(Variant(example, pixels, "" if from_photos else background, not from_photos).caption())
        x = tensors.from_bytes(torch.from_numpy(np.stack(rows))).to(self.device)
        return x, captions if redrawn else ()

    def step(self, index, rate_share):
        recipe = self.recipe
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.rate * rate_share
        self.model.train()
        for part in (self.model.encoder, self.model.quantize):  # an EMA codebook learns in training mode
            part.train(recipe.learns == "all")
        x, captions = self.pictures(index)
        y, quantized = self._reconstructed(x, captions)
        pixel = ((y - x).abs() * losses.at_borders(x, recipe.border)).mean()
        with autocast(self.device, self.precision):
            perceptual = self.perceptual(x, y)
        reconstruction = pixel + recipe.perceptual_weight * perceptual
        loss = reconstruction + quantized.loss
        row = {"l1": pixel.item(), "perceptual": perceptual.item(), "commitment": quantized.loss.item()}
        playing = index >= recipe.adversarial_start
        if playing:
            with autocast(self.device, self.precision):
                fooling = self.adversary.fooled(diff_augment(y))
            decoder = self.model.decoder
            head = decoder.larger if recipe.learns == "larger" else decoder
            weight = losses.adaptive_weight(reconstruction, fooling, head.conv_out.weight)
            loss = loss + recipe.adversarial_weight * weight * fooling
            row["generator"] = fooling.item()
        if recipe.diversity_weight:
            loss = loss + recipe.diversity_weight * losses.mode_seeking(y, quantized.codes.detach())
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.average.update(index)
        if playing:
            with autocast(self.device, self.precision):
                row["discriminator"] = self.adversary.learn(diff_augment(x), diff_augment(y), rate_share)
        used, perplexity = usage(quantized.indices, self.model.codebook_config.n_embed)
        return row | {"codes in the batch": used, "perplexity": perplexity}

    def fingerprint(self):
        """What a run must keep to be continued: the shapes."""
        recipe = self.recipe
        return fingerprint(
            self.model.config, self.model.codebook_config, recipe.discriminator_ch, recipe.discriminator_layers
        )

    def state(self):
        quantizer = self.model.quantize
        return {
            "model": self.model.state_dict(),
            "average": self.average.values,
            "optimizer": optimizer_state(self.optimizer),
            "codebook": {name: value for name, value in quantizer.named_buffers()},
        } | self.adversary.state()

    def load_state(self, state):
        self.model.load_state_dict(state["model"])
        self.average.load(state["average"])
        self.adversary.load_state(state)
        load_optimizer_state(self.optimizer, state["optimizer"])
        for name, value in self.model.quantize.named_buffers():
            value.copy_(state["codebook"][name])

    @torch.no_grad()
    def samples(self):
        """Held-out pictures above their reconstructions."""
        shown = self.shown or (self.icons + self.photos)[:8]
        multiple = self.model.config.factor * (1 + (self.recipe.learns == "larger"))
        side = self.recipe.size // multiple * multiple
        pictures = [data.on_background(example.pixels, (255, 255, 255))[:side, :side] for example in shown]
        x = tensors.from_bytes(torch.from_numpy(np.stack(pictures))).to(self.device)
        self.model.eval()
        with self.average.swapped():
            y, _ = self._reconstructed(x)
        return grid(tensors.to_images(x) + tensors.to_images(y), len(shown))

    def export(self, path):
        """The averaged weights in float16 with configuration and card."""
        with self.average.swapped():
            models.save(path, self.model, self.card)
