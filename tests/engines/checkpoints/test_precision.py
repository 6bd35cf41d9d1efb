"""Files in half precision, pruned or with their moving averages beside: in each layout the weights that are meant."""

import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline
from safetensors.torch import save_file

from engines.checkpoints import models
from tests.engines.checkpoints.test_autoencoders import LAYOUTS, SHAPES, TINY, halves, peer, tiny_peer
from tests.engines.checkpoints.test_stable_diffusion import BETAS, Parts, tokenizer_files  # noqa: F401
from tests.engines.vqgan.test_autoencoder import pictures

CONFIG = SHAPES["one block a level"]


def averaged(state, parts):
    """`state` and the moving averages of its `parts`, under names without points as the training writes them."""
    kept = {name: value for name, value in state.items() if name.startswith(parts)}
    found = {f"model_ema.{name.removeprefix('model.').replace('.', '')}": value + 1 for name, value in kept.items()}
    return state | found | {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(7)}


def autoencoder(kind, layout):
    def state(folder):
        net = peer(kind, CONFIG, pictures(CONFIG, 1, 16, 16))
        return {"model": LAYOUTS[layout](net, CONFIG)}

    return state


def with_averages(folder):
    (state,) = autoencoder("vqgan", "latent-diffusion")(folder).values()
    return {"model": averaged(state, ("encoder.", "decoder."))}


def stable_diffusion(version, has_averages=False):
    def state(folder):
        whole = Parts(version, 4, folder / "tokenizer").single_file()
        return {"model": averaged(whole, "model.diffusion_model.") if has_averages else whole}

    return state


FILES = {  # the files of a model, by name, with all that is in them
    **{f"{kind} {layout}": autoencoder(kind, layout) for kind in ("vqgan", "kl") for layout in LAYOUTS},
    "vqgan with averages": with_averages,
    "taesd": lambda folder: {"model": tiny_peer(TINY["two levels"]).state_dict()},
    "taesd in halves": lambda folder: {
        f"model-{half}": state for half, state in reversed(halves(tiny_peer(TINY["two levels"])).items())
    },
    "stable diffusion 1": stable_diffusion(1),
    "stable diffusion 2": stable_diffusion(2),
    "stable diffusion 1 with averages": stable_diffusion(1, has_averages=True),
}


def loaded(folder, states, change):
    """The state of the model in the files of those `states`, the first of which names it, after a `change`."""
    for name, state in states.items():
        state = {key: change(value) if value.is_floating_point() else value for key, value in state.items()}
        save_file({key: value.contiguous() for key, value in state.items()}, folder / f"{name}.safetensors")
    return models.load(folder / f"{next(iter(states))}.safetensors").state_dict()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["F16", "BF16"])
@pytest.mark.parametrize("layout", FILES)
def test_half_precision_is_read_as_the_values_that_it_holds(tmp_path, tokenizer_files, layout, dtype):  # noqa: F811
    (tmp_path / "tokenizer").symlink_to(tokenizer_files)
    states = FILES[layout](tmp_path)
    short = loaded(tmp_path, states, lambda value: value.to(dtype))
    long = loaded(tmp_path, states, lambda value: value.to(dtype).float())
    assert {value.dtype for value in short.values() if value.is_floating_point()} == {torch.float32}
    assert short.keys() == long.keys() and all(torch.equal(short[name], long[name]) for name in short)


@pytest.mark.parametrize("whole, pruned", [
    ("stable diffusion 1 with averages", "stable diffusion 1"),
    ("vqgan with averages", "vqgan latent-diffusion"),
])
def test_moving_averages_beside_the_weights_change_nothing(tmp_path, tokenizer_files, whole, pruned):  # noqa: F811
    (tmp_path / "tokenizer").symlink_to(tokenizer_files)
    one, other = (loaded(tmp_path, FILES[name](tmp_path), lambda value: value) for name in (whole, pruned))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["F16", "BF16"])
def test_a_folder_of_diffusers_in_half_precision_is_read_as_it_is(tmp_path, tokenizer_files, dtype):  # noqa: F811
    parts = Parts(1, 4, tokenizer_files)
    pipe = StableDiffusionPipeline(
        vae=parts.vae, text_encoder=parts.text, tokenizer=parts.tokenizer, unet=parts.unet,
        scheduler=EulerDiscreteScheduler(**BETAS), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    pipe.to(dtype).save_pretrained(tmp_path / "short")
    pipe.to(torch.float32).save_pretrained(tmp_path / "long")
    short, long = (models.load(tmp_path / name).state_dict() for name in ("short", "long"))
    assert {value.dtype for value in short.values() if value.is_floating_point()} == {torch.float32}
    assert short.keys() == long.keys() and all(torch.equal(short[name], long[name]) for name in short)
