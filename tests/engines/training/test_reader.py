"""A CLIP that says whether pictures tell their captions from those of others."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from engines import tensors
from engines.errors import BadRequest
from engines.training.reader import Reader
from tests import tiny


@pytest.fixture(scope="module")
def pictures():
    return tiny.clip_trainer(dataclasses.replace(tiny.CLIP_RECIPE, batch=24)).pictures


@pytest.fixture(scope="module")
def clip():
    return tiny.reader(steps=30)


def drawn(pictures, count=16):
    rows = pictures.rows[:count]
    return rows, [row.caption() for row in rows], torch.stack([row.encoded for row in rows])


def test_right_pictures_are_told_from_others(pictures, clip):
    reader = Reader(clip, pictures.rows, clip.config, noise=0.0, others=64)
    rows, captions, x = drawn(pictures)
    right = reader.misread(x, rows, captions, tensors.generator(0))
    wrong = reader.misread(x.roll(5, 0), rows, captions, tensors.generator(0))
    assert right < 0.7 * wrong
    assert reader.misread(x, rows, [""] * len(rows), tensors.generator(0)) == 0


@pytest.mark.parametrize("other", [0, 7])
def test_it_is_a_cross_entropy_among_the_captions_of_others(pictures, clip, other):
    reader = Reader(clip, [pictures.rows[other]], clip.config, noise=0.0, others=1)
    rows, captions, x = drawn(pictures)
    expected = []
    for row, caption, picture in zip(rows, captions, clip.embed_latents(x), strict=True):
        wrong = [pictures.rows[other].caption()] * (row.text() != pictures.rows[other].text())
        logits = clip.similarity(clip.embed_texts([caption, *wrong]), picture[None])
        expected.append(F.cross_entropy(logits.T, torch.tensor([0])))
    found = reader.misread(x, rows, captions, tensors.generator(0))
    torch.testing.assert_close(found, torch.stack(expected).mean(), rtol=1e-4, atol=1e-5)


def test_latents_of_another_frame_are_brought_into_its_own(pictures, clip):
    rows, captions, x = drawn(pictures)
    own = clip.config
    frame = dataclasses.replace(own, latent_mean=(0.3, -0.2, 0.1, 0.0), latent_std=2 * own.latent_std)
    mean, other = (torch.tensor(config.latent_mean).view(1, -1, 1, 1) for config in (own, frame))
    moved = (x * own.latent_std + mean - other) / frame.latent_std
    found = [
        Reader(clip, pictures.rows, config, noise=0.0, others=8).misread(latents, rows, captions, tensors.generator(0))
        for config, latents in ((own, x), (frame, moved))
    ]
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-4)


def test_a_reader_of_latents_of_another_shape_is_refused(pictures, clip):
    small = [dataclasses.replace(row, encoded=row.encoded[:, :4, :4]) for row in pictures.rows]
    with pytest.raises(BadRequest, match=r"reads latents of \(4, 8, 8\), the model draws \(4, 4, 4\)"):
        Reader(clip, small, clip.config, noise=0.0, others=1)
