"""Our models as folders of diffusers, which its own classes open and run unchanged.

What lies in such a folder is called and shaped as `stable_diffusion` and `autoencoders` read it; float32 throughout.
"""

import importlib.metadata
import json
import os
import re
import tempfile
from pathlib import Path

from engines.checkpoints import autoencoders, files, stable_diffusion
from engines.checkpoints.autoencoders import CONFIG, WEIGHTS
from engines.diffusion.latent import NUMBER_DIM
from engines.errors import BadRequest
from engines.text.tokenizer import SETTINGS

LINEAR = re.compile(r"\.(to_[qkv]|to_out\.0)\.weight$")  # in diffusers; here they are convolutions of one pixel
SCHEDULER = "DPMSolverMultistepScheduler"  # the one of diffusers that takes every kind of prediction


def write(model, folder, card):
    """Write `model` as the `folder`: a pipeline of diffusers if it draws, else its `VQModel` or `AutoencoderKL`.

    `card` are further files, name to text or bytes. Layers of a text encoder that no word passes, its `skip_last`, are
    left out as they are of the published Stable Diffusion 2. Raises `BadRequest` for a model that has no like in
    diffusers, naming what stands in the way, and for a folder that is there already.
    """
    folder = Path(folder)
    if folder.exists():
        raise BadRequest(f"{folder} is there already; choose a folder that is not.")
    if model.family not in PARTS:
        raise BadRequest(f"A model of the family {model.family} cannot be exported; those of {', '.join(PARTS)} can.")
    obstacles = [*OBSTACLES[model.family](model)]
    if obstacles:
        raise BadRequest(f"“{model.name}” has no like in diffusers: {'; '.join(obstacles)}. Choose another.")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as place:  # no half a folder under the name
            half = Path(place) / folder.name
            for name, content in (PARTS[model.family](model) | card).items():
                _put(half / name, content)
            os.replace(half, folder)
    except OSError as error:
        raise BadRequest(f"{folder} cannot be written; check that there is room and that you may.") from error


def _put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        files.save(path, content)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False, indent=2) + "\n"
        path.write_text(text, encoding="utf-8")


# ---------------------------------------------------------------- autoencoders


def _no_like_of_autoencoder(model):
    config = model.config
    if config.patch > 1:
        yield f"its autoencoder folds {config.patch}x{config.patch} pixels into one before its first layer"
    if config.ch_mult[0] != 1:
        yield f"the first level of its autoencoder is {config.ch_mult[0]} times as wide as its first layer"
    if config.larger:
        yield "the decoder of its autoencoder has two heads"
    if model.family == "vqgan" and model.codebook_config.l2_normalised:
        yield "the codes of its autoencoder lie on the unit sphere"
    if model.family == "vqgan" and model.codebook_config.gumbel:
        yield "its autoencoder chooses codes by logits"
    if model.family == "kl" and config.z_channels != config.embed_dim:
        yield f"its autoencoder makes {config.embed_dim} channels of {config.z_channels}"


def _autoencoder(model, **more):
    config = model.config
    attends = [level in config.attention_levels for level in range(len(config.ch_mult))]
    described = {
        "in_channels": config.in_channels,
        "out_channels": config.in_channels,
        "block_out_channels": [config.ch * mult for mult in config.ch_mult],
        "down_block_types": [f"{'Attn' * attention}DownEncoderBlock2D" for attention in attends],
        "up_block_types": [f"{'Attn' * attention}UpDecoderBlock2D" for attention in reversed(attends)],
        "layers_per_block": config.num_res_blocks,
        "latent_channels": config.z_channels,
        "norm_num_groups": config.norm_groups,
        **more,
    }
    if model.family == "vqgan":
        described |= {"num_vq_embeddings": model.codebook_config.n_embed, "vq_embed_dim": config.embed_dim}
    weights = {}
    for name, value in model.state_dict().items():
        theirs = autoencoders.in_diffusers(name, len(config.ch_mult))
        weights[theirs] = value.flatten(1) if LINEAR.search(theirs) else value
    return {CONFIG: {"_class_name": autoencoders.CLASSES[model.family]} | described, WEIGHTS: weights}


# ---------------------------------------------------------------- models that draw


def _no_like_of_drawing(model):
    config = model.config
    yield from _no_like_of_autoencoder(model.first_stage)
    if model.first_stage.family != "kl":
        yield "its autoencoder is a VQGAN"
    if config.unet.adm_dim and not config.numbers:
        yield "its UNet is told what the whole text says by a vector beside the words"
    if config.unet.ch_mult[0] != 1:
        yield f"the first level of its UNet is {config.unet.ch_mult[0]} times as wide as its first layer"
    if not config.unet.attention_levels:
        yield "its UNet listens to no words"
    if len(set(config.unet.depths[-2:])) > 1 and config.unet.attention_levels[-1] == len(config.unet.ch_mult) - 1:
        yield "the transformers of its UNet are in the middle not as deep as on the coarsest level"
    if any(config.latent_mean):
        yield "its latents have a mean, which no pipeline of Stable Diffusion takes away"
    if model.inpaints and config.hole != "grey":
        yield "it sees holes filled with what is around them, and not grey"


