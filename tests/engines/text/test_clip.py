"""The two towers of CLIP and the space they share."""

import pytest
import torch

from engines.errors import BadRequest
from engines.text.clip import CLIPConfig
from tests import tiny


def test_embeddings_are_unit_vectors_and_a_text_is_itself_in_any_batch():
    model = tiny.clip_trainer().model.eval()
    with torch.no_grad():
        texts = model.embed_texts(["red disc", "红", ""])
        pictures = model.embed_latents(torch.randn(2, 4, 8, 8))
        alone = model.embed_texts(["红"])
    assert torch.allclose(texts.norm(dim=1), torch.ones(3)) and torch.allclose(pictures.norm(dim=1), torch.ones(2))
    assert torch.allclose(texts[1:2], alone, atol=1e-6)


@pytest.mark.parametrize("fields", [{"latent_size": 6}, {"latent_size": 0}, {"ch": 12}])
def test_a_shape_that_cannot_be_built_is_refused(fields):
    config = tiny.clip_trainer().model.config
    with pytest.raises(BadRequest):
        CLIPConfig(config.text, config.tokenizer, config.latent_mean, config.latent_std, **fields)


def test_similarity_is_the_scaled_cosine():
    model = tiny.clip_trainer().model.eval()
    with torch.no_grad():
        texts, pictures = model.embed_texts(["red disc", "红"]), model.embed_latents(torch.randn(3, 4, 8, 8))
        expected = torch.nn.functional.cosine_similarity(texts[:, None], pictures[None], dim=-1)
        assert torch.allclose(model.similarity(texts, pictures), 10 * expected, atol=1e-4)  # as it starts
        model.logit_scale.fill_(9.0)
        assert torch.allclose(model.similarity(texts, pictures), 100 * expected, atol=1e-3)  # and no further
