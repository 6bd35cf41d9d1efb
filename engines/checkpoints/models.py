"""Models and their files: the family in the header says what to build, and the weights must fit it."""

import contextlib
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from engines import spandrels
from engines.checkpoints import autoencoders, files, foreign, stable_diffusion, taming
from engines.diffusion.few_steps import FewStepConfig, FewSteps
from engines.diffusion.latent import LatentDiffusion, LatentDiffusionConfig
from engines.diffusion.unet import UNetConfig
from engines.diffusion.upscaler import Upscaler, UpscalerConfig
from engines.errors import BadCheckpoint
from engines.esrgan import RRDBConfig, RRDBNet, SRVGGConfig, SRVGGNet
from engines.text import prompt
from engines.text.clip import CLIP, CLIPConfig
from engines.text.encoder import TextConfig
from engines.vqgan.autoencoder import VQGAN, AutoencoderConfig, CodebookConfig, KLAutoencoder
from engines.vqgan.generator import TokenGenerator, TokenGeneratorConfig
from engines.vqgan.gpt import GPTConfig, RasterGenerator
from engines.vqgan.tiny import TinyAutoencoder, TinyAutoencoderConfig
from engines.vqgan.transformer import TransformerConfig


def _vqgan(config):
    return VQGAN(AutoencoderConfig(**config["autoencoder"]), CodebookConfig(**config["codebook"]))


def _kl(config):
    return KLAutoencoder(AutoencoderConfig(**config["autoencoder"]))


def _tiny(config):
    return TinyAutoencoder(TinyAutoencoderConfig(**config))


def _clip(config):
    return CLIP(CLIPConfig(**config | {"text": TextConfig(**config["text"])}))


def _upscaler(config):
    return Upscaler(UpscalerConfig(**config))


def _rrdb(config):
    return RRDBNet(RRDBConfig(**config))


def _srvgg(config):
    return SRVGGNet(SRVGGConfig(**config))


def _latent_diffusion(config, first_stage):
    readers = {name: TextConfig(**config[name]) for name in ("text", "text_2") if config.get(name)}
    shape = LatentDiffusionConfig(**config | {"unet": UNetConfig(**config["unet"])} | readers)
    return LatentDiffusion(shape, first_stage)


def _token_transformer(config, first_stage):
    transformer, text = TransformerConfig(**config["transformer"]), TextConfig(**config["text"])
    shape = TokenGeneratorConfig(**config | {"transformer": transformer, "text": text})
    return TokenGenerator(shape, first_stage)


def _few_steps(config, base):
    return FewSteps(FewStepConfig(**config), base)


def _stable_diffusion(config):
    first_stage = _kl(config["first_stage"])
    return _latent_diffusion({name: value for name, value in config.items() if name != "first_stage"}, first_stage)


def _taming(config):
    first_stage = _vqgan(config["first_stage"])
    shape = {name: value for name, value in config.items() if name not in ("first_stage", "size")}
    return RasterGenerator(GPTConfig(**shape), first_stage)


ALONE = {
    "vqgan": _vqgan, "kl": _kl, autoencoders.TINY: _tiny, "clip": _clip, "upscaler": _upscaler, "rrdb": _rrdb,
    "srvgg": _srvgg, stable_diffusion.FAMILY: _stable_diffusion, taming.FAMILY: _taming,
}  # fmt: skip
DRAWING = {"latent-diffusion": _latent_diffusion, "token-transformer": _token_transformer}  # by an autoencoder
CHANGING = {"few-step-diffusion": _few_steps}  # a model that draws
FAMILIES = ALONE | DRAWING | CHANGING
PARTS = dict.fromkeys(DRAWING, "first_stage") | dict.fromkeys(CHANGING, "base")  # which have files of their own
SPARE = 1000  # tensors that a file may lack, and its net is built all the same to name them


def save(path, model, card):
    """Write a model's weights in float16 with all that `load` needs to build it again, and its card.

    The autoencoder that a model draws with, or the model that it changes, is not written, but named with the hash of
    its file: it must have been loaded from one.
    """
    weights = {name: value.half() if value.is_floating_point() else value for name, value in own_weights(model).items()}
    metadata = {"family": model.family, "config": _describe(model), "card": card}
    if part := PARTS.get(model.family):
        other = getattr(model, part)
        metadata[part] = {"name": other.name, "sha256": other.sha256}
    files.save(path, weights, metadata)


