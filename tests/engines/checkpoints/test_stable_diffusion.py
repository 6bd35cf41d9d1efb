"""Stable Diffusion 1 and 2 in a single file: found by its content, and equal to the peer on the same weights."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
)
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from engines import catalog, tensors
from engines.checkpoints import models, stable_diffusion
from engines.diffusion import schedules
from engines.diffusion.unet import UNetConfig
from engines.engine import Engine
from engines.errors import BadCheckpoint
from engines.requests import GenerateRequest, InpaintRequest
from engines.tasks import drawing
from engines.tasks.generate import DRAW
from engines.tasks.inpaint import inpaint
from tests.engines.text.test_encoder import randomise as randomise_text
from tests.engines.vqgan.test_autoencoder import published
from tests.peers import published_key, randomise
from tests.tiny import picture, png

WORDS = ["!", *(f"{letter}{end}" for letter in "abdefhorx" for end in ("", "</w>")), "re", "red</w>", "fo", "fox</w>"]
WORDS += ["<|startoftext|>", "<|endoftext|>"]
MERGES = ("r e", "re d</w>", "f o", "fo x</w>")
CONTEXT = 12
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@pytest.fixture(scope="module")
def tokenizer_files(tmp_path_factory):
    return write_vocabulary(tmp_path_factory.mktemp("vocabulary"))


def write_vocabulary(folder):
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(WORDS)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES, ""]))
    return folder


def at_home(parts, home, vocabulary, name="sd"):
    """The folder `models` of a `home`, made, with the single file of the peer's `parts` and a vocabulary."""
    folder = home / "models"
    folder.mkdir()
    (folder / "tokenizer").symlink_to(vocabulary)
    save_file(parts.single_file(), folder / f"{name}.safetensors")
    return folder


class Parts:
    """The parts of a Stable Diffusion by the peer, of the published topology and a fraction of its width."""

    def __init__(self, version, in_channels, folder):
        torch.manual_seed(0)
        second = version == 2
        widths = (64, 128, 256, 256) if second else (32, 64, 128, 128)
        width = 64 if second else 128  # of the text
        heads = tuple(ch // 64 for ch in widths) if second else 8
        self.config = UNetConfig(
            in_channels=in_channels, ch=widths[0], context_dim=width, num_heads=8, head_dim=64 if second else 0,
            use_linear_projection=second,
        )  # fmt: skip
        self.unet = randomise(UNet2DConditionModel(
            sample_size=64, in_channels=in_channels, block_out_channels=widths, cross_attention_dim=width,
            attention_head_dim=heads, use_linear_projection=second,
        ))  # fmt: skip
        with torch.no_grad():  # answers of a size that samplers stay calm at
            self.unet.conv_out.weight *= 0.1
        self.vae = randomise(AutoencoderKL(
            block_out_channels=(32, 64, 128, 128), layers_per_block=2, latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        ))  # fmt: skip
        self.text = randomise_text(CLIPTextModel(CLIPTextConfig(
            vocab_size=len(WORDS), hidden_size=width, intermediate_size=4 * width, num_hidden_layers=3,
            num_attention_heads=width // 64, max_position_embeddings=CONTEXT,
            hidden_act="gelu" if second else "quick_gelu", bos_token_id=len(WORDS) - 2, eos_token_id=len(WORDS) - 1,
        ))).eval()  # fmt: skip
        self.tokenizer = CLIPTokenizer(
            str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=CONTEXT,
            **{"pad_token": "!"} if second else {},
        )  # fmt: skip
        self.second = second

    def single_file(self):
        """All weights under their published names."""
        state = {
            f"model.diffusion_model.{published_key(name, self.config)}": value
            for name, value in self.unet.state_dict().items()
        }
        shape = type("Shape", (), {"ch_mult": (1, 2, 4, 4)})
        state |= {f"first_stage_model.{k}": v for k, v in published(self.vae.state_dict(), shape).items()}
        text = {name.removeprefix("text_model."): value for name, value in self.text.state_dict().items()}
        state |= openclip(text) if self.second else {
            f"cond_stage_model.transformer.text_model.{name}": value for name, value in text.items()
        }  # fmt: skip
        # what comes along and has no use here
        state |= {"betas": torch.zeros(1000), "model_ema.num_updates": torch.zeros(())}
        return {name: value.contiguous() for name, value in state.items()}

    @torch.no_grad()
    def words(self, texts):
        ids = self.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        found = self.text(ids, output_hidden_states=True)
        if not self.second:
            return found.last_hidden_state
        norm = {name: value for name, value in self.text.state_dict().items() if "final_layer_norm" in name}
        weight, bias = (next(v for k, v in norm.items() if k.endswith(end)) for end in ("weight", "bias"))
        state = found.hidden_states[-2]
        return torch.nn.functional.layer_norm(state, state.shape[-1:], weight, bias)


LAYERS = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
          "self_attn.out_proj": "attn.out_proj"}  # fmt: skip


