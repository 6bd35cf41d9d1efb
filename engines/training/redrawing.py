"""Latents as a model draws them: those of pictures under noise, and what the model leads them back to."""

import torch

from engines.diffusion import samplers, schedules
from engines.errors import BadRequest


class Redrawing:
    """What a model of few steps, `drawer`, makes of latents that its autoencoder, or one of the same codes, made.

    A decoder that learns from them beside the pictures that they come from mends what such a model never gets quite
    right. `guidance` is told to it, and `farthest` is the most of the path from a picture to noise that is gone.
    Raises `BadRequest` for a drawer on other codes than those of `first_stage`.
    """

    def __init__(self, drawer, first_stage, guidance, farthest):
        theirs = getattr(drawer.first_stage, "quantize", None)  # a KL autoencoder has none
        ours = first_stage.quantize.codebook
        if theirs is None or not torch.equal(theirs.codebook.to(ours), ours):
            raise BadRequest(f"“{drawer.name}” draws on other codes than those of this VQGAN; name another --drawer.")
        self.drawer, self.guidance, self.farthest = drawer, guidance, farthest

    @torch.no_grad()
    def __call__(self, latents, captions):
        """Latents `(B, C, h, w)` led back from a time that is drawn anew for each batch, by `captions`."""
        drawer, factor = self.drawer, self.drawer.first_stage.config.factor
        mean, std = drawer.latent_mean, drawer.config.latent_std
        edges = schedules.sgm_uniform(drawer.noise, drawer.few_steps.steps).to(latents)
        begin = drawer.noise.sigma(drawer.noise.time(self.farthest * torch.rand(1))).to(latents)
        led = drawer.led_by(captions, self.guidance, *(side * factor for side in latents.shape[2:]))
        x = (latents - mean) / std + begin * torch.randn(latents.shape).to(latents)
        return samplers.sample_euler(led, x, torch.cat([begin, edges[edges < begin]])) * std + mean
