"""What is under a mask painted anew, and nothing else: a crop at the model's own size, set back at full resolution."""

import time

import cv2
import numpy as np
import torch
from PIL import Image

from engines import blending, masks, pictures, tensors
from engines.diffusion import inpainting, samplers, schedules
from engines.errors import BadPicture, BadRequest
from engines.pipelines import calls
from engines.pipelines.pipeline import Pipeline
from engines.requests import InpaintResult, Picture, alone
from engines.tasks import drawing
from engines.vqgan import decoding

LEAST = 8  # pixels a side of a picture: one latent
JUMP = 5  # steps that are gone again at once
# families that follow words and work at a size of their own
READING = ("latent-diffusion", "token-transformer", Pipeline.family)
LONGEST = 2  # times its own size that a model works on at most, along the longer side


@torch.no_grad()
def inpaint(request, model, on_progress=None):
    """The pictures of an `InpaintRequest` by a `LatentDiffusion`, a `TokenGenerator`, a `Pipeline` or
    `classical.Inpainting`.

    They are of the full size of the source, with its new space, and equal to it to the last bit outside of the
    feathered mask, transparency included. Raises `BadRequest` for a mask that fits nothing.
    """
    started = time.monotonic()
    if model.family == Pipeline.family:
        calls.check(request, model)
    elif model.family in READING:
        drawing.check_words(request, model)
    source, mask = _opened(request)
    places = _places(request, mask, model.size)
    made, notes = [], []
    # where one part goes on from the other, each picture has parts of its own; else all are painted at once
    rows = [request] if len(places) == 1 else [alone(request, index) for index in range(request.count)]
    for number, row in enumerate(rows):
        wholes, rest = [source.copy() for _ in range(row.count)], mask.copy()
        for index, (part, box) in enumerate(places):
            told = drawing.as_stage(on_progress, number * len(places) + index, len(rows) * len(places))
            notes.append(_paint_part(row, model, wholes, rest, part, box, told))
        made += zip(wholes, drawing.seeds(row, range(row.count)), strict=True)
    beside = masks.feather(mask, request.feather) == 0
    changed = max(int(((whole != source).any(2) & beside).sum()) for whole, _ in made)
    return InpaintResult(
        tuple(Picture(_image(whole), seed) for whole, seed in made),
        time.monotonic() - started,
        note=next(filter(None, notes), ""),
        boxes=tuple(box for _, box in places),
        changed=changed,
    )


def _paint_part(request, model, wholes, rest, part, box, on_progress):
    """Paint what `rest (H, W)` of the mask lies in `part` into `wholes`, pictures `(H, W, 4)` that are alike in `box`.

    It is taken off `rest`. Returns a note on how it went.
    """
    left, top, right, bottom = box
    here = (slice(top, bottom), slice(left, right))
    width, height = work = work_size(box, model)
    small = cv2.resize(wholes[0][here][..., :3], work, interpolation=_smoothly(box, width))
    strength = _reduced(rest[here], work)
    x = tensors.from_image(Image.fromarray(_begun(request, small, strength >= 1))).to(model.device)
    hole = torch.from_numpy(strength)[None, None].to(model.device) * request.strength

    def paint(request, model, batch, report, each):
        return PAINT[model.family](request, model, batch, x, hole, report, each)

    painted, note = drawing.in_batches(request, model, work, paint, on_progress)
    now = np.zeros_like(rest)
    inside = (slice(part[1], part[3]), slice(part[0], part[2]))
    now[inside] = rest[inside]
    rest[inside] = 0
    soft = masks.feather(now[here], request.feather)
    for whole, image in zip(wholes, painted, strict=True):
        new = np.asarray(image, np.float32)
        if request.match == "seam":
            new = blending.match_seam(small.astype(np.float32), new, strength > 0)
        new = cv2.resize(new, (right - left, bottom - top), interpolation=cv2.INTER_CUBIC)
        opaque = np.concatenate([new, np.full_like(new[..., :1], 255)], axis=2)
        whole[here] = blending.composite(whole[here], opaque, soft)
    return note


def _begun(request, picture, hole):
    # what stands at first where `hole (H, W)` bool is painted as strongly as can be; elsewhere the picture does
    if request.begin == "picture" or hole.all():
        return picture
    return blending.membrane(picture.astype(np.float32), ~hole).round().astype(np.uint8)


def _opened(request):
    """The picture `(H, W, 4)` uint8 and its mask `(H, W)`, with the new space that is asked for."""
    image = pictures.from_png(request.image, "RGBA")
    if min(image.size) < LEAST:
        raise BadPicture(
            f"The picture is {image.width}x{image.height} pixels; it needs at least {LEAST} on each side."
        )
    source = np.asarray(image)
    mask = np.zeros(source.shape[:2], np.float32)
    if request.mask:
        mask = masks.from_png(request.mask, image.size)
    source, mask = masks.extended(source, mask, request.left, request.top, request.right, request.bottom)
    if not mask.any():
        raise BadRequest("The mask is empty: paint over what shall be new, or ask for space beyond an edge.")
    return source, mask


