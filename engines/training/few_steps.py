"""Distilling latent diffusion: a model that walked from noise to a picture learns to jump (Heek et al., 2024)."""

from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import torch
from torch.func import functional_call

from engines import tensors
from engines.diffusion import samplers, schedules
from engines.diffusion.denoisers import DENOISERS
from engines.diffusion.few_steps import FewStepConfig, FewSteps
from engines.diffusion.unet import UNet
from engines.errors import BadRequest
from engines.pictures import grid
from engines.runtime import autocast
from engines.training import losses
from engines.training.adversary import Adversary
from engines.training.captioned import CaptionedRecipe, shown_captions
from engines.training.loop import fingerprint
from engines.training.reader import Reader
from engines.training.trainer import CaptionedTrainer
from engines.vqgan.discriminator import PatchDiscriminator


@dataclass(frozen=True, kw_only=True)
class FewStepRecipe(CaptionedRecipe):
    """All that a run depends on besides its pictures and the model that it distils."""

    few_steps: FewStepConfig
    batch: int = 32
    rate: float = 1e-3  # peak learning rate
    walk: int = 8  # steps of the teacher in a stretch
    scale_power: float = 1.0  # that even draws are raised to before they become guidance; above 1 favours little of it
    at_start: float = 0.3  # share of the rows that stand where a stretch begins, as all do in drawing
    huber: float = 0.03  # errors of a row above it count by their size, those below by their square
    adversarial_weight: float = 0.0  # of the discriminator's gradient, where the distilling has 1
    adversarial_noise: float = 0.1  # the least on what the discriminator sees, which else would only look for codes
    discriminator_rate: float = 1e-3
    discriminator_ch: int = 64
    reward_weight: float = 0.0  # of the gradient of a CLIP that reads captions, where the distilling has 1
    reward_noise: float = 0.7  # most on what it sees, as it learned
    others: int = 256  # captions of other pictures that a caption is preferred to
    caption_dropout: float = 0.02  # what it draws without words
    ema_decays: tuple = (0.998, 0.9995)  # two lengths, of which the better is kept


class Jumps(NamedTuple):
    """What the net made of a batch: noisy latents `x`, and the picture without noise `found` that it jumps towards.

    `(B, C, h, w)`, and `(B, 1, 1, 1)` for the noise where a jump begins, `sigma`, and where it ends, `end`.
    """

    x: torch.Tensor
    sigma: torch.Tensor
    end: torch.Tensor
    found: torch.Tensor

    def landed(self):
        return _step(self.x, self.found, self.sigma, self.end)


