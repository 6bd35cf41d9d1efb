"""Models through their files and back."""

import pytest
import torch
from safetensors.torch import load_file

from engines.checkpoints import files, models
from engines.errors import BadCheckpoint
from tests import tiny


@pytest.mark.parametrize("build", [tiny.vqgan, tiny.kl, tiny.latent_diffusion, tiny.token_generator])
def test_a_saved_model_comes_back_in_half_precision(build, tmp_path):
    model = build()
    models.save(tmp_path / "mine.safetensors", model, {"licence": "MIT"})
    again = models.load(tmp_path / "mine.safetensors", getattr(model, "first_stage", None))
    assert type(again) is type(model) and again.config == model.config and not again.training
    assert not any(parameter.requires_grad for parameter in again.parameters())
    for name, value in model.state_dict().items():
        exact = name.startswith("first_stage.")  # it has a file of its own
        assert torch.equal(again.state_dict()[name], value if exact else value.half().float()), name
    assert files.read_header(tmp_path / "mine.safetensors")[1]["card"] == {"licence": "MIT"}
    assert (again.name, again.sha256) == ("mine", files.sha256(tmp_path / "mine.safetensors"))


@pytest.mark.parametrize("build", [tiny.latent_diffusion, tiny.token_generator])
def test_a_model_draws_with_the_autoencoder_that_it_names_and_with_no_other(build, tmp_path):
    path = tmp_path / "mine.safetensors"
    models.save(path, build(), {})
    tensors, metadata = files.read_header(path)
    assert not any(name.startswith("first_stage") for name in tensors)
    assert metadata["first_stage"] == {"name": "mirror", "sha256": tiny.vqgan().sha256}
    for other in (None, tiny.vqgan(1)):
        with pytest.raises(BadCheckpoint, match="draws with “mirror”, whose SHA-256 begins with 0000"):
            models.load(path, other)


def test_a_file_that_names_no_autoencoder_is_refused(tmp_path):
    path = tmp_path / "mine.safetensors"
    models.save(path, tiny.latent_diffusion(), {})
    metadata = files.read_header(path)[1]
    files.save(path, load_file(path), {name: value for name, value in metadata.items() if name != "first_stage"})
    with pytest.raises(BadCheckpoint, match="does not say which model it draws with"):
        models.load(path, tiny.vqgan())


def test_what_makes_a_model_quicker_is_kept_beside_it(tmp_path):
    quicker, path = tiny.few_steps(), tmp_path / "quick.safetensors"
    models.save(path, quicker, {})
    tensors, metadata = files.read_header(path)
    assert metadata["base"] == {"name": "walker", "sha256": quicker.base.sha256}
    assert not any(name.startswith("base.") for name in tensors)
    model = models.load(path, quicker.base)
    assert (model.family, model.name, model.few_steps) == ("few-step-diffusion", "quick", quicker.config)
    for name, value in quicker.weights().items():
        torch.testing.assert_close(model.unet.state_dict()[name], value, rtol=2e-3, atol=2e-3)
    assert model.text is quicker.base.text and model.first_stage is quicker.base.first_stage
    quicker.base.sha256 = f"{2:064x}"
    with pytest.raises(BadCheckpoint, match="draws with “walker”, whose SHA-256 begins with 0000"):
        models.load(path, quicker.base)


@pytest.mark.parametrize("build", [tiny.vqgan, tiny.kl, tiny.latent_diffusion, tiny.token_generator, tiny.upscaler])
def test_a_net_is_made_of_its_file_alone_and_keeps_what_it_read(build, tmp_path):
    model, path = build(), tmp_path / "mine.safetensors"
    models.save(path, model, {})
    files.save(path, {name: value.float() for name, value in load_file(path).items()}, files.read_header(path)[1])
    chance = torch.get_rng_state()
    again = models.load(path, getattr(model, "first_stage", None))
    assert torch.equal(torch.get_rng_state(), chance)  # no weights were drawn that others then take the place of
    before = {name: value.clone() for name, value in again.state_dict().items()}
    with open(path, "r+b") as file:  # as it is where a file is written anew while its model is loaded
        file.write(bytes(path.stat().st_size))
    assert all(torch.equal(value, before[name]) for name, value in again.state_dict().items())
    assert {value.device.type for value in (*again.parameters(), *again.buffers())} == {"cpu"}


def test_a_unet_is_read_in_the_precision_that_it_computes_in(tmp_path):
    model, path = tiny.latent_diffusion(), tmp_path / "mine.safetensors"
    models.save(path, model, {})
    half = models.load(path, model.first_stage, precision=torch.bfloat16)
    plain = models.load(path, model.first_stage)
    plain.lower(torch.bfloat16)
    assert half.precision == torch.bfloat16
    for name, value in plain.state_dict().items():
        assert value.dtype == (torch.bfloat16 if name.startswith("unet.") else torch.float32)
        found = half.state_dict()[name]
        assert found.dtype == value.dtype and found.stride() == value.stride() and torch.equal(found, value)


def test_own_weights_are_taken_whole_or_not_at_all():
    model = tiny.token_generator()
    weights = models.own_weights(model)
    _, *others = weights
    before = model.first_stage.decoder.conv_in.weight.clone()
    models.load_own_weights(model, {name: torch.zeros_like(value) for name, value in weights.items()})
    assert not any(value.any() for value in models.own_weights(model).values())
    assert torch.equal(model.first_stage.decoder.conv_in.weight, before)
    with pytest.raises(RuntimeError, match="Unexpected"):
        models.load_own_weights(model, weights | {"stranger": torch.zeros(1)})
    with pytest.raises(RuntimeError, match="Missing"):
        models.load_own_weights(model, {name: weights[name] for name in others})


def test_a_model_is_called_by_its_file_or_its_folder(tmp_path, monkeypatch):
    (tmp_path / "painter").mkdir()
    monkeypatch.chdir(tmp_path / "painter")
    assert files.name("model.safetensors") == "painter"
    assert files.name("../model.safetensors") == tmp_path.name
    assert files.name("mine.safetensors") == "mine"


def test_a_token_model_that_names_an_autoencoder_without_tokens_is_refused(tmp_path):
    path = tmp_path / "mine.safetensors"
    models.save(path, tiny.token_generator(), {})
    with pytest.raises(BadCheckpoint, match="cannot be built"):
        models.load(path, tiny.kl())  # of the hash that is named


def change(path, tensors=None, **metadata):
    _, found = files.read_header(path)
    files.save(path, load_file(path) if tensors is None else tensors, found | metadata)


@pytest.fixture
def path(tmp_path):
    models.save(tmp_path / "model.safetensors", tiny.vqgan(), {})
    return tmp_path / "model.safetensors"


def test_an_unknown_family_is_refused(path):
    change(path, family="unheard-of")
    with pytest.raises(BadCheckpoint, match="known are: vqgan, kl, .*latent-diffusion"):
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