def openclip(text):
    """CLIP's text encoder as OpenCLIP writes it: queries, keys and values in one matrix."""
    state = {
        "token_embedding.weight": text["embeddings.token_embedding.weight"],
        "positional_embedding": text["embeddings.position_embedding.weight"],
        "ln_final.weight": text["final_layer_norm.weight"], "ln_final.bias": text["final_layer_norm.bias"],
        "logit_scale": torch.zeros(()), "text_projection": torch.zeros(64, 64), "attn_mask": torch.zeros(12, 12),
    }  # fmt: skip
    for name, value in text.items():
        if match := re.match(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name):
            layer, part, kind = match.groups()
            if part in LAYERS:
                state[f"transformer.resblocks.{layer}.{LAYERS[part]}.{kind}"] = value
            elif part == "self_attn.q_proj":
                thirds = [text[f"encoder.layers.{layer}.self_attn.{which}_proj.{kind}"] for which in "qkv"]
                state[f"transformer.resblocks.{layer}.attn.in_proj_{kind}"] = torch.cat(thirds)
    return {f"cond_stage_model.model.{name}": value for name, value in state.items()}


KINDS = {"1": (1, 4), "1 inpainting": (1, 9), "2": (2, 4), "2 inpainting": (2, 9)}


@pytest.fixture(scope="module", params=KINDS)
def made(request, tmp_path_factory, tokenizer_files):
    """The peer's parts, and the home in which their single file lies as `sd`."""
    home = tmp_path_factory.mktemp("home")
    parts = Parts(*KINDS[request.param], tokenizer_files)
    at_home(parts, home, tokenizer_files)
    return parts, home


@pytest.fixture(scope="module")
def ours(made):
    return models.load(made[1] / "models" / "sd.safetensors")


def near(found, expected, tolerance=1e-4):
    assert found.shape == expected.shape and expected.std() > 1e-3
    assert (found - expected).norm() / expected.norm() < tolerance


@torch.no_grad()
def test_each_part_equals_the_peers(made, ours):
    parts, home = made
    row = catalog.catalog(home)["sd"]
    assert (row.family, row.tasks) == ("stable-diffusion", ("generate", "inpaint", "refine", "locate"))
    assert ours.inpaints == (parts.config.in_channels == 9)
    texts = ["red fox", "", "a fox, red " * 20]
    words = parts.words(texts)
    near(ours.words(texts)["context"], words)
    assert catalog.tokenizer(row).count("red fox") == 4
    x = torch.randn(3, parts.config.in_channels, 16, 24, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0.0, 421.5, 999.0])
    near(ours.unet(x, t, words), parts.unet(x, t, words).sample)
    pictures = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1)) * 2 - 1
    latents = parts.vae.encode(pictures).latent_dist.mode() * 0.18215
    near(ours.encode(pictures), latents)
    near(ours.decode(latents), parts.vae.decode(latents / 0.18215).sample)


SCHEDULERS = {  # each with the times at which its steps follow each other without a gap
    "euler": lambda **more: EulerDiscreteScheduler(**BETAS, **more, timestep_spacing="linspace"),
    "ddim": lambda **more: DDIMScheduler(**BETAS, **more, timestep_spacing="trailing", clip_sample=False),
    "dpmpp_2m": lambda **more: DPMSolverMultistepScheduler(**BETAS, **more, final_sigmas_type="zero"),
    "unipc": lambda **more: UniPCMultistepScheduler(**BETAS, **more, final_sigmas_type="zero"),
}