def _places(request, mask, size):
    """What is painted one after the other, as boxes of the mask, each with the box that the model looks at."""
    height, width = mask.shape
    whole = masks.bounds(mask)
    if request.area == "whole":
        return [(whole, (0, 0, width, height))]
    # the new passes into the old within the box
    room = {"margin": request.margin, "least": size, "rim": request.feather}
    boxes = masks.parts(mask, request.margin, size) if request.area == "parts" else [whole]
    return [(box, masks.around(box, mask.shape, **room)) for box in boxes]


def work_size(box, model):
    """The width and height that a model works at: about as many pixels as it learned with."""
    width, height = box[2] - box[0], box[3] - box[1]
    scale = min(model.size / (width * height) ** 0.5, LONGEST * model.size / max(width, height))
    if model.family not in READING:
        scale = min(1, scale)
    multiple = model.size_multiple
    return tuple(max(multiple, round(side * scale / multiple) * multiple) for side in (width, height))


def _smoothly(box, width):
    return cv2.INTER_AREA if width < box[2] - box[0] else cv2.INTER_CUBIC


def _reduced(mask, size):
    """The mask at another `(width, height)`, where a pixel is painted as strongly as any that it stands for."""
    high, wide = (max(1, -(-old // new)) for old, new in zip(mask.shape, size[::-1], strict=True))
    grown = cv2.dilate(mask, np.ones((high, wide), np.uint8))
    return cv2.resize(grown, size, interpolation=cv2.INTER_NEAREST)


def _image(whole):
    return Image.fromarray(whole if whole[..., 3].min() < 255 else whole[..., :3].copy())


# ---------------------------------------------------------------- latent diffusion


def _by_diffusion(request, model, batch, x, strength, report, each):
    """Pictures `(B, 3, H, W)` of `x (1, 3, H, W)` painted anew where `strength (1, 1, H, W)` is above 0.

    A net with nine channels sees what lies around the hole (Rombach et al., 2022, section 4.5), and only
    where a mask is weaker than 1 it is kept on the way of the source; a net with four is so everywhere else, too.
    """
    hole = (strength > 0).to(x)
    known = model.encode(x)
    places = torch.nn.functional.max_pool2d(strength, model.first_stage.config.factor)
    if model.inpaints:
        places = torch.where(places > 0, places, places.max())
    levels = schedules.by_name(request.scheduler)(model.noise, request.steps)
    sigmas = schedules.tail(levels, places.max().item())
    seeds = drawing.seeds(request, batch)
    fresh = samplers.noise_sampler_from_seeds(seeds, known.shape[1:], model.device)
    rows = len(batch)
    around = model.surroundings(x, hole).expand(rows, -1, -1, -1) if model.inpaints else None
    denoise = drawing.guided_denoiser(request, model, levels, sigmas, rows, each, x.shape[:1:-1], around)
    sampler = inpainting.resampled(samplers.by_name(request.sampler), request.jumps, JUMP)
    latents = sampler(
        inpainting.kept(denoise, known, places, sigmas, len(levels) - 1),
        known + sigmas[0].item() * tensors.noise(seeds, known.shape[1:]).to(known),
        sigmas.to(model.device),
        callback=lambda step: report(step.index, step.count, lambda: model.decode(step.denoised[:4])),
        noise_sampler=fresh,
    )
    return each(model.decode)(latents)


# ---------------------------------------------------------------- tokens (Chang et al., 2022, section 4.3)


def _by_tokens(request, model, batch, x, strength, report, each):
    """Pictures `(B, 3, H, W)` of `x (1, 3, H, W)` with the tokens under the mask drawn anew.

    Where `strength (1, 1, H, W)` is below 1, that share of the tokens is, spread evenly.
    """
    tokens = model.encode(x).expand(len(batch), -1, -1)
    height, width = tokens.shape[1:]
    places = torch.nn.functional.max_pool2d(strength, model.first_stage.config.factor)[:, 0]
    spread = (decoding.halton_order(height, width).view(height, width) / (height * width)).to(places)
    chance = decoding.Chance(drawing.seeds(request, batch), height, width)
    tokens = drawing.fill(
        request, model, tokens, (spread < places).expand_as(tokens), chance,
        lambda step: report(step.index, step.count, lambda: model.decode(step.tokens[:4])), each,
    )  # fmt: skip
    return each(model.decode)(tokens)


# ---------------------------------------------------------------- without weights


def _by_neighbours(request, model, batch, x, strength, report, each):
    """Pictures `(B, 3, H, W)` of `x (1, 3, H, W)`, all alike, with the hole filled from its edges."""
    (picture,) = tensors.to_images(x)
    filled = model.fill(np.asarray(picture), strength[0, 0].numpy() > 0)
    report(1, 1, None)
    return tensors.from_image(Image.fromarray(filled)).expand(len(batch), -1, -1, -1)


PAINT = {
    "latent-diffusion": _by_diffusion,
    "token-transformer": _by_tokens,
    Pipeline.family: calls.paint,
    "classical-inpainting": _by_neighbours,
}
