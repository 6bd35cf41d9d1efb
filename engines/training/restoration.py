"""Measures of models that inpaint: how far what they put under a mask is from what was there.

Held-out pictures, nothing said in words, settings as `requests.restoring` says, beside methods without weights
and the mean of the picture. Masks and seeds are fixed: the same weights give the same numbers on one machine.
"""

import numpy as np
import torch
from PIL import Image

from engines import classical, masks, metrics, pictures, requests, tensors
from engines.tasks.inpaint import inpaint
from engines.training import data
from engines.training.masks import random_mask

PICTURES = 96  # of each set, evenly taken
SHOWN = 3  # of each set and width on the sheet
WIDTHS = {
    "thin": ("scratches",),
    "medium": ("strokes",),
    "wide": ("blocks", "borders"),
}
FLOOR = {"Telea": "telea", "Navier-Stokes": "navier-stokes"}


@torch.no_grad()
def measure(model, examples, size, out, say=print):
    """The figures of a `model` on the held-out of `examples`, as `{set: {width: {who: {measure: value}}}}`.

    The sets are icons on white and photographs, each cut to `size x size` pixels. A picture of each set goes to
    the folder `out` as `restored-icons.webp` and `restored-photographs.webp`.
    """
    perceptual, figures = metrics.RandomPerceptual(), {}
    painters = {"ours": model} | {name: classical.METHODS[method] for name, method in FLOOR.items()}
    for name, rows in data.held_out_sets(examples).items():
        rows = data.evenly(rows, PICTURES)
        if not rows:
            continue
        figures[name], sheet = {}, []
        for width, kinds in WIDTHS.items():
            say(f"{len(rows)} held-out {name}, {width} masks")
            measured = {}
            for number, example in enumerate(rows):
                whole = data.middle(example.pixels, size)
                mask = _mask(example, width, size, kinds)
                filled = {who: _restored(painter, whole, mask) for who, painter in painters.items()}
                filled["mean"] = np.where(mask[..., None] > 0, whole[mask == 0].mean(0), whole).round().astype(np.uint8)
                x, where = _tensor(whole), torch.from_numpy(mask > 0)[None, None]
                for who, picture in filled.items():
                    measured.setdefault(who, []).append(_measured(x, _tensor(picture), where, perceptual))
                if number < SHOWN:
                    hidden = np.where(mask[..., None] > 0, 255 - whole // 4, whole).astype(np.uint8)
                    sheet += [Image.fromarray(picture) for picture in (hidden, *filled.values(), whole)]
            figures[name][width] = {who: _mean(values) for who, values in measured.items()}
        across = len(painters) + 3
        pictures.grid(sheet, across).save(out / f"restored-{name}.webp", quality=75, method=6)  # large as PNG
    return figures


def _measured(x, z, where, perceptual):
    # of two pictures, where a mask is: squared error, structural similarity, perceptual distance
    inside = where.expand_as(x)
    error = (x[inside] - z[inside]).square().mean().item()
    return error, metrics.ssim(x, z, where), perceptual(x, z, where).item()


def _mean(measured):
    # PSNR of the mean error: where a blank is filled exactly, that of a single picture has no bounds
    error, ssim, perceptual = np.mean(measured, axis=0).tolist()
    return {"psnr": metrics.decibels(error), "ssim": ssim, "perceptual": perceptual}


def _mask(example, width, size, kinds):
    return random_mask(size, np.random.default_rng(data.hashed(f"{example.name} {width}")), kinds)


def _restored(model, whole, mask):
    hidden = np.where(mask[..., None] > 0, 0, whole).astype(np.uint8)
    image, settings = pictures.to_png(Image.fromarray(hidden)), requests.restoring(model.family)
    request = requests.InpaintRequest(image=image, mask=masks.to_png(mask), area="whole", **settings)
    return np.asarray(inpaint(request, model).pictures[0].image)


def _tensor(picture):
    return tensors.from_image(Image.fromarray(picture))


def described(figures):
    """The figures as Markdown, with the pictures beside them."""
    rows = "".join(
        f"| {name}, {width} | {who} | {row['psnr']:.2f} dB | {row['ssim']:.3f} | {row['perceptual']:.3f} |\n"
        for name, widths in figures.items()
        for width, painted in widths.items()
        for who, row in painted.items()
    )
    who = ", ".join(("ours", *FLOOR, "mean"))
    sheets = "".join(
        f"![From the left: with the hole, {who}, as it was](restored-{name}.webp)\n\n" for name in figures
    )
    return (
        "Held-out pictures under masks of scratches (thin), of brush strokes (medium), and of blocks and borders "
        "(wide); nothing was said in words, settings as on the Restore tab. Measured under the mask alone: PSNR is "
        "that of the mean error, the perceptual distance that of features of a random network with a fixed seed. "
        "Telea's and the Navier-Stokes method are OpenCV's, the mean is that of the picture around.\n\n"
        f"| pictures, mask | who | PSNR | SSIM | perceptual |\n|---|---|---|---|---|\n{rows}\n{sheets}"
    )