def pipeline(kind, parts, ours, sampler):
    """The peer's pipeline of that class by the same parts."""
    scheduler = SCHEDULERS[sampler](prediction_type={"eps": "epsilon", "v": "v_prediction"}[ours.config.prediction])
    pipe = kind(
        vae=parts.vae, text_encoder=parts.text, tokenizer=parts.tokenizer, unet=parts.unet, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


def given_the_times(pipe, ours, steps, monkeypatch):
    """The levels of the peer, which rounds its times; ours is given the same."""
    pipe.scheduler.set_timesteps(steps)
    sigmas = torch.cat([ours.noise.sigma(pipe.scheduler.timesteps.double()), torch.zeros(1)]).float()
    monkeypatch.setattr(schedules, "by_name", lambda name: lambda noise, steps: sigmas)
    return sigmas


def run_by_the_peer(pipe, parts, steps, **more):
    """The latents at the end."""
    return pipe(
        prompt_embeds=parts.words(["red fox"]), negative_prompt_embeds=parts.words(["a"]), num_inference_steps=steps,
        guidance_scale=3.0, output_type="latent", **more,
    ).images  # fmt: skip


def caught(ours, monkeypatch):
    """What our own latents are when they are decoded, the last ones at the end."""
    found, decode = [], ours.decode
    monkeypatch.setattr(ours, "decode", lambda latents: found.append(latents) or decode(latents))
    return found


ASKED = {"prompt": "red fox", "negative": "a", "cfg_scale": 3.0, "seed": 5}


@torch.no_grad()
@pytest.mark.parametrize("sampler", SCHEDULERS)
def test_twenty_steps_are_those_of_the_peers_pipeline(made, ours, sampler, monkeypatch):
    parts, _ = made
    if ours.inpaints:
        pytest.skip("the pipeline for words takes no mask")
    pipe = pipeline(StableDiffusionPipeline, parts, ours, sampler)
    sigmas = given_the_times(pipe, ours, 20, monkeypatch)
    # all but Euler keep the spread of the noise at 1
    noise = tensors.noise([5], (4, 8, 16)) * (1 if sampler == "euler" else sigmas[0] / (1 + sigmas[0] ** 2).sqrt())
    expected = run_by_the_peer(pipe, parts, 20, latents=noise, width=128, height=64)
    found = caught(ours, monkeypatch)
    request = GenerateRequest(**ASKED, steps=20, width=128, height=64, sampler=sampler)
    DRAW["latent-diffusion"](request, ours, range(1), lambda *at: None, drawing.at_once)
    near(found[-1], expected, 1e-3)


@pytest.fixture
def same_beginning(monkeypatch):
    """The peer's noise is ours, and it takes the middle of what its encoder tells, as we do, not a draw from it."""
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda told, generator=None: told.mode())

    def noise(shape, **more):
        return tensors.noise([5], shape[1:])

    for kind in (StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline):
        monkeypatch.setitem(kind.prepare_latents.__globals__, "randn_tensor", noise)


@torch.no_grad()
@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
def test_from_a_picture_the_steps_are_those_of_the_peers_pipeline(made, ours, sampler, same_beginning, monkeypatch):
    """The last twenty of 25, where both count as many: of what is no whole number the peer takes the lower one."""
    parts, _ = made
    if ours.inpaints:
        pytest.skip("the pipeline for a picture takes no mask")
    pipe, source = pipeline(StableDiffusionImg2ImgPipeline, parts, ours, sampler), picture(128, 64)
    given_the_times(pipe, ours, 25, monkeypatch)
    expected = run_by_the_peer(pipe, parts, 25, image=source, strength=0.8)
    found = caught(ours, monkeypatch)
    request = GenerateRequest(
        **ASKED, steps=25, width=128, height=64, sampler=sampler, image=png(source), strength=0.8
    )
    DRAW["latent-diffusion"](request, ours, range(1), lambda *at: None, drawing.at_once)
    near(found[-1], expected, 1e-3)


