"""Training the text encoder against pictures: it learns, it resumes, and its file gives it back."""

import dataclasses

import numpy as np
import pytest
import torch

from engines.checkpoints import models
from engines.errors import BadRequest, Cancelled
from engines.training import loop
from engines.training.clip import CLIPTrainer
from tests import tiny


def test_captions_learn_to_find_their_pictures(tmp_path):
    trainer = tiny.clip_trainer(dataclasses.replace(tiny.CLIP_RECIPE, rate=5e-3))
    rows = [trainer.step(index, 1.0) for index in range(80)]
    assert np.mean([row["loss"] for row in rows[-10:]]) < 0.7 * np.mean([row["loss"] for row in rows[:5]])
    assert np.mean([row["found"] for row in rows[-10:]]) > 2 * np.mean([row["found"] for row in rows[:5]])
    assert "held-out found" in rows[49]


def test_a_killed_run_resumes_to_the_same_weights(tmp_path):
    def stop_at_two(row):
        if row.get("step") == 2:
            raise Cancelled

    whole = tiny.clip_trainer()
    loop.train(whole, tmp_path / "whole", steps=5)
    assert loop.train(tiny.clip_trainer(), tmp_path / "parts", steps=5, report=stop_at_two) == 2
    second = tiny.clip_trainer()
    assert loop.train(second, tmp_path / "parts", resume=True) == 5
    for (name, a), b in zip(whole.model.state_dict().items(), second.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    for name, value in whole.average.values.items():
        assert torch.equal(value, second.average.values[name]), name


def test_the_exported_model_is_the_average(tmp_path):
    trainer = tiny.clip_trainer(card={"licence": "MIT"})
    loop.train(trainer, tmp_path, steps=3)
    model = models.load(tmp_path / "model.safetensors")
    for name, value in trainer.average.values.items():
        assert torch.equal(model.state_dict()[name], value.half().float())


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