def own_weights(model):
    """The state of a model by name, without what has a file of its own."""
    parts = tuple(f"{part}." for part in PARTS.values())
    return {name: value for name, value in model.state_dict().items() if not name.startswith(parts)}


def load_own_weights(model, weights):
    """Give a model the state that `own_weights` tells of, all of it; the rest stays as it is."""
    own = own_weights(model)
    rest = {name: value for name, value in model.state_dict().items() if name not in own}
    model.load_state_dict(rest | weights)


def _describe(model):
    if model.family in ("vqgan", "kl"):
        config = {"autoencoder": asdict(model.config)}
        return config | {"codebook": asdict(model.codebook_config)} if model.family == "vqgan" else config
    return asdict(model.config)


def load(path, part=None, device="cpu", precision=torch.float32, room=None, drawing=True):
    """The model in a file, ready to be used, with the `name` and the `sha256` of its file.

    Of a folder of diffusers that holds a Stable Diffusion, it is that by our own nets. `part` is the autoencoder that
    a model draws with, or the model that it changes, loaded from the file that it names. Nets are built without memory,
    and if the file fits, its weights go straight to the `device`, in float32, or in the `precision` of a UNet of latent
    diffusion: each is in memory once. A Stable Diffusion of more than `room` bytes stays in the machine's memory, and
    its parts take turns on the `device`. A model that changes another comes as the one that is `drawing` with the
    change, or else as the change alone.

    Raises `BadCheckpoint` for a file of no known family, for one whose weights do not fit, and for another `part` than
    the file names.
    """
    path = Path(path)
    if path.is_dir():
        return _in_folder(path, device, precision, room)
    layout, metadata = foreign.recognised(path)
    family = layout.family
    if family == spandrels.FAMILY:
        return _named(spandrels.load(path).to(device), path)
    if family in prompt.NAMED:
        how = prompt.NAMED[family].format(files.name(path))
        raise BadCheckpoint(f"{path.name} is no model by itself, but changes one: write {how} into a prompt.")
    if family not in FAMILIES:
        raise BadCheckpoint(f"{path.name} is no model of a known family; known are: {', '.join(FAMILIES)}.")
    config, parts, weights_of = layout.config, (), own_weights
    if family in (stable_diffusion.FAMILY, taming.FAMILY):  # the autoencoder is in the same file
        weights_of = nn.Module.state_dict
    if family == stable_diffusion.FAMILY:  # and the vocabulary in none
        config = stable_diffusion.with_tokenizers(config, path)
    if family in PARTS:
        _check_part(path, metadata.get(PARTS[family]), part)
        parts = (part,)
    model = outline(path, [path, *filter(None, [layout.beside])], lambda: _built(family, config, parts, precision))
    built = weights_of(model)
    turns = _takes_turns(family, built, room)
    place = "cpu" if turns else device
    if layout.beside:
        other, _ = foreign.recognised(layout.beside)
        if other.family != autoencoders.TINY_ENCODER:
            raise BadCheckpoint(f"{layout.beside.name} is no encoder of a tiny autoencoder; copy that of {path.name}.")
        weights = _of_parts(built, [(path, layout.names, ()), (layout.beside, other.names, ())], place)
    else:
        weights = _weights(path, built, layout.names, layout.unused, place)
    _fill(model, weights, place, precision)
    if turns:
        model.take_turns(device)
    if family == stable_diffusion.FAMILY and stable_diffusion.is_unsure(config):
        with model.offload or contextlib.nullcontext():
            model.config = replace(model.config, **stable_diffusion.LOOKED_AT[_predicts_noise(model)])
    if family in CHANGING and drawing:
        model = model.drawing()
        _lower(model, precision)
    return _named(model, path, layout.beside)