@torch.no_grad()
@pytest.mark.parametrize("sampler, strength", [("euler", 0.8), ("dpmpp_2m", 0.8), ("dpmpp_2m", 1.0)])
def test_inpainting_is_that_of_the_peers_pipeline(made, ours, sampler, strength, same_beginning, monkeypatch):
    """With nine channels, and with four by keeping what is known; the mask ends where latents do.

    Elsewhere the peer takes of a latent's mask what its first pixel says, and ours what the strongest one says.
    """
    parts, _ = made
    if strength == 1 and not ours.inpaints:
        pytest.skip("the peer keeps what is known by the very latents that it begins with, which are no noise here")
    pipe, source = pipeline(StableDiffusionInpaintPipeline, parts, ours, sampler), picture(64, 64)
    steps = round(20 / strength)
    sigmas = given_the_times(pipe, ours, steps, monkeypatch)
    mask = np.zeros((64, 64), np.uint8)
    mask[16:40, 8:56] = 255
    mask = Image.fromarray(mask)
    begun = {}
    if strength == 1:  # the peer forgets the picture then, and ours begins as it was asked to: both with it here
        latents = ours.encode(tensors.from_image(source)) + sigmas[0] * tensors.noise([5], (4, 8, 8))
        begun["latents"] = latents / (1 + sigmas[0] ** 2).sqrt()
    expected = run_by_the_peer(
        pipe, parts, steps, image=source, mask_image=mask, strength=strength, width=64, height=64, **begun
    )
    monkeypatch.setattr(ours, "config", replace(ours.config, size=64))  # it works at the picture's own size
    found = caught(ours, monkeypatch)
    inpaint(InpaintRequest(
        **ASKED, steps=steps, sampler=sampler, image=png(source), mask=png(mask), strength=strength, begin="picture",
        area="whole",
    ), ours)  # fmt: skip
    near(found[-1], expected, 1e-3)