class FewStepTrainer(CaptionedTrainer):
    """What a `LatentDiffusion`, `base`, does step by step with guidance is learned as one jump a stretch.

    `start` is a `FewSteps` to go on from, of the same base or of one that `base` was trained on from; its rank may
    grow. With an `adversarial_weight`, where jumps land has to look like a picture to a discriminator, too. With a
    `reward_weight`, the picture that they jump towards has to look like its caption to `reader`, a CLIP of the same
    latents.
    """

    weight_decay = 0.0

    def __init__(self, recipe, examples, base, device="cpu", card=None, start=None, reader=None, report=None):
        if not recipe.size == recipe.few_steps.size == base.size:
            raise BadRequest(f"“{base.name}” draws pictures of {base.size} pixels, the recipe is for {recipe.size}.")
        if start:
            _check_start(start, recipe.few_steps, base)
        if bool(recipe.reward_weight) != bool(reader):
            raise BadRequest(
                "This preset has no use for --text; leave it out."
                if reader
                else "This preset listens to a CLIP: name one with --text, which `train text` makes."
            )
        super().__init__(recipe, examples, base.first_stage, device, card, report)
        self.base = base.to(self.device)
        self.model = FewSteps(recipe.few_steps, base).to(self.device)
        if start:
            self.model.begin_with(start)
        # its weights are given at each call; what jumps have to agree on, no dropout may change
        self.net = UNet(self.model.shape.unet).to(self.device).eval()
        self.pictures.normalise(base.config.latent_mean, base.config.latent_std)
        with torch.no_grad():
            self.around = {"concat": base.nothing_around(1, recipe.size, recipe.size)} if base.inpaints else {}
            self.nothing = base.words([""])
        self.edges = schedules.sgm_uniform(base.noise, recipe.few_steps.steps).to(self.device)
        self.begin()
        # one channel more tells how noisy the latents are
        channels = 1 + len(self.pictures.rows[0].encoded)
        discriminator = PatchDiscriminator(channels, recipe.discriminator_ch, 1).to(self.device)
        self.adversary = Adversary(discriminator, recipe.discriminator_rate)
        self.reader = reader and Reader(
            reader.to(self.device), self.pictures.rows, base.config, noise=recipe.reward_noise, others=recipe.others
        )

    def step(self, index, rate_share):
        recipe = self.recipe
        rows, captions, _ = self.pictures.draw(index)
        x0, generator = self._latents(rows), tensors.generator(index)
        loss, jumps = self.loss(x0, captions, generator)
        row, whole = {"loss": loss.item()}, loss
        if recipe.reward_weight:
            misread = self.reader.misread(jumps.found, rows, captions, generator)
            whole = whole + recipe.reward_weight * _as_strong(misread, loss, jumps)
            row["misread"] = misread.item()
        if recipe.adversarial_weight:
            fooled, fake, real = self.compared(x0, jumps, generator)
            whole = whole + recipe.adversarial_weight * _as_strong(fooled, loss, jumps)
        self.learn(whole, index, rate_share)
        if recipe.adversarial_weight:
            row["discriminator"] = self.adversary.learn(real, fake, rate_share)
        if self.looks(index):
            row["held-out loss"] = self.choose()
        return row

    def _latents(self, rows):
        return torch.stack([row.encoded for row in rows]).to(self.device)

    def compared(self, x0, jumps, generator):
        """How far the discriminator tells where `jumps` land from pictures `x0` with as much noise, and both.

        It knows all pictures, and so what an average of some would lack (Kim et al., 2024, "Consistency trajectory
        models", section 3.3).
        """
        least = self.recipe.adversarial_noise
        level = jumps.end.clamp(min=least)
        more = torch.randn((2, *x0.shape), generator=generator).to(self.device)
        landed = jumps.landed() + (level**2 - jumps.end**2).sqrt() * more[0]
        fake, real = (self._seen(x, level) for x in (landed, x0 + level * more[1]))
        return self.adversary.fooled(fake), fake, real

    def _seen(self, x, level):
        # latents of a spread of one, and how noisy they are
        return torch.cat([x / (1 + level**2).sqrt(), level.log().expand_as(x[:, :1]) / 4], 1)

    def loss(self, x0, captions, generator):
        """How far the jumps of a batch `x0 (B, C, h, w)` are from a step of the teacher and a jump from there.

        In the frame of the samplers, `x = x0 + sigma n`; errors count as those of the net's raw output. Returns a
        scalar and the `Jumps`.
        """
        count, recipe = len(x0), self.recipe
        n = torch.randn(x0.shape, generator=generator).to(self.device)
        scale = self._scales(count, generator)
        sigma, lower, end = self._levels(count, generator)
        x = x0 + sigma * n
        with autocast(self.device, self.precision):
            weights = self.model.weights()
            with torch.no_grad():
                words = self.base.words(captions) | self._around(count)
                walked = _step(x, self._guided(x, sigma, scale, words), sigma, lower)
                # at the end of the stretch there is nothing left to jump
                onward = lower > end
                there = torch.where(onward, lower, sigma)
                jumped = _step(walked, self._jump(weights, walked, there, scale, words), there, end)
                aim = torch.where(onward, jumped, walked)
                wanted = x - sigma * (aim - x) / (end - sigma)  # the picture without noise that leads there
            found = self._jump(weights, x, sigma, scale, words)
        c_out = self._denoiser(None).scalings(sigma.flatten())[1]
        error = ((found - wanted) / c_out.view(-1, 1, 1, 1)).square().mean((1, 2, 3))
        loss = ((error + recipe.huber**2).sqrt() - recipe.huber).mean()
        return loss, Jumps(x, sigma, end, found)

    def _scales(self, count, generator):
        low, high = self.recipe.few_steps.scales
        share = torch.rand(count, generator=generator) ** self.recipe.scale_power
        return (low + (high - low) * share).to(self.device)

    def _levels(self, count, generator):
        """Noise of the rows, after a step of the teacher, and at the end of the stretch, `(count, 1, 1, 1)` each."""
        noise, recipe = self.base.noise, self.recipe
        stretch = torch.randint(recipe.few_steps.steps, (count,), generator=generator).to(self.device)
        first, last = (noise.t(self.edges[stretch + i].clamp(min=1e-9)) for i in range(2))
        share = torch.rand(count, generator=generator).to(self.device)
        stays = torch.rand(count, generator=generator).to(self.device) < recipe.at_start
        at = torch.where(stays, first, first + (last - first) * share)
        after = torch.maximum(at - (first - last) / recipe.walk, last)
        end = self.edges[stretch + 1]
        lower = torch.where(after > last, noise.sigma(after), end)
        return [level.view(-1, 1, 1, 1) for level in (noise.sigma(at), lower, end)]

    def _around(self, count):
        return {name: value.expand(count, -1, -1, -1) for name, value in self.around.items()}

    def _guided(self, x, sigma, scale, words):
        # the teacher's picture without noise, with and without words
        nothing = {name: value.expand_as(words[name]) for name, value in (self.nothing | self.around).items()}
        both = {name: torch.cat([words[name], nothing[name]]) for name in words}
        model = self.base.denoiser()
        wanted, unwanted = model(torch.cat([x, x]), torch.cat([sigma, sigma]).flatten(), **both).chunk(2)
        return unwanted + scale.view(-1, 1, 1, 1) * (wanted - unwanted)

    def _denoiser(self, weights):
        def net(x, t, **told):
            return functional_call(self.net, weights, (x, t), told)

        return DENOISERS[self.base.config.prediction](net, self.base.noise)

    def _jump(self, weights, x, sigma, scale, words):
        return self._denoiser(weights)(x, sigma.flatten(), guidance=scale, **words)

    @torch.no_grad()
    def held_out_loss(self, average):
        rows = self.pictures.held_out
        with average.swapped():
            return self.loss(self._latents(rows), [row.caption() for row in rows], tensors.generator(0))[0].item()

    @torch.no_grad()
    def samples(self):
        """Eight pictures of fixed words by the averaged weights."""
        captions = shown_captions()
        with self.average.swapped():
            model = self.model.drawing()
        x = tensors.noise(range(len(captions)), self.pictures.rows[0].encoded.shape).to(self.device)
        led = model.led_by(captions, sum(self.recipe.few_steps.scales) / 2, self.recipe.size, self.recipe.size)
        x = samplers.sample_euler(led, self.edges[0] * x, self.edges)
        return grid(tensors.to_images(model.decode(x)), 4)

    def state(self):
        return super().state() | self.adversary.state()

    def load_state(self, state):
        super().load_state(state)
        self.adversary.load_state(state)

    def fingerprint(self):
        """What a run must keep to be continued: the model that it distils, what is added to it, and who reads it."""
        recipe = self.recipe
        others = [model.sha256 for model in (self.base, self.reader) if model]
        return fingerprint(self.model.config, recipe.ema_decays, recipe.discriminator_ch, *others)


def _check_start(start, wanted, base):
    shapes = [replace(model.config.unet, dropout=0.0) for model in (start.base, base)]
    if shapes[0] != shapes[1]:
        raise BadRequest(
            f"“{start.name}” was distilled from a net of another shape than that of “{base.name}”; name a --teacher "
            f"that was trained on from “{start.base.name}”."
        )
    for field in fields(wanted):
        begun, asked = getattr(start.config, field.name), getattr(wanted, field.name)
        if begun != asked and not (field.name == "rank" and begun < asked):
            raise BadRequest(
                f"“{start.name}” has {field.name} {begun}, the recipe {field.name} {asked}; only the rank may grow. "
                "Choose another --preset."
            )


def _as_strong(part, loss, jumps):
    # a part of the loss, its gradient brought to the size of that of the distilling `loss`
    return losses.adaptive_weight(loss, part, jumps.found) * part


def _step(x, denoised, sigma, lower):
    # Euler's, along the line from x to the picture without noise
    return x + (lower - sigma) * (x - denoised) / sigma
