"""Where memory is short for a whole: tile by tile, of the right size, exact where that can be, and of one piece."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from engines import catalog, tensors
from engines.checkpoints import models
from engines.classical import METHODS
from engines.diffusion.tiled import LEAST, SHARED, Tiled
from engines.diffusion.windows import boxes
from engines.requests import InpaintRequest, RefineRequest
from engines.tasks import drawing
from engines.tasks.generate import generate
from engines.tasks.inpaint import inpaint
from engines.tasks.refine import refine
from tests import tiny
from tests.peers import randomise


class Convolutions(nn.Module):
    """An autoencoder of convolutions alone, which see no further than one latent."""

    family = "kl"
    config = tiny.AUTOENCODER  # of the same factor

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 6, 2, stride=2), nn.SiLU(), nn.Conv2d(6, 4, 4, stride=2, padding=1))
        self.decoder = nn.Sequential(
            nn.Conv2d(4, 6, 1), nn.SiLU(), nn.Upsample(scale_factor=2),
            nn.Conv2d(6, 6, 3, padding=1), nn.SiLU(), nn.Upsample(scale_factor=2), nn.Conv2d(6, 3, 3, padding=1),
        )  # fmt: skip

    def encode(self, pictures):
        return self.encoder(pictures)

    def decode(self, latents):
        return self.decoder(latents)


def run_short(monkeypatch, stage, latents):
    """Let both halves of an autoencoder have memory for so many latents, or their pictures; gives what they hold."""
    held = []
    for half, place in ((stage.encoder, stage.config.factor**2), (stage.decoder, 1)):

        def short(x, *more, forward=half.forward, place=place):
            held.append(len(x) * x.shape[2] * x.shape[3] // place)
            if held[-1] > latents:
                raise torch.OutOfMemoryError("out of memory")
            return forward(x, *more)

        monkeypatch.setattr(half, "forward", short)
    return held


def randn(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("height, width, room", [(23, 37, 400), (50, 17, 500), (32, 32, 100), (9, 64, 150)])
def test_what_sees_no_further_than_the_margin_gives_the_whole(height, width, room, monkeypatch):
    stage = randomise(Convolutions())
    latents, pictures = randn(1, 4, height, width), randn(1, 3, 4 * height, 4 * width)
    whole, known = stage.decode(latents), stage.encode(pictures)
    held = run_short(monkeypatch, stage, room)
    tiled = Tiled(stage)
    torch.testing.assert_close(tiled.decode(latents), whole)
    torch.testing.assert_close(tiled.encode(pictures), known)
    assert max(held) == height * width and sum(area <= room for area in held) > 4
    assert tiled.by_tiles and not tiled.by_rows


def test_what_there_is_room_for_is_not_cut(monkeypatch):
    stage = tiny.kl()
    latents = randn(3, 4, 16, 20)
    whole, row = stage.decode(latents), stage.decode(latents[:1])
    held = run_short(monkeypatch, stage, 3 * 16 * 20)
    tiled = Tiled(stage)
    assert torch.equal(tiled.decode(latents), whole) and not tiled.by_rows
    held = run_short(monkeypatch, stage, 16 * 20)
    torch.testing.assert_close(tiled.decode(latents), whole)
    assert torch.equal(tiled.decode(latents[:1]), row)
    assert set(held) == {3 * 16 * 20, 16 * 20} and tiled.by_rows and not tiled.by_tiles


def jumps(difference, side, borders):
    """How much a `difference (1, C, H, W)` changes from column to column, at `borders` in latents and elsewhere."""
    steps = difference.diff(dim=-1).abs().mean((0, 1, 2))
    at = torch.zeros(len(steps), dtype=torch.bool)
    at[[side * border - 1 for border in borders]] = True
    return steps[at].max(), steps[~at].max()


def test_no_seam_is_seen_where_tiles_end(monkeypatch):
    """With group norms and an attention, whose tones differ from tile to tile, what differs passes without a jump."""
    stage = models.load(catalog.find("icons-vqgan").path)
    latents = stage.encode(tensors.from_image(tiny.picture(512, 256)))
    whole, factor = stage.decode(latents), stage.config.factor
    height, width = latents.shape[2:]
    butted = torch.cat([stage.decode(part) for part in latents.split(width // 2, dim=-1)], dim=-1)
    run_short(monkeypatch, stage, height * width // 2)
    made = Tiled(stage).decode(latents)
    assert made.shape == whole.shape and (made - whole).abs().mean() < 0.1 * whole.std()
    borders = {border for _, *sides in boxes(height, width, width // 2, SHARED) for border in sides[::2]} - {0, width}
    at, elsewhere = jumps(made - whole, factor, borders)
    assert at <= elsewhere
    at, elsewhere = jumps(butted - whole, factor, {width // 2})
    assert at > 2 * elsewhere  # which is what would be seen


def test_what_does_not_even_fit_in_the_smallest_tile_is_out_of_memory(monkeypatch):
    stage = tiny.kl()
    run_short(monkeypatch, stage, LEAST**2 - 1)
    with pytest.raises(torch.OutOfMemoryError, match="no memory for a tile"):
        Tiled(stage).decode(randn(1, 4, 32, 32))


# ---------------------------------------------------------------- in the tasks


def hole():
    mask = np.zeros((64, 64, 3), np.uint8)
    mask[16:40, 16:48] = 255
    return tiny.png(tiny.Image.fromarray(mask))


FIELDS = {"prompt": "red disc", "image": tiny.png(tiny.picture(64, 64)), "steps": 4, "seed": 7, "strength": 0.8}
TASKS = {
    "from words": lambda model, told: generate(tiny.request(count=2, width=64, height=64), model, told),
    "from a picture": lambda model, told: generate(tiny.request(**FIELDS, width=64, height=64), model, told),
    "inpainting": lambda model, told: inpaint(InpaintRequest(**FIELDS, mask=hole()), model, told),
    "larger": lambda model, told: refine(RefineRequest(**FIELDS, scale=1), model, METHODS["lanczos"], told),
}


@pytest.mark.parametrize("task", TASKS)
def test_a_picture_too_large_for_the_autoencoder_is_drawn_all_the_same(task, monkeypatch):
    model = tiny.latent_diffusion().drawing_with(randomise(Convolutions()))
    model.config = dataclasses.replace(model.config, size=64)
    plain = TASKS[task](model, None)
    held, seen = run_short(monkeypatch, model.first_stage, 100), []
    drawn = TASKS[task](model, seen.append)
    assert plain.note == "" and drawn.note.endswith(drawing.TILED)
    assert (drawing.SHORT in drawn.note) == (len(plain.pictures) > 1)
    assert {area for area in held if area <= 100} == {LEAST**2} and any(progress.preview for progress in seen)
    for one, other in zip(plain.pictures, drawn.pictures, strict=True):
        assert np.abs(np.asarray(one.image).astype(int) - np.asarray(other.image)).max() <= 1  # of rounding