@torch.no_grad()
def test_a_folder_of_the_peer_is_run_by_both_engines_alike(made, ours, tmp_path):
    parts, _ = made
    if ours.inpaints:
        pytest.skip("the pipeline for words takes no mask")
    prediction = "v_prediction" if parts.second else "epsilon"
    scheduler = EulerDiscreteScheduler(**BETAS, timestep_spacing="linspace", prediction_type=prediction)
    StableDiffusionPipeline(
        vae=parts.vae, text_encoder=parts.text, tokenizer=parts.tokenizer, unet=parts.unet, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(tmp_path / "models" / "peer")  # fmt: skip
    rows = catalog.catalog(tmp_path)
    assert (rows["peer"].family, rows["peer-ours"].family) == ("diffusers", "stable-diffusion")
    assert rows["peer-ours"].tasks == ("generate", "inpaint", "refine", "locate")
    assert catalog.tokenizer(rows["peer-ours"]).count("red fox") == 4
    model = models.load(tmp_path / "models" / "peer")
    assert model.config.prediction == ("v" if parts.second else "eps")
    assert model.config.unet == ours.config.unet
    state, same = model.state_dict(), ours.state_dict()
    assert all(torch.equal(state[name], same[name]) for name in state)
    # the hidden states are those after the last layer that is in the folder
    near(model.words(["red fox"])["context"], parts.text(
        torch.from_numpy(model.tokenizer.encode(["red fox"]))
    ).last_hidden_state)  # fmt: skip
    engine, drawn = Engine(tmp_path, "cpu"), {}
    for name in ("peer", "peer-ours"):
        request = GenerateRequest(
            model=name, prompt="red fox", steps=4, width=64, height=64, cfg_scale=3.0, sampler="euler", seed=3
        )
        drawn[name] = np.asarray(engine.run(request).pictures[0].image).astype(int)
    assert drawn["peer"].std() > 10 and np.abs(drawn["peer"] - drawn["peer-ours"]).max() <= 1
    (tmp_path / "models" / "peer" / "vae" / "config.json").write_text("[]")
    assert "peer-ours" not in catalog.catalog(tmp_path)


@pytest.mark.parametrize("how", [{}, {"precision": torch.bfloat16, "room": 0}], ids=["plainly", "in turns by halves"])
def test_what_a_net_of_version_2_predicts_is_looked_at(tokenizer_files, tmp_path, how):
    parts = Parts(2, 4, tokenizer_files)
    (tmp_path / "tokenizer").symlink_to(tokenizer_files)
    save_file(parts.single_file(), tmp_path / "sd.safetensors")
    found = models.load(tmp_path / "sd.safetensors", **how)
    assert found.config.prediction == "v"  # of random weights: nothing of the noise
    state = parts.single_file()
    # the same net, but one whose answer at the end is what it was given
    wide = state["model.diffusion_model.out.2.weight"]
    for name in ("model.diffusion_model.out.2.weight", "model.diffusion_model.out.2.bias"):
        state[name] = torch.zeros_like(state[name])
    for number in range(4):
        wide_row = torch.zeros_like(wide[number])
        wide_row[number, 1, 1] = 1.0
        state["model.diffusion_model.out.2.weight"][number] = wide_row
    last = max(int(name.split(".")[3]) for name in state if name.startswith("model.diffusion_model.output_blocks."))
    for name in [name for name in state if name.startswith(f"model.diffusion_model.output_blocks.{last}.")]:
        state[name] = torch.zeros_like(state[name])
    # the last block passes on the first convolution's output, which is the picture itself
    skip = state[f"model.diffusion_model.output_blocks.{last}.0.skip_connection.weight"]
    skip[:, -skip.shape[0] :, 0, 0] = torch.eye(skip.shape[0])
    first = torch.zeros_like(state["model.diffusion_model.input_blocks.0.0.weight"])
    for number in range(first.shape[0]):
        first[number, number % 4, 1, 1] = 1.0
    state["model.diffusion_model.input_blocks.0.0.weight"] = first
    state["model.diffusion_model.out.0.weight"] = torch.ones_like(state["model.diffusion_model.out.0.weight"])
    state["model.diffusion_model.out.0.bias"] = torch.zeros_like(state["model.diffusion_model.out.0.bias"])
    save_file(state, tmp_path / "sd.safetensors")
    assert models.load(tmp_path / "sd.safetensors", **how).config.prediction == "eps"


def test_it_draws_and_paints_on_every_tab_by_its_name(made):
    parts, home = made
    engine = Engine(home, "cpu")
    drawn = engine.run(GenerateRequest(model="sd", prompt="red fox", steps=2, width=64, height=64, cfg_scale=3.0))
    assert drawn.pictures[0].image.size == (64, 64) and len(drawn.pictures[0].record["model_sha256"]) == 64
    source = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    mask = np.zeros((64, 64), np.uint8)
    mask[20:40, 20:40] = 255
    request = InpaintRequest(
        model="sd", prompt="red fox", steps=2, image=png(source), mask=png(Image.fromarray(mask)), feather=0
    )
    painted = engine.run(request)
    outside = mask == 0
    assert np.array_equal(np.asarray(painted.pictures[0].image)[outside], np.asarray(source)[outside])


def test_without_a_vocabulary_it_says_where_to_put_one(made, tmp_path, monkeypatch):
    monkeypatch.setattr(stable_diffusion, "try_to_load_from_cache", lambda *names: None)
    save_file(made[0].single_file(), tmp_path / "alone.safetensors")
    with pytest.raises(BadCheckpoint, match="put vocab.json and merges.txt of .* into a folder “tokenizer” beside it"):
        models.load(tmp_path / "alone.safetensors")


def test_what_is_missing_or_strange_is_named(made, tmp_path, tokenizer_files):
    (tmp_path / "tokenizer").symlink_to(tokenizer_files)
    state = made[0].single_file()
    for prefix, lost in (("model.diffusion_model", "out.0.weight"), ("first_stage_model", "decoder.norm_out.bias")):
        rest = {name: value for name, value in state.items() if name != f"{prefix}.{lost}"}
        save_file(rest, tmp_path / "cut.safetensors")
        with pytest.raises(BadCheckpoint, match=f"{lost} is missing"):
            models.load(tmp_path / "cut.safetensors")
    save_file(state | {"cond_stage_model.more": torch.zeros(2)}, tmp_path / "more.safetensors")
    with pytest.raises(BadCheckpoint, match="cond_stage_model.more is not part of the model"):
        models.load(tmp_path / "more.safetensors")


@pytest.mark.parametrize("kept", ["first_stage_model.quant_conv", "cond_stage_model", "input_blocks.0"])
def test_a_fraction_of_a_file_is_no_model_and_stops_nothing(made, tmp_path, kept):
    state = made[0].single_file()
    always = ("model.diffusion_model.input_blocks.0.0.weight", "first_stage_model.quant_conv.weight")
    (tmp_path / "models").mkdir()
    part = {name: value for name, value in state.items() if kept in name or name in always}
    save_file(part, tmp_path / "models" / "part.safetensors")
    assert "part" not in catalog.catalog(tmp_path)
    with pytest.raises(BadCheckpoint, match="no model of a known family"):
        models.load(tmp_path / "models" / "part.safetensors")
