"""Our models as folders of diffusers: its own classes draw the same, and what comes back is equal to the last bit."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DiffusionPipeline, VQModel
from safetensors.torch import save_file
from transformers import AutoTokenizer

from engines import catalog, tensors
from engines.checkpoints import export, models
from engines.diffusion import schedules
from engines.diffusion.latent import LatentDiffusion, LatentDiffusionConfig
from engines.engine import Engine
from engines.errors import BadCheckpoint, BadRequest
from engines.requests import GenerateRequest
from engines.tasks import drawing
from engines.tasks.generate import DRAW
from engines.text.encoder import TextConfig
from engines.text.tokenizer import Tokenizer
from engines.vqgan.autoencoder import VQGAN, AutoencoderConfig, CodebookConfig, KLAutoencoder
from tests import tiny
from tests.engines.checkpoints.test_stable_diffusion import KINDS, Parts, near, write_vocabulary
from tests.peers import randomise

AUTOENCODER = dataclasses.replace(tiny.AUTOENCODER, patch=1)
UNET = dataclasses.replace(tiny.UNET, adm_dim=0, in_channels=4)


@pytest.fixture(scope="module", params=KINDS)
def exported(request, tmp_path_factory):
    """The peer's parts, the home in which their single file lies as `sd` and its export as `folder`, and our model."""
    home = tmp_path_factory.mktemp("home")
    (home / "models" / "tokenizer").mkdir(parents=True)
    parts = Parts(*KINDS[request.param], write_vocabulary(home / "models" / "tokenizer"))
    save_file(parts.single_file(), home / "models" / "sd.safetensors")
    model = models.load(home / "models" / "sd.safetensors")
    export.write(model, home / "models" / "folder", {"README.md": "# sd"})
    return parts, home, model


def opened(folder):
    pipe = DiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def equal(found, expected):
    assert found.keys() == expected.keys()
    assert [name for name in found if not torch.equal(found[name], expected[name])] == []


def test_diffusers_opens_the_very_weights_that_it_once_made(exported):
    parts, home, model = exported
    pipe = opened(home / "models" / "folder")
    inpaints = parts.config.in_channels == 9
    assert type(pipe).__name__ == f"StableDiffusion{'Inpaint' * inpaints}Pipeline"
    equal(pipe.unet.state_dict(), parts.unet.state_dict())
    equal(pipe.vae.state_dict(), parts.vae.state_dict())
    # of version 2 the layer that no word passes is left out
    left_out = "encoder.layers.2." if parts.second else "none"
    text = {name: value for name, value in parts.text.state_dict().items() if left_out not in name}
    equal(pipe.text_encoder.state_dict(), text)
    assert {value.dtype for value in pipe.unet.state_dict().values()} == {torch.float32}
    assert pipe.vae.config.scaling_factor == 0.18215
    assert (home / "models" / "folder" / "README.md").read_text() == "# sd"


@torch.no_grad()
def test_what_comes_back_is_equal_to_the_last_bit_and_draws_the_same(exported):
    _, home, model = exported
    back = models.load(home / "models" / "folder")
    here = model.state_dict()
    equal(back.state_dict(), {name: here[name] for name in back.state_dict()})
    text = dataclasses.replace(
        model.config.text, layers=model.config.text.layers - model.config.text.skip_last, skip_last=0
    )
    assert back.config == dataclasses.replace(model.config, text=text)
    texts = ["red fox", "", "a fox, red " * 20]
    assert torch.equal(back.words(texts)["context"], model.words(texts)["context"])
    engine = Engine(home, "cpu")
    first, second = (
        engine.run(GenerateRequest(model=name, prompt="red fox", steps=2, width=64, height=64, cfg_scale=3.0, seed=1))
        for name in ("sd", f"folder{catalog.OURS}")
    )
    assert np.array_equal(first.pictures[0].image, second.pictures[0].image)


