"""The codebook as a sheet: each patch is what its code draws."""

import numpy as np
import pytest
import torch

from engines import tensors
from engines.errors import BadRequest
from engines.requests import CodebookRequest
from engines.tasks.codebook import codebook
from tests import tiny


def test_a_patch_is_what_its_code_draws_among_its_own_kind():
    model, seen = tiny.vqgan(), []
    result = codebook(CodebookRequest(), model, seen.append)
    assert result.sheet.size == (64 * 4, 4) and (result.columns, result.factor) == (64, 4)  # 64 codes of 4x4 pixels
    for code in (0, 17, 63):
        with torch.no_grad():
            drawn = tensors.to_images(model.decode_indices(torch.full((1, 3, 3), code)))[0]
        patch = np.asarray(result.sheet.crop((code * 4, 0, code * 4 + 4, 4))).astype(int)
        assert np.abs(patch - np.asarray(drawn.crop((4, 4, 8, 8)))).max() <= 1
    assert seen[-1].index == seen[-1].count == 64


def test_all_codes_are_sorted_by_colour_greys_first(monkeypatch):
    colours = torch.tensor([[1, 0, 0], [0, 0, 1], [0.9, 0.9, 0.9], [0.1, 0.1, 0.1], [0, 1, 0]]).float()
    model = tiny.vqgan()
    monkeypatch.setattr(
        model, "decode_indices",
        lambda tokens: (2 * colours[tokens[:, 0, 0] % 5] - 1)[..., None, None].expand(-1, 3, 12, 12),
    )
    order = codebook(CodebookRequest(), model).by_colour
    assert sorted(order) == list(range(64))
    kinds = [code % 5 for code in order]
    assert kinds == sorted(kinds, key=[3, 2, 0, 4, 1].index)  # dark, light, red, green, blue


def test_a_kl_autoencoder_has_none():
    with pytest.raises(BadRequest, match="no codebook"):
        codebook(CodebookRequest(), tiny.kl())
