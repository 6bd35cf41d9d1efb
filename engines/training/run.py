"""A training run from a folder of pictures to a model file, as the command line starts it."""

import dataclasses
from pathlib import Path

from engines import catalog
from engines.checkpoints import models
from engines.errors import BadRequest, unknown
from engines.runtime import choose_device
from engines.training import data, loop, presets
from engines.training.clip import CLIPTrainer
from engines.training.diffusion import DiffusionTrainer
from engines.training.vqgan import VQGANTrainer

PRESETS = {"vqgan": presets.VQGAN, "text": presets.TEXT, "diffusion": presets.DIFFUSION}


def train(
    kind, folder, out, *, preset="icons", steps=None, minutes=None, resume=False, first_stage="", text="",
    start="", lpips="", licence="", command="", home=None, device="auto", report=None,
):  # fmt: skip
    """Train a model of `kind`, a key of PRESETS, on the pictures in `folder`; returns the steps done.

    `first_stage` names the VQGAN on whose latents a text encoder or a diffusion model learns, `text` the
    text encoder that a diffusion model begins with, `start` the diffusion model to go on from. `lpips` is
    the path of LPIPS weights for a VQGAN's perceptual loss. `licence` and `command` go into the card. The
    rest is that of `loop.train`.
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
    elif kind == "text":
        trainer = CLIPTrainer(recipe, examples, _load(first_stage, "reconstruct", home), device, card, report)
    else:
        begun = _load(start, "generate", home) if start else None
        autoencoder = begun.first_stage if begun else _load(first_stage, "reconstruct", home)
        clip = _load(text, None, home) if text else None
        if clip is not None and clip.family != "clip":
            raise BadRequest(f"“{text}” is no text encoder; train one with “train text”.")
        trainer = DiffusionTrainer(recipe, examples, autoencoder, device, card, begun, clip, report)
    return loop.train(trainer, out, steps=steps, minutes=minutes, resume=resume, report=report)


def _load(name, task, home):
    return models.load(catalog.find(name, task, home).path)