@torch.no_grad()
def drawn_alike(pipe, model, monkeypatch, steps=3):
    """Both from the same words and noise, in a few steps of Euler, which are the solver's of first order."""
    pipe.scheduler = pipe.scheduler.from_config(pipe.scheduler.config, solver_order=1)
    pipe.scheduler.set_timesteps(steps)
    sigmas = torch.cat([model.noise.sigma(pipe.scheduler.timesteps.double()), torch.zeros(1)]).float()
    monkeypatch.setattr(schedules, "by_name", lambda name: lambda noise, steps: sigmas)
    factor = model.first_stage.config.factor
    noise = tensors.noise([5], (4, 64 // factor, 128 // factor))
    seen = noise * sigmas[0] * model.denoiser().scalings(sigmas[:1])[2]  # as the net is given it
    asked = {"width": 128, "height": 64, "prompt": "red fox"}
    expected = pipe(
        **asked, negative_prompt="a", num_inference_steps=steps, guidance_scale=3.0, latents=seen, output_type="latent"
    ).images
    found = []
    with monkeypatch.context() as patch:
        patch.setattr(model, "decode", lambda latents: found.append(latents))
        request = GenerateRequest(**asked, negative="a", steps=steps, cfg_scale=3.0, seed=5, sampler="euler")
        DRAW["latent-diffusion"](request, model, range(1), lambda *at: None, drawing.at_once)
    near(found[-1], expected, 1e-3)
    near(model.decode(expected), pipe.vae.decode(expected / pipe.vae.config.scaling_factor).sample, 1e-4)


@torch.no_grad()
def test_both_engines_draw_alike(exported, monkeypatch):
    _, home, model = exported
    pipe = opened(home / "models" / "folder")
    x = torch.randn(2, model.config.unet.in_channels, 16, 24, generator=torch.Generator().manual_seed(0))
    t, words = torch.tensor([421.0, 999.0]), model.words(["red fox", "a"])["context"]
    near(model.unet(x, t, words), pipe.unet(x, t, words).sample)
    if not model.inpaints:
        drawn_alike(pipe, model, monkeypatch)


def drawer(prediction, **unet):
    """A small latent diffusion of our own that diffusers can express."""
    tokenizer = Tokenizer.train([example.text or "" for example in tiny.examples()], 300, 16)
    torch.manual_seed(0)
    text = TextConfig(tokenizer.vocab_size, 16, 24, 2, 2, end_token=tokenizer.end_token)
    config = LatentDiffusionConfig(
        dataclasses.replace(UNET, **unet), text, tokenizer.to_json(), prediction, latent_std=0.7, size=32
    )
    model = LatentDiffusion(config, randomise(KLAutoencoder(AUTOENCODER)))
    randomise(model.unet)
    with torch.no_grad():  # answers of a size that samplers stay calm at
        model.unet.out[2].weight *= 0.1
    model.name = "own"
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize("prediction", ["eps", "v", "x0", "flow"])
def test_our_own_latent_diffusion_goes_there_and_back(tmp_path, monkeypatch, prediction):
    model = drawer(prediction)
    export.write(model, tmp_path / "own", {})
    drawn_alike(opened(tmp_path / "own"), model, monkeypatch)
    back = models.load(tmp_path / "own")
    equal(back.state_dict(), model.state_dict())
    assert back.config == model.config
    assert back.first_stage.config == model.first_stage.config
    assert catalog.tokenizer(catalog._ours(catalog.read(tmp_path / "own"))[0]).to_json() == model.config.tokenizer


def test_a_flow_is_drawn_by_diffusers_with_what_knows_one(tmp_path):
    export.write(drawer("flow"), tmp_path / "models" / "own", {})
    engine, asked = Engine(tmp_path, "cpu"), {"prompt": "red fox", "width": 64, "height": 64, "steps": 3, "seed": 1}
    drawn = engine.run(GenerateRequest(model="own", sampler="dpmpp_2m", **asked)).pictures[0].image
    assert np.asarray(drawn).std() > 5
    for strange in ({"sampler": "euler"}, {"sampler": "dpmpp_2m", "scheduler": "karras"}):
        with pytest.raises(BadRequest, match="with dpmpp_2m or unipc and the linear schedule"):
            engine.run(GenerateRequest(model="own", **asked, **strange))


def test_heads_of_one_size_come_back_where_the_first_level_has_none(tmp_path):
    model = drawer("eps", head_dim=32, num_heads=8, attention_levels=(1,))
    export.write(model, tmp_path / "own", {})
    assert opened(tmp_path / "own").unet.config.attention_head_dim == [1, 1]
    assert models.load(tmp_path / "own").config == model.config


def test_transformers_reads_words_as_our_tokenizer_does(tmp_path):
    tokenizer = drawer("eps").tokenizer
    for name, content in tokenizer.files().items():
        (tmp_path / name).write_text(json.dumps(content))
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    texts = ["Red  disc", "", " 红色 圆 disc，5 号 ", "<|end|> ĳ ﬁ\tx\x1fy", "a" * 60, "é é 🦊"]
    found = theirs(texts, padding="max_length", truncation=True, max_length=theirs.model_max_length).input_ids
    assert np.array_equal(found, tokenizer.encode(texts))


SHAPES = {
    "of 8 groups": AUTOENCODER,
    "with attention": AutoencoderConfig(
        ch=32, ch_mult=(1, 2, 2), num_res_blocks=2, attention_levels=(0, 2), z_channels=4, embed_dim=4
    ),
}


@torch.no_grad()
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("kind", ["vqgan", "kl"])
def test_an_autoencoder_alone_goes_there_and_back(tmp_path, kind, shape):
    vqgan = VQGAN(dataclasses.replace(shape, embed_dim=3), CodebookConfig(40)) if kind == "vqgan" else None
    model = randomise(vqgan or KLAutoencoder(shape))
    export.write(model, tmp_path / "auto", {})
    theirs = (AutoencoderKL if kind == "kl" else VQModel).from_pretrained(tmp_path / "auto")
    x = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = model.encode(x)
    near(latents, theirs.encode(x).latent_dist.mode() if kind == "kl" else theirs.encode(x).latents)
    near(model.decode(latents), theirs.decode(latents).sample)
    back = models.load(tmp_path / "auto" / "diffusion_pytorch_model.safetensors")
    equal(back.state_dict(), model.state_dict())
    assert (back.family, back.name, back.config) == (kind, "auto", model.config)
    (tmp_path / "auto" / "config.json").write_text("[]")
    with pytest.raises(BadCheckpoint, match="auto/config.json cannot be read"):
        models.load(tmp_path / "auto" / "diffusion_pytorch_model.safetensors")


OBSTACLES = {
    "folds 2x2 pixels into one": tiny.kl,
    "lie on the unit sphere": tiny.vqgan,
    "decoder of its autoencoder has two heads": tiny.two_headed,
    "chooses codes by logits": lambda: VQGAN(AUTOENCODER, CodebookConfig(40, gumbel=True)),
    "a vector beside the words": tiny.latent_diffusion,
    "have a mean": tiny.four_channels,
    "holes filled": tiny.latent_diffusion,
    "makes 3 channels of 4": lambda: KLAutoencoder(dataclasses.replace(AUTOENCODER, embed_dim=3)),
    "2 times as wide": lambda: KLAutoencoder(dataclasses.replace(AUTOENCODER, ch_mult=(2, 2))),
    "listens to no words": lambda: drawer("eps", attention_levels=()),
    "of the family upscaler cannot": tiny.upscaler,
}


@pytest.mark.parametrize("sentence", OBSTACLES)
def test_what_diffusers_cannot_express_is_named_and_nothing_is_written(tmp_path, sentence):
    model = OBSTACLES[sentence]()
    model.name = "mine"
    with pytest.raises(BadRequest, match=sentence):
        export.write(model, tmp_path / "out", {})
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_there_is_left_alone(tmp_path):
    with pytest.raises(BadRequest, match="is there already"):
        export.write(KLAutoencoder(AUTOENCODER), tmp_path, {})
    assert not list(tmp_path.iterdir())
