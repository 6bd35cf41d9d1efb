"""Training a token transformer: it learns, and it hides what the schedule says."""

import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from engines.checkpoints import models
from engines.errors import BadRequest
from engines.training import loop
from engines.training.tokens import Alike
from tests import tiny


def test_the_loss_falls():
    trainer = tiny.token_trainer(dataclasses.replace(tiny.TOKEN_RECIPE, batch=16, rate=5e-3, alike=1))
    losses = [trainer.step(index, 1.0)["loss"] for index in range(80)]
    assert losses[0] == pytest.approx(math.log(64), rel=0.1)  # 64 codes, and nothing known of them
    assert np.mean(losses[-10:]) < 0.7 * losses[0]


def test_the_exported_model_encodes_and_decodes_as_its_vqgan(tmp_path):
    loop.train(tiny.token_trainer(), tmp_path, steps=3)
    model = models.load(tmp_path / "model.safetensors", tiny.vqgan())
    x = torch.rand(1, 3, 32, 32) * 2 - 1
    assert torch.equal(model.encode(x), model.first_stage(x)[1].indices)
    torch.testing.assert_close(model.decode(model.encode(x)), model.first_stage(x)[0], rtol=0, atol=1e-5)


def test_only_hidden_tokens_count_and_as_many_as_the_schedule_says():
    trainer = tiny.token_trainer()
    rows, places = trainer.pictures.rows[:2], torch.rand(2, 64)
    trainer.model.eval()
    with torch.no_grad():
        logits, tokens = trainer.hidden_logits(rows, ["", ""], [0.0, 2 / 3], places)
        hidden = torch.stack([torch.ones(64, dtype=torch.bool), places[1] < places[1].sort().values[32]])
        every = torch.stack([row.encoded for row in rows])
        expected = trainer.model.transformer(every, hidden.view(every.shape), **trainer.model.words(["", ""]))
    assert torch.equal(tokens, every.flatten(1)[hidden]) and len(tokens) == 64 + 32
    torch.testing.assert_close(logits, expected.flatten(1, 2)[hidden], rtol=1e-4, atol=1e-5)


CODES = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [5.0, 5.0]])


def test_codes_that_look_alike_count_as_right_and_others_do_not():
    logits = torch.randn(6, 4)
    codes = torch.tensor([0, 1, 2, 3, 0, 1])
    alone = Alike(CODES, 1).cross_entropy(logits, codes)
    torch.testing.assert_close(alone, F.cross_entropy(logits, codes))
    # of the first code, the two at distance 1 are alike: the spacing is 1, so each weighs exp(-1/2) beside its 1
    alike = Alike(CODES, 3)
    near = math.exp(-0.5) / (1 + 2 * math.exp(-0.5))
    expected = torch.tensor([[1 - 2 * near, near, near, 0.0]])
    loss = alike.cross_entropy(logits[:1], codes[:1])
    torch.testing.assert_close(loss, F.cross_entropy(logits[:1], expected))
    assert alike.cross_entropy(expected.clamp(min=1e-9).log(), codes[:1]) < loss


def test_a_code_is_its_own_nearest_however_near_others_are():
    codes = torch.tensor([[1.0, 0.0]]) + 1e-4 * torch.randn(300, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(Alike(codes, 1).indices[:, 0], torch.arange(300))
    assert Alike(CODES, 16).indices.shape == (4, 4)  # a codebook may be small


def test_a_codebook_of_one_code_over_and_over_is_refused():
    with pytest.raises(BadRequest, match="Most codes of this VQGAN are the same"):
        Alike(torch.ones(8, 4), 4)


def test_embeddings_begin_alike_as_their_codes_are():
    trainer = tiny.token_trainer()
    codes, rows = trainer.first_stage.quantize.codebook, trainer.model.transformer.tokens.weight[:-1]
    apart, alike = torch.cdist(codes, codes), F.cosine_similarity(rows[:, None], rows[None], dim=-1)
    off = ~torch.eye(len(codes), dtype=torch.bool)
    assert torch.corrcoef(torch.stack([apart[off], alike[off]]))[0, 1] < -0.5
    assert rows.std().item() == pytest.approx(0.02, rel=0.2)


def test_a_run_may_go_on_from_a_model_and_begin_with_a_text_encoder():
    start, clip = tiny.token_generator(), tiny.clip_trainer().model
    trainer = tiny.token_trainer(start=start, reader=clip)
    state = trainer.model.state_dict()
    assert all(torch.equal(state[f"transformer.{name}"], v) for name, v in start.transformer.state_dict().items())
    assert all(torch.equal(state[f"text.{name}"], v) for name, v in clip.text.state_dict().items())
    before = trainer.model.text.text_model.embeddings.token_embedding.weight.clone()
    trainer.step(0, 1.0)
    assert not torch.equal(trainer.model.text.text_model.embeddings.token_embedding.weight, before)


def test_a_text_encoder_of_another_width_is_refused():
    clip = tiny.clip_trainer(dataclasses.replace(tiny.CLIP_RECIPE, text_width=32)).model
    with pytest.raises(BadRequest, match="32 wide"):
        tiny.token_trainer(reader=clip)


def test_samples_are_eight_pictures():
    assert tiny.token_trainer().samples().size == (4 * 34 - 2, 2 * 34 - 2)