def _in_folder(folder, device, precision, room):
    found = stable_diffusion.in_folder(folder)
    if found is None:
        raise BadCheckpoint(f"{folder.name} is no Stable Diffusion; diffusers itself may run it.")
    config, parts = found
    config = stable_diffusion.with_tokenizers(config, folder)
    paths = [path for path, _, _ in parts]
    model = outline(folder, paths, lambda: _built(stable_diffusion.FAMILY, config, (), precision))
    built = model.state_dict()
    turns = _takes_turns(stable_diffusion.FAMILY, built, room)
    place = "cpu" if turns else device
    _fill(model, _of_parts(built, parts, place), place, precision)
    if turns:
        model.take_turns(device)
    return _named(model, folder)


def _takes_turns(family, built, room):
    own = family == stable_diffusion.FAMILY  # all of whose parts are its own
    return own and room is not None and sum(value.nbytes for value in built.values()) > room


def _built(family, config, parts, precision):
    model = FAMILIES[family](config, *parts)
    _lower(model, precision)
    return model


def _lower(model, precision):
    if isinstance(model, LatentDiffusion) and precision != torch.float32:
        model.lower(precision)


def _fill(model, weights, device, precision):
    # a net without memory with its weights, which are all that it holds but for a few numbers
    model.load_state_dict(model.state_dict() | weights, assign=True)
    _lower(model.to(device), precision)


def _of_parts(built, parts, device):
    # the weights of a model whose parts, by the first word of their names, have a file each
    weights = {}
    for path, names, unused in parts:
        prefix = next(iter(names)).partition(".")[0] + "."
        own = {name: value for name, value in built.items() if name.startswith(prefix)}
        weights |= _weights(path, own, names, unused, device)
    return weights


def outline(path, paths, state):
    """What `state()` gives, the net of a file or its state, built without memory; its tensors lie in `paths`.

    Raises `BadCheckpoint` for a description that builds nothing, or far more than the files can hold.
    """
    most = 2 * sum(len(files.read_header(part)[0]) for part in paths) + SPARE

    def counted(module, name, parameter):
        nonlocal most
        most -= 1
        if most < 0:
            raise ValueError("more layers than tensors")

    hook = register_module_parameter_registration_hook(counted)
    try:
        with torch.device("meta"):
            return state()
    except Exception as error:  # whatever a stranger's description leads to
        raise BadCheckpoint(f"{path.name} describes a model that cannot be built; copy the file again.") from error
    finally:
        hook.remove()


def _weights(path, built, names, unused, device):
    # the tensors of a file that go into the state of what `outline` built
    shapes, dtypes = ({name: getattr(value, what) for name, value in built.items()} for what in ("shape", "dtype"))
    weights = files.load(path, shapes, names, unused, device, dtypes)
    for name, value in built.items():
        if value.is_floating_point() and not weights[name].is_floating_point():
            raise BadCheckpoint(f"{path.name} holds whole numbers for {name}; models that were quantised are not read.")
    return weights


@torch.no_grad()
def _predicts_noise(model, side=16):
    """Whether the UNet gives back what it is given where there is nothing but noise.

    One that predicts the noise does; one that predicts the velocity gives the picture there is not.
    """
    channels = model.config.unet.out_channels
    x = torch.randn(1, channels, side, side, generator=torch.Generator().manual_seed(0)).to(model.device)
    words = {name: told.to(model.precision) for name, told in model.words([""]).items()}
    last = torch.tensor([model.noise.levels - 1.0], device=model.device)
    found = model.unet(x.to(model.precision), last, **words).to(x)
    return torch.nn.functional.cosine_similarity(found.flatten(), x.flatten(), dim=0).item() > 0.5


def _named(model, path, beside=None):
    model.name, model.sha256 = files.name(path), files.sha256(path, beside)
    return model.eval().requires_grad_(False)


def _check_part(path, wanted, part):
    if wanted is None:
        raise BadCheckpoint(f"{path.name} does not say which model it draws with; it cannot be used.")
    if part is None or part.sha256 != wanted["sha256"]:
        raise BadCheckpoint(
            f"{path.name} draws with “{wanted['name']}”, whose SHA-256 begins with {wanted['sha256'][:8]}; it cannot "
            "draw with another."
        )
