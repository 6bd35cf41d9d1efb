"""Training a token transformer: it learns, and it hides what the schedule says."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from engines.checkpoints import models
from engines.errors import BadRequest
from engines.training import loop
from tests import tiny


def test_the_loss_falls():
    trainer = tiny.token_trainer(dataclasses.replace(tiny.TOKEN_RECIPE, batch=16, rate=5e-3, smoothing=0.0))
    losses = [trainer.step(index, 1.0)["loss"] for index in range(80)]
    assert losses[0] == pytest.approx(math.log(64), rel=0.1)  # 64 codes, and nothing known of them
    assert np.mean(losses[-10:]) < 0.7 * losses[0]


def test_the_exported_model_encodes_and_decodes_as_its_vqgan(tmp_path):
    loop.train(tiny.token_trainer(), tmp_path, steps=3)
    model = models.load(tmp_path / "model.safetensors", tiny.vqgan())
    x = torch.rand(1, 3, 32, 32) * 2 - 1
    assert torch.equal(model.encode(x), model.first_stage(x)[1].indices)
    torch.testing.assert_close(model.decode(model.encode(x)), model.first_stage(x)[0], rtol=0, atol=1e-5)


def test_only_hidden_tokens_count_and_as_many_as_the_schedule_says(monkeypatch):
    trainer = tiny.token_trainer()
    rows = trainer.pictures.rows[:2]
    seen = {}
    transformer = trainer.model.transformer.forward
    monkeypatch.setattr(
        trainer.model.transformer, "forward",
        lambda tokens, hidden, context: seen.update(hidden=hidden) or transformer(tokens, hidden, context),
    )
    places = torch.rand(2, 64)
    trainer.model.eval()
    loss = trainer.hidden_loss(rows, ["", ""], [0.0, 2 / 3], places)
    assert seen["hidden"].flatten(1).sum(1).tolist() == [64, 32]
    assert places[1][seen["hidden"][1].flatten()].max() < places[1][~seen["hidden"][1].flatten()].min()
    tokens = torch.stack([row.encoded for row in rows])
    with torch.no_grad():
        logits = transformer(tokens, seen["hidden"], **trainer.model.words(["", ""])).log_softmax(-1)
    expected = -logits.gather(-1, tokens[..., None])[..., 0][seen["hidden"]].mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_run_may_go_on_from_a_model_and_begin_with_a_text_encoder():
    start, clip = tiny.token_generator(), tiny.clip_trainer().model
    trainer = tiny.token_trainer(start=start, clip=clip)
    state = trainer.model.state_dict()
    assert all(torch.equal(state[f"transformer.{name}"], v) for name, v in start.transformer.state_dict().items())
    assert all(torch.equal(state[f"text.{name}"], v) for name, v in clip.text.state_dict().items())
    before = trainer.model.text.text_model.embeddings.token_embedding.weight.clone()
    trainer.step(0, 1.0)
    assert not torch.equal(trainer.model.text.text_model.embeddings.token_embedding.weight, before)


def test_a_text_encoder_of_another_width_is_refused():
    clip = tiny.clip_trainer(dataclasses.replace(tiny.CLIP_RECIPE, text_width=32)).model
    with pytest.raises(BadRequest, match="32 wide"):
        tiny.token_trainer(clip=clip)


def test_samples_are_eight_pictures():
    assert tiny.token_trainer().samples().size == (4 * 34 - 2, 2 * 34 - 2)
