"""A training run from a folder of pictures to a model file, as the command line starts it."""

import dataclasses
from pathlib import Path

from engines import catalog
from engines.checkpoints import models
from engines.errors import BadRequest, unknown
from engines.runtime import choose_device
from engines.training import data, loop, presets
from engines.training.diffusion import DiffusionTrainer
from engines.training.vqgan import VQGANTrainer

PRESETS = {"vqgan": presets.VQGAN, "diffusion": presets.DIFFUSION}


def train(
    kind, folder, out, *, preset="icons", steps=None, minutes=None, resume=False, first_stage="", start="",
    lpips="", licence="", command="", home=None, device="auto", report=None,
):  # fmt: skip
    """Train a model of `kind`, a key of PRESETS, on the pictures in `folder`; returns the steps done.

    `first_stage` names the VQGAN on whose latents a diffusion model learns, `start` the diffusion model
    to go on from. `lpips` is the path of LPIPS weights for a VQGAN's perceptual loss. `licence` and
    `command` go into the card. The rest is that of `loop.train`.
    """
    if kind not in PRESETS:
        raise unknown("training", kind, PRESETS)
    if preset not in PRESETS[kind]:
        raise unknown("preset", preset, PRESETS[kind])
    if not steps and not minutes and not resume:
        raise BadRequest("How long shall it train? Give --steps or --minutes.")
    recipe = PRESETS[kind][preset]
    device = choose_device(device)
    examples = data.load(folder, recipe.size)
    card = {
        "title": Path(out).name,
        "licence": licence or "that of the pictures it was trained on",
        "preset": preset,
        "training pictures": sum(not example.held_out for example in examples),
        "held-out pictures": sum(example.held_out for example in examples),
        "command": command,
    }
    if kind == "vqgan":
        trainer = VQGANTrainer(dataclasses.replace(recipe, lpips=lpips), examples, device, card)
    elif start:
        model = models.load(catalog.find(start, "generate", home).path)
        for part in (model.unet, model.text):
            part.requires_grad_(True)
        trainer = DiffusionTrainer(recipe, examples, model.first_stage, device, card, start=model, report=report)
    else:
        autoencoder = models.load(catalog.find(first_stage, "reconstruct", home).path)
        trainer = DiffusionTrainer(recipe, examples, autoencoder, device, card, report=report)
    return loop.train(trainer, out, steps=steps, minutes=minutes, resume=resume, report=report)
