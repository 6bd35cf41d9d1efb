"""A training run from a folder of pictures to a model file, as the command line starts it."""

import dataclasses
from pathlib import Path

from engines import catalog
from engines.checkpoints import models
from engines.diffusion.few_steps import FewSteps
from engines.diffusion.latent import LatentDiffusion
from engines.engine import Engine
from engines.errors import BadRequest, unknown
from engines.runtime import PRECISIONS, choose_device
from engines.text.clip import CLIP
from engines.training import data, loop, presets
from engines.training.clip import CLIPTrainer
from engines.training.diffusion import DiffusionTrainer
from engines.training.few_steps import FewStepTrainer
from engines.training.tokens import TokenTrainer
from engines.training.upscaler import UpscalerTrainer
from engines.training.vqgan import VQGANTrainer

PRESETS = {
    "vqgan": presets.VQGAN,
    "text": presets.TEXT,
    "tokens": presets.TOKENS,
    "diffusion": presets.DIFFUSION,
    "few-steps": presets.FEW_STEPS,
    "upscaler": presets.UPSCALER,
}
TAKES = {
    "vqgan": ("lpips", "start", "drawer"),
    "text": ("first_stage",),
    "tokens": ("first_stage", "text", "start"),
    "diffusion": ("first_stage", "text", "start"),
    "few-steps": ("text", "start", "teacher"),
    "upscaler": ("start",),
}
SPELLED = {"first_stage": "first-stage", "start": "from"}
DRAWERS = {"tokens": (TokenTrainer, "token-transformer"), "diffusion": (DiffusionTrainer, "latent-diffusion")}
READERS = ("clip", *(family for _, family in DRAWERS.values()))  # families with a text encoder


def train(
    kind, folder, out, *, preset="icons", steps=None, minutes=None, resume=False, first_stage="", text="",
    start="", teacher="", drawer="", lpips="", licence="", command="", home=None, device="auto", precision="auto",
    report=None,
):  # fmt: skip
    """Train a model of `kind`, a key of PRESETS, on the pictures in `folder`; returns the steps done.

    `first_stage` names the VQGAN whose latents or tokens the others learn, `text` the model whose text
    encoder a model that draws begins with, a CLIP or another that draws, or the CLIP that few steps have to
    please, `start` the model to go on from, `teacher` the model to distil where that which `start` was distilled from
    was trained on since, `drawer` the model of few steps that redraws what a VQGAN's decoder is to learn.
    `lpips` is the path of LPIPS weights for a VQGAN's perceptual loss. `precision` is that of `runtime.autocast`.
    `licence` and `command` go into the card. The rest is that of `loop.train`.
    """
    if kind not in PRESETS:
        raise unknown("training", kind, PRESETS)
    if preset not in PRESETS[kind]:
        raise unknown("preset", preset, PRESETS[kind])
    given = {"first_stage": first_stage, "text": text, "start": start, "teacher": teacher}
    given |= {"drawer": drawer, "lpips": lpips}
    for name in (name for name, value in given.items() if value and name not in TAKES[kind]):
        raise BadRequest(f"“train {kind}” has no use for --{SPELLED.get(name, name)}; leave it out.")
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    if start and first_stage:
        raise BadRequest("The model to go on from brings its own first stage; leave --first-stage out.")
    loop.check(out, steps=steps, minutes=minutes, resume=resume)
    recipe = PRESETS[kind][preset]
    # on a GPU, an engine takes a UNet in half precision
    engine, device = Engine(home, "cpu"), choose_device(device)
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
        begun = _load(engine, start, "reconstruct", ("vqgan",)) if start else None
        redraws = _load(engine, drawer, "generate", (FewSteps.family,)) if drawer else None
        trainer = VQGANTrainer(dataclasses.replace(recipe, lpips=lpips), examples, device, card, begun, redraws)
    elif kind == "upscaler":
        begun = _load(engine, start, "upscale") if start else None
        trainer = UpscalerTrainer(recipe, examples, device, card, begun)
    elif kind == "few-steps":
        if not start:
            raise BadRequest("What shall draw in few steps? Name a latent diffusion model with --from.")
        base, begun = _distilled(engine, start, teacher)
        reader = _load(engine, text, None, (CLIP.family,)) if text else None
        trainer = FewStepTrainer(recipe, examples, base, device, card, begun, reader, report)
    elif kind == "text":
        trainer = CLIPTrainer(recipe, examples, _load(engine, first_stage, "reconstruct"), device, card, report)
    else:
        drawer, family = DRAWERS[kind]
        begun = _load(engine, start, "generate", (family,)) if start else None
        needed = ("vqgan",) if kind == "tokens" else ()
        autoencoder = begun.first_stage if begun else _load(engine, first_stage, "reconstruct", needed)
        words = _load(engine, text, None, READERS) if text else None
        trainer = drawer(recipe, examples, autoencoder, device, card, begun, words, report)
    trainer.precision = precision
    return loop.train(trainer, out, steps=steps, minutes=minutes, resume=resume, report=report)


def _load(engine, name, task, families=()):
    row = catalog.find(name, task, engine.home)
    if families and row.family not in families:
        raise BadRequest(f"“{row.id}” is a {row.family} model; here it must be a {' or '.join(families)} model.")
    return engine.load(row)


def _distilled(engine, name, teacher):
    # the model to distil, and what was distilled from it or from an earlier one, if that is what is named
    row = catalog.find(name, "generate", engine.home)
    if row.family not in models.CHANGING:
        if teacher:
            raise BadRequest(f"“{row.id}” was distilled from nothing: it is the teacher itself; leave --teacher out.")
        return _load(engine, name, "generate", (LatentDiffusion.family,)), None
    base = engine.load(catalog.drawn_with(row, engine.home))
    begun = models.load(row.path, base, drawing=False)
    return _load(engine, teacher, "generate", (LatentDiffusion.family,)) if teacher else base, begun
