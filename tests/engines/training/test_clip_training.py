"""Training the text encoder against pictures: captions find what they are of."""

import dataclasses

import numpy as np
import pytest

from engines.errors import BadRequest
from engines.training.clip import CLIPTrainer
from tests import tiny


def test_captions_learn_to_find_their_pictures(tmp_path):
    trainer = tiny.clip_trainer(dataclasses.replace(tiny.CLIP_RECIPE, rate=5e-3))
    rows = [trainer.step(index, 1.0) for index in range(80)]
    assert np.mean([row["loss"] for row in rows[-10:]]) < 0.7 * np.mean([row["loss"] for row in rows[:5]])
    assert np.mean([row["found"] for row in rows[-10:]]) > 2 * np.mean([row["found"] for row in rows[:5]])
    assert "held-out found" in rows[49]


def test_the_sheet_shows_eight_held_out_pictures_and_what_they_find():
    trainer = tiny.clip_trainer()
    count = min(8, len(trainer.pictures.held_out))
    assert trainer.samples().size == (count * 34 - 2, 2 * 34 - 2)


def test_no_picture_and_no_caption_is_twice_in_a_batch():
    """Twelve draws from eighteen pictures and captions of few words meet again and again."""
    trainer = tiny.clip_trainer(dataclasses.replace(tiny.CLIP_RECIPE, batch=60))
    for index in range(5):
        rows, captions = trainer._pairs(index)
        assert 10 < len(rows) == len(captions) < 60
        assert len({id(row) for row in rows}) == len(set(captions)) == len(rows)


def test_pictures_without_captions_teach_no_words():
    bare = [dataclasses.replace(example, text="", text_zh="", aliases=()) for example in tiny.examples()]
    with pytest.raises(BadRequest, match="no captions to learn from"):
        CLIPTrainer(tiny.CLIP_RECIPE, [e for e in bare if e.pixels.shape[2] == 4], tiny.vqgan())
