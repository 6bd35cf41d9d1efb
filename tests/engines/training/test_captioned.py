"""What trainers of words and pictures draw: pictures on backgrounds, and captions that say so."""

import dataclasses

import numpy as np
import pytest
import torch

from engines.errors import BadRequest
from engines.text.captions import BACKGROUNDS
from engines.training import data
from engines.training.captioned import CaptionedLatents
from tests import tiny


def latents(examples=None, **changes):
    recipe = dataclasses.replace(tiny.TOKEN_RECIPE, caption_dropout=0.1, **changes)
    return CaptionedLatents(recipe, examples or tiny.examples(), tiny.vqgan(), torch.device("cpu"))


def test_held_out_pictures_are_not_learned():
    pictures = latents()
    kept = {example.name for example in tiny.examples() if example.held_out}
    assert kept and not {row.example.name for row in pictures.rows} & kept
    assert {row.example.name for row in pictures.held_out} == kept
    assert len(pictures.held_out) == len(kept)


def test_a_folder_that_is_all_held_out_is_refused():
    with pytest.raises(BadRequest, match="held out"):
        latents([example for example in tiny.examples() if example.held_out])


def test_icons_stand_on_white_and_on_a_colour_that_the_caption_names():
    pictures, rng = latents(), np.random.default_rng(0)
    for row in pictures.rows:
        if row.is_icon:
            assert tuple(row.pixels[0, 0]) == BACKGROUNDS[row.background]
    white, coloured = pictures.rows[:2]
    assert white.background == "white" != coloured.background
    captions = [pictures.caption(coloured, rng) for _ in range(200)]
    named = [caption for caption in captions if "background" in caption or "背景" in caption]
    assert len(named) > 180
    assert 40 < sum("号" in caption for caption in captions) < 100  # about chinese_share of them
    alias = coloured.example.aliases[0]
    assert any(caption.startswith(alias) for caption in captions)


def test_a_batch_is_drawn_from_its_number_alone():
    a, b = latents(), latents()
    assert a.draw(7)[1] == b.draw(7)[1] != a.draw(8)[1]


def test_some_captions_are_left_empty():
    pictures = latents()
    captions = [caption for index in range(300) for caption in pictures.draw(index)[1]]
    assert 0.06 < captions.count("") / len(captions) < 0.14


def test_each_row_of_a_batch_is_drawn_by_its_own_odds():
    class Halves(type(tiny.TOKEN_RECIPE)):
        def odds(self):
            return [(0.0, 0.0), (1.0, 1.0)]

    recipe = Halves(**dataclasses.asdict(tiny.TOKEN_RECIPE))
    pictures = CaptionedLatents(recipe, tiny.examples(), tiny.vqgan(), torch.device("cpu"))
    for index in range(20):
        (icon, photograph), (said, unsaid), _ = pictures.draw(index)
        assert icon.is_icon and not photograph.is_icon and said and not unsaid


def test_many_held_out_pictures_are_taken_evenly(monkeypatch):
    monkeypatch.setattr("engines.training.captioned.HELD_OUT", 2)
    names = [example.name for example in tiny.examples(count=60) if example.held_out]
    assert len(names) > 4
    found = [row.example.name for row in latents(tiny.examples(count=60)).held_out]
    assert found == [names[0], names[len(names) // 2]]


def test_photographs_are_seen_through_many_windows_every_other_mirrored():
    slope = np.tile(np.linspace(0, 255, 96).astype(np.uint8)[None, :, None], (64, 1, 3))
    example = data.Example(name="photograph.jpg", pixels=slope)
    assert not example.held_out
    rows = latents([example], photo_variants=16).rows
    assert len(rows) == 16
    assert all(row.pixels.shape == (32, 32, 3) for row in rows)
    steps = [row.pixels[0, -1, 0].astype(int) - row.pixels[0, 0, 0] for row in rows]
    assert all((step > 0) == (number % 2 == 0) for number, step in enumerate(steps))
    assert len({abs(step) for step in steps}) > 4  # windows of many sizes
    assert min(map(abs, steps)) >= 255 * 31 / 95 - 3 and max(map(abs, steps)) <= 255 * 63 / 95 + 3


def test_a_photograph_without_a_caption_is_said_to_be_one():
    photograph = next(row for row in latents().rows if not row.is_icon)
    assert (photograph.text(), photograph.text(chinese=True)) == ("a photograph", "一张照片")
    assert photograph.caption() == "a photograph"