def _pipeline(model):
    config = model.config
    factor = model.first_stage.config.factor
    vae = _autoencoder(model.first_stage, scaling_factor=1 / config.latent_std, sample_size=config.size)
    index = {
        "_diffusers_version": importlib.metadata.version("diffusers"),
        "scheduler": ["diffusers", SCHEDULER],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", autoencoders.CLASSES["kl"]],
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
    }
    readers = {}
    for place, (tokenizer, name) in zip(_places(config), model.readers, strict=True):
        encoder, words = getattr(model, name), tokenizer.files()
        readers[f"text_encoder{place}/{CONFIG}"] = _text(encoder.config, tokenizer)
        readers[f"text_encoder{place}/model.safetensors"] = _text_weights(encoder)
        readers |= {f"tokenizer{place}/{name}": content for name, content in words.items()}
        index[f"text_encoder{place}"] = ["transformers", _text_class(encoder.config)]
        index[f"tokenizer{place}"] = ["transformers", words[SETTINGS[0]]["tokenizer_class"]]
    return {
        files.PIPELINE: index | _kind(model),
        "scheduler/scheduler_config.json": _scheduler(config.prediction),
        "unet/" + CONFIG: _unet(config.unet, config.size // factor),
        "unet/" + WEIGHTS: _unet_weights(model.unet),
        **readers,
        **{f"vae/{name}": content for name, content in vae.items()},
    }


def _places(config):
    """What follows the names of the folders of each reader of words; that of XL's refiner is the second of XL."""
    return ("", "_2") if config.text_2 else ("_2",) if config.numbers else ("",)


def _kind(model):
    """The class of the pipeline, and what is told to it beside its parts."""
    places = _places(model.config)
    if not model.config.numbers:
        use = "Inpaint" * model.inpaints
        return {
            "_class_name": f"StableDiffusion{use}Pipeline", "safety_checker": [None, None],
            "requires_safety_checker": False,
        }  # fmt: skip
    refines = "" not in places
    told = {"force_zeros_for_empty_prompt": not refines}
    if refines:
        told |= {"text_encoder": [None, None], "tokenizer": [None, None], "requires_aesthetics_score": True}
    use = "Inpaint" if model.inpaints else "Img2Img" * refines
    return {"_class_name": f"StableDiffusionXL{use}Pipeline"} | told


def _scheduler(prediction):
    named = {ours: theirs for theirs, ours in stable_diffusion.PREDICTIONS.items()}
    return {
        "_class_name": SCHEDULER, **stable_diffusion.NOISE, "prediction_type": named[prediction], "steps_offset": 1,
        "use_flow_sigmas": prediction == "flow",
    }  # fmt: skip


def _unet(config, size):
    attends = [level in config.attention_levels for level in range(len(config.ch_mult))]
    return {
        "_class_name": "UNet2DConditionModel",
        "sample_size": size,
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "block_out_channels": list(config.channels),
        "down_block_types": [f"{'CrossAttn' * attention}DownBlock2D" for attention in attends],
        "up_block_types": [f"{'CrossAttn' * attention}UpBlock2D" for attention in reversed(attends)],
        "layers_per_block": config.num_res_blocks,
        "cross_attention_dim": config.context_dim,
        # how many heads, whatever the name says
        "attention_head_dim": [max(1, channels // config.head_dim) for channels in config.channels]
        if config.head_dim
        else config.num_heads,
        "transformer_layers_per_block": _depths(config),
        "use_linear_projection": config.use_linear_projection,
        "norm_num_groups": config.norm_groups,
        **(
            {
                "addition_embed_type": "text_time",
                "addition_time_embed_dim": NUMBER_DIM,
                "projection_class_embeddings_input_dim": config.adm_dim,
            }
            if config.adm_dim
            else {}
        ),
    }


def _depths(config):
    # of each level, where the last is that of the middle, too
    if isinstance(config.transformer_depth, int):
        return config.transformer_depth
    levels = [config.depth_of.get(level, 1) for level in range(len(config.ch_mult))]
    return [*levels[:-1], config.depths[-1]]


def _unet_weights(unet):
    config, state = unet.config, unet.state_dict()
    attends = [level in config.attention_levels for level in range(len(config.ch_mult))]
    names = stable_diffusion.in_diffusers(state, config.num_res_blocks, attends)
    return {names[name]: value for name, value in state.items()}


def _text_class(config):
    return "CLIPTextModelWithProjection" if config.projection else "CLIPTextModel"


def _layers(config):
    """How many layers are kept: of version 2 none that no word passes, while XL counts from its last."""
    return config.layers - config.skip_last if config.hidden_norm else config.layers


def _text(config, tokenizer):
    return {
        "architectures": [_text_class(config)],
        "model_type": "clip_text_model",
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "intermediate_size": 4 * config.width,
        "num_hidden_layers": _layers(config),
        "num_attention_heads": config.heads,
        "max_position_embeddings": config.context_length,
        "hidden_act": config.activation,
        "bos_token_id": tokenizer.start_token,
        "eos_token_id": config.end_token,
        "pad_token_id": tokenizer.padding,
        "projection_dim": config.projection or config.width,
    }


def _text_weights(text):
    kept = _layers(text.config)
    past = tuple(f"text_model.encoder.layers.{number}." for number in range(kept, text.config.layers))
    return {name: value for name, value in text.state_dict().items() if not name.startswith(past)}


PARTS = {"vqgan": _autoencoder, "kl": _autoencoder, "latent-diffusion": _pipeline}
OBSTACLES = {
    "vqgan": _no_like_of_autoencoder, "kl": _no_like_of_autoencoder, "latent-diffusion": _no_like_of_drawing
}  # fmt: skip
