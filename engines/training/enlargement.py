"""Measures of upscalers: how far an enlargement is from the picture that was made small, clean and worn.

Held-out pictures, beside Lanczos. Wear and seeds are fixed: the same weights give the same numbers on one
machine, but for the seconds.
"""

import time

import numpy as np
import torch
from PIL import Image

from engines import classical, metrics, pictures, requests, tensors
from engines.tasks.upscale import upscale
from engines.training import data
from engines.training.wear import worn

SIDE = 256  # pixels of the large pictures, which are cut from the middle
PICTURES = 24  # of each set, evenly taken
SHOWN = 2  # of each set, scale and wear on the sheet
SCALES = (2, 4)
WEAR = {"clean": 0.0, "worn": 0.5}
SETTINGS = {"faithful": {"detail": 0.0}, "with detail": {"detail": 0.5}}


@torch.no_grad()
def measure(model, examples, out, say=print):
    """The figures of a `model` on the held-out of `examples`, as `{set: {(scale, wear): {who: {measure: value}}}}`.

    A sheet of each set goes to the folder `out`, as `enlarged-icons.webp` and `enlarged-photographs.webp`.
    """
    held_out = data.held_out_sets(example for example in examples if min(example.pixels.shape[:2]) >= SIDE)
    perceptual, figures = metrics.RandomPerceptual(), {}
    for name, rows in held_out.items():
        rows, sheet = data.evenly(rows, PICTURES), []
        for scale in SCALES if rows else ():
            for state, wear in WEAR.items():
                say(f"{len(rows)} held-out {name}, {state}, enlarged {scale} times")
                measured = {}
                for number, example in enumerate(rows):
                    large = data.middle(example.pixels, SIDE)
                    small = _small(example.name, large, scale, state, wear)
                    made = {
                        who: _timed(model, small, scale=scale, denoise=wear, **setting)
                        for who, setting in SETTINGS.items()
                    }
                    made["Lanczos"] = _timed(classical.METHODS["lanczos"], small, scale=scale)
                    x = tensors.from_image(Image.fromarray(large))
                    for who, (image, seconds) in made.items():
                        z = tensors.from_image(image)
                        pace = seconds / (SIDE * SIDE / 1e6)
                        values = metrics.psnr(x, z), metrics.ssim(x, z), perceptual(x, z).item(), pace
                        measured.setdefault(who, []).append(values)
                    if number < SHOWN:
                        plain = Image.fromarray(small).resize((SIDE, SIDE), Image.Resampling.NEAREST)
                        sheet += [plain, *(image for image, _ in made.values()), Image.fromarray(large)]
                names = ("psnr", "ssim", "perceptual", "seconds")
                figures.setdefault(name, {})[f"x{scale} {state}"] = {
                    who: dict(zip(names, np.mean(values, axis=0).tolist(), strict=True))
                    for who, values in measured.items()
                }
        if sheet:
            pictures.grid(sheet, len(SETTINGS) + 3).save(out / f"enlarged-{name}.webp", quality=75, method=6)
    return figures


def _small(name, large, scale, state, wear):
    if not wear:
        side = SIDE // scale
        return np.asarray(Image.fromarray(large).resize((side, side), Image.Resampling.LANCZOS))
    return worn(large, scale, wear, np.random.default_rng(data.hashed(f"{name} {scale} {state}")))


def _timed(model, small, **fields):
    request = requests.UpscaleRequest(image=pictures.to_png(Image.fromarray(small)), **fields)
    started = time.perf_counter()
    image = upscale(request, model).pictures[0].image
    return image, time.perf_counter() - started


def described(figures):
    """The figures as Markdown, with the pictures beside them."""
    rows = "".join(
        f"| {name}, {what} | {who} | {row['psnr']:.2f} dB | {row['ssim']:.3f} | {row['perceptual']:.3f} | "
        f"{row['seconds']:.2f} |\n"
        for name, kinds in figures.items()
        for what, made in kinds.items()
        for who, row in made.items()
    )
    who = ", ".join((*SETTINGS, "Lanczos"))
    sheets = "".join(
        f"![From the left: the small picture, {who}, as it was](enlarged-{name}.webp)\n\n" for name in figures
    )
    return (
        f"## Held-out pictures\n\nNone of them was in the training; {SIDE}x{SIDE} pixels, icons on white, photographs "
        "cut from the middle. Clean ones were made smaller by Lanczos; worn ones by any filter, with blur, noise, JPEG "
        f"and resampling in random order, up to half of what the training had, and {SETTINGS['with detail']['detail']} "
        "of the detail taken where it is said. The perceptual distance is that of features of a random network with a "
        "fixed seed; seconds are those of a megapixel of the result.\n\n"
        f"| pictures | who | PSNR | SSIM | perceptual | s/MP |\n|---|---|---|---|---|---|\n{rows}\n{sheets}"
    )
