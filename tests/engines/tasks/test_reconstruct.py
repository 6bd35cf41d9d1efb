"""A picture through an autoencoder and back, with its figures."""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from engines import tensors
from engines.checkpoints.tokens import Tokens, to_bytes
from engines.errors import BadPicture, BadRequest
from engines.requests import ReconstructRequest
from engines.tasks.reconstruct import reconstruct, token_map
from tests import tiny


def ask(image, **fields):
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return ReconstructRequest(image=stream.getvalue(), **fields)


@pytest.fixture(scope="module")
def picture():
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (45, 70, 3), dtype=np.uint8)).resize((70, 45))


def test_figures_are_those_of_the_pictures_shown(picture):
    model = tiny.vqgan()
    result = reconstruct(ask(picture), model)
    assert result.reconstruction.size == result.difference.size == result.token_map.size == picture.size
    shown, redrawn = (np.asarray(image, np.float64) for image in (result.source, result.reconstruction))
    assert np.array_equal(shown, np.asarray(picture))
    assert result.psnr == pytest.approx(10 * math.log10(255**2 / np.square(shown - redrawn).mean()), rel=1e-5)
    # 45x70 pixels are padded to 12x18 tokens of 4x4, each one of 64 codes.
    assert result.indices.shape == (12, 18)
    assert result.bits_per_pixel == pytest.approx(12 * 18 * 6 / (45 * 70))
    assert result.codes_used == len(np.unique(result.indices))
    assert 1 <= result.perplexity <= result.codes_used <= result.n_embed == 64


def test_tokens_decode_to_the_reconstruction(picture):
    model = tiny.vqgan()
    result = reconstruct(ask(picture), model)
    with torch.no_grad():
        again = model.decode_indices(torch.from_numpy(result.indices)[None])[..., :45, :70]
    difference = np.asarray(tensors.to_images(again)[0]).astype(int) - np.asarray(result.reconstruction)
    assert np.abs(difference).max() <= 1


def test_a_kl_autoencoder_has_no_tokens(picture):
    result = reconstruct(ask(picture), tiny.kl())
    assert result.token_map is result.indices is result.bits_per_pixel is None
    assert math.isfinite(result.psnr) and -1 <= result.ssim <= 1


def test_difference_is_black_only_where_nothing_was_lost(picture):
    result = reconstruct(ask(picture), tiny.vqgan())
    error = np.abs(np.asarray(result.source, int) - np.asarray(result.reconstruction)).mean(2)
    shown = np.asarray(result.difference)[..., 0]
    assert np.abs(shown - np.minimum(error * 4, 255)).max() <= 1


def test_a_large_picture_is_reduced(picture):
    result = reconstruct(ask(picture.resize((1400, 900)), max_side=64), tiny.vqgan())
    assert result.source.size == (64, 41)


def test_a_picture_too_small_is_refused():
    with pytest.raises(BadPicture, match="8x30 pixels.*at least 16"):
        reconstruct(ask(Image.new("RGB", (8, 30))), tiny.vqgan())


def test_a_code_has_one_colour_and_neighbours_have_others():
    indices = np.array([[3, 4], [4, 3]])
    image = np.asarray(token_map(indices, 8, (16, 12)))
    assert image.shape == (12, 16, 3)
    assert (image[:8, :8] == image[0, 0]).all() and (image[8:, 8:] == image[0, 0]).all()
    assert (image[:8, 8:] == image[0, 8]).all() and (image[0, 0] != image[0, 8]).any()


def test_saved_tokens_give_the_same_picture_again(picture):
    model = tiny.vqgan()
    first = reconstruct(ask(picture), model)
    again = reconstruct(ReconstructRequest(tokens=first.tokens), model)
    assert np.array_equal(np.asarray(again.token_map), np.asarray(first.token_map))
    difference = np.asarray(again.reconstruction).astype(int) - np.asarray(first.reconstruction)
    assert np.abs(difference).max() <= 1 and again.reconstruction.size == picture.size
    assert again.source is again.psnr is again.difference is None
    assert (again.codes_used, again.bits_per_pixel) == (first.codes_used, first.bits_per_pixel)
    assert again.tokens == first.tokens


def test_tokens_of_another_model_are_refused(picture):
    saved = reconstruct(ask(picture), tiny.vqgan(seed=0)).tokens
    with pytest.raises(BadRequest, match="of another model"):
        reconstruct(ReconstructRequest(tokens=saved), tiny.vqgan(seed=1))
    with pytest.raises(BadRequest, match="has none"):
        reconstruct(ReconstructRequest(tokens=saved), tiny.kl())


@pytest.mark.parametrize("fields", [{"indices": np.array([[64]])}, {"size": (5, 4)}], ids=["code", "size"])
def test_tokens_that_do_not_fit_their_model_are_refused(fields):
    model = tiny.vqgan()
    saved = Tokens(**{"indices": np.array([[63]]), "size": (4, 4), "model": model.sha256} | fields)
    with pytest.raises(BadPicture, match="contradict"):
        reconstruct(ReconstructRequest(tokens=to_bytes(saved)), model)


def test_tokens_of_a_giant_are_refused_before_they_are_decoded():
    model = tiny.vqgan()
    saved = Tokens(np.zeros((2, 2048 // 4 + 2), int), (2048, 8), model.sha256)
    with pytest.raises(BadPicture, match="over 2048 pixels"):
        reconstruct(ReconstructRequest(tokens=to_bytes(saved)), model)


def test_a_picture_and_tokens_are_one_too_many(picture):
    with pytest.raises(BadRequest, match="give one of them"):
        ReconstructRequest(image=b"a", tokens=b"b")
