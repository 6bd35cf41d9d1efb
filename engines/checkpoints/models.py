"""Models and their files: the family in the header says what to build, and the weights must fit it."""

from dataclasses import asdict
from pathlib import Path

import torch

from engines.checkpoints import files
from engines.diffusion.latent import LatentDiffusion, LatentDiffusionConfig
from engines.diffusion.unet import UNetConfig
from engines.errors import AtelierError, BadCheckpoint
from engines.text.clip import CLIP, CLIPConfig
from engines.text.encoder import TextConfig
from engines.vqgan.autoencoder import VQGAN, AutoencoderConfig, CodebookConfig, KLAutoencoder
from engines.vqgan.generator import TokenGenerator, TokenGeneratorConfig
from engines.vqgan.transformer import TransformerConfig


def _vqgan(config):
    return VQGAN(AutoencoderConfig(**config["autoencoder"]), CodebookConfig(**config["codebook"]))


def _kl(config):
    return KLAutoencoder(AutoencoderConfig(**config["autoencoder"]))


def _latent_diffusion(config):
    config = dict(config)
    first_stage = config.pop("first_stage")
    build = _vqgan if "codebook" in first_stage else _kl
    unet, text = UNetConfig(**config.pop("unet")), TextConfig(**config.pop("text"))
    return LatentDiffusion(LatentDiffusionConfig(unet=unet, text=text, **config), build(first_stage))


def _clip(config):
    return CLIP(CLIPConfig(**config | {"text": TextConfig(**config["text"])}))


def _token_transformer(config):
    transformer, text = TransformerConfig(**config["transformer"]), TextConfig(**config["text"])
    shape = TokenGeneratorConfig(transformer, text, config["tokenizer"], config["size"])
    return TokenGenerator(shape, _vqgan(config["first_stage"]))


FAMILIES = {
    "vqgan": _vqgan,
    "kl": _kl,
    "latent-diffusion": _latent_diffusion,
    "token-transformer": _token_transformer,
    "clip": _clip,
}


def save(path, model, card):
    """Write a model's weights in float16 with all that `load` needs to build it again, and its card."""
    weights = {name: value.half() if value.is_floating_point() else value for name, value in model.state_dict().items()}
    files.save(path, weights, {"family": model.family, "config": _describe(model), "card": card})


def _describe(model):
    if model.family in ("latent-diffusion", "token-transformer"):
        return asdict(model.config) | {"first_stage": _describe(model.first_stage)}
    if model.family == "clip":
        return asdict(model.config)
    config = {"autoencoder": asdict(model.config)}
    return config | {"codebook": asdict(model.codebook_config)} if model.family == "vqgan" else config


def load(path):
    """The model in a file, in float32, ready to be used, with the hash of the file as its `sha256`.

    Nets are built without memory until the file fits.

    Raises `BadCheckpoint` for a file of no known family, and for one whose weights do not fit.
    """
    path = Path(path)
    _, metadata = files.read_header(path)
    family = metadata.get("family")
    if family not in FAMILIES:
        raise BadCheckpoint(f"{path.name} is no model of a known family; known are: {', '.join(FAMILIES)}.")
    try:
        with torch.device("meta"):
            shapes = {name: value.shape for name, value in FAMILIES[family](metadata["config"]).state_dict().items()}
    except (AtelierError, KeyError, TypeError, ValueError, ZeroDivisionError, RuntimeError) as error:
        raise BadCheckpoint(f"{path.name} describes a model that cannot be built; copy the file again.") from error
    weights = files.load(path, shapes)
    model = FAMILIES[family](metadata["config"])
    model.load_state_dict(weights)
    model.sha256 = files.sha256(path)
    return model.eval().requires_grad_(False)
