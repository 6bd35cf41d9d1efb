"""Models through their files and back."""

import pytest
import torch
from safetensors.torch import load_file

from engines.checkpoints import files, models
from engines.errors import BadCheckpoint
from tests import tiny


@pytest.mark.parametrize("build", [tiny.vqgan, tiny.kl, tiny.latent_diffusion])
def test_a_saved_model_comes_back_in_half_precision(build, tmp_path):
    model = build()
    models.save(tmp_path / "model.safetensors", model, {"licence": "MIT"})
    again = models.load(tmp_path / "model.safetensors")
    assert type(again) is type(model) and again.config == model.config and not again.training
    assert not any(parameter.requires_grad for parameter in again.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value.half().float())
    assert files.read_header(tmp_path / "model.safetensors")[1]["card"] == {"licence": "MIT"}


def change(path, tensors=None, **metadata):
    _, found = files.read_header(path)
    files.save(path, load_file(path) if tensors is None else tensors, found | metadata)


@pytest.fixture
def path(tmp_path):
    models.save(tmp_path / "model.safetensors", tiny.vqgan(), {})
    return tmp_path / "model.safetensors"


def test_an_unknown_family_is_refused(path):
    change(path, family="unheard-of")
    with pytest.raises(BadCheckpoint, match="known are: vqgan, kl, latent-diffusion"):
        models.load(path)


@pytest.mark.parametrize("config", [{}, {"autoencoder": {"ch": 0}, "codebook": {}}, {"autoencoder": 3, "codebook": {}}])
def test_a_config_that_builds_nothing_is_refused(path, config):
    change(path, config=config)
    with pytest.raises(BadCheckpoint, match="cannot be built"):
        models.load(path)


def test_weights_of_another_shape_are_refused(path):
    weights = load_file(path)
    weights["decoder.conv_in.weight"] = weights["decoder.conv_in.weight"][:1]
    change(path, weights)
    with pytest.raises(BadCheckpoint, match="decoder.conv_in.weight has shape"):
        models.load(path)


def test_nan_is_refused(path):
    weights = load_file(path)
    weights["decoder.conv_in.bias"][0] = torch.nan
    change(path, weights)
    with pytest.raises(BadCheckpoint, match="NaN"):
        models.load(path)
