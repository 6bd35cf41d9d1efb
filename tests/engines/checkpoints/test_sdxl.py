"""Stable Diffusion XL and its refiner, in a single file and as a folder: equal to the peer on the same weights."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from engines import catalog, tensors
from engines.checkpoints import embeddings, export, lora, models
from engines.diffusion import schedules
from engines.diffusion.unet import UNetConfig
from engines.engine import Engine
from engines.errors import BadCheckpoint, BadRequest
from engines.requests import GenerateRequest
from engines.tasks import drawing
from engines.tasks.generate import DRAW
from tests.engines.checkpoints.test_lora import AT, X, adapted
from tests.engines.checkpoints.test_stable_diffusion import BETAS, CONTEXT, SCHEDULERS, WORDS, at_home, near, openclip
from tests.engines.checkpoints.test_stable_diffusion import tokenizer_files as tokenizer_files
from tests.engines.text.test_encoder import randomise as randomise_text
from tests.engines.vqgan.test_autoencoder import published
from tests.peers import published_key, randomise

WIDTHS = (64, 128)  # of the two readers of words
CROSS, PLAIN = "CrossAttnDownBlock2D", "DownBlock2D"
BASE = {
    "block_out_channels": (64, 128, 256), "down_block_types": (PLAIN, CROSS, CROSS), "attention_head_dim": (1, 2, 4),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 3), "cross_attention_dim": sum(WIDTHS),
    "projection_class_embeddings_input_dim": WIDTHS[1] + 6 * 256,
}  # fmt: skip
REFINER = {
    "block_out_channels": (64, 128, 256, 256), "down_block_types": (PLAIN, CROSS, CROSS, PLAIN),
    "attention_head_dim": (1, 2, 4, 4),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": 2, "cross_attention_dim": WIDTHS[1],
    "projection_class_embeddings_input_dim": WIDTHS[1] + 5 * 256,
}  # fmt: skip


class Parts:
    """The parts of an SDXL by the peer, of the published topology and a fraction of its width."""

    def __init__(self, shape, folder):
        torch.manual_seed(0)
        self.is_refiner = shape is REFINER
        self.unet = randomise(UNet2DConditionModel(
            in_channels=4, use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=256,
            **shape,
        ))  # fmt: skip
        with torch.no_grad():  # answers of a size that samplers stay calm at
            self.unet.conv_out.weight *= 0.1
        self.vae = randomise(AutoencoderKL(
            block_out_channels=(32, 64, 128, 128), layers_per_block=2, latent_channels=4, scaling_factor=0.13025,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        ))  # fmt: skip
        kinds = (CLIPTextModel, "quick_gelu", "<|endoftext|>"), (CLIPTextModelWithProjection, "gelu", "!")
        self.texts, self.tokenizers = [], []
        for (kind, activation, padding), width in zip(kinds, WIDTHS, strict=True):
            self.texts.append(randomise_text(kind(CLIPTextConfig(
                vocab_size=len(WORDS), hidden_size=width, intermediate_size=4 * width, num_hidden_layers=3,
                num_attention_heads=width // 64, max_position_embeddings=CONTEXT, hidden_act=activation,
                projection_dim=width, bos_token_id=len(WORDS) - 2, eos_token_id=len(WORDS) - 1,
            ))).eval())  # fmt: skip
            self.tokenizers.append(CLIPTokenizer(
                str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=CONTEXT, pad_token=padding,
            ))  # fmt: skip
        if self.is_refiner:
            self.texts[0] = self.tokenizers[0] = None

    def single_file(self):
        """All weights under their published names."""
        attention = (1, 2)
        shape = UNetConfig(
            in_channels=4, ch=64, ch_mult=(1, 2, 4, 4) if self.is_refiner else (1, 2, 4), attention_levels=attention,
        )  # fmt: skip
        state = {
            f"model.diffusion_model.{published_key(name, shape)}": value
            for name, value in self.unet.state_dict().items()
        }
        levels = type("Shape", (), {"ch_mult": (1, 2, 4, 4)})
        state |= {f"first_stage_model.{k}": v for k, v in published(self.vae.state_dict(), levels).items()}
        first, second = (text and text.state_dict() for text in self.texts)
        if first:
            state |= {
                f"conditioner.embedders.0.transformer.text_model.{name.removeprefix('text_model.')}": value
                for name, value in first.items()
            }
        bare = {name.removeprefix("text_model."): value for name, value in second.items()}
        prefix = f"conditioner.embedders.{0 if self.is_refiner else 1}.model."
        state |= {
            name.replace("cond_stage_model.model.", prefix): value for name, value in openclip(bare).items()
        } | {f"{prefix}text_projection": second["text_projection.weight"].t()}  # fmt: skip
        return {name: value.contiguous() for name, value in state.items()}

    def pipeline(self, scheduler):
        kind = StableDiffusionXLImg2ImgPipeline if self.is_refiner else StableDiffusionXLPipeline
        more = {"requires_aesthetics_score": True} if self.is_refiner else {}
        pipe = kind(
            vae=self.vae, text_encoder=self.texts[0], text_encoder_2=self.texts[1], tokenizer=self.tokenizers[0],
            tokenizer_2=self.tokenizers[1], unet=self.unet, scheduler=scheduler, add_watermarker=False,
            force_zeros_for_empty_prompt=not self.is_refiner, **more,
        )  # fmt: skip
        pipe.set_progress_bar_config(disable=True)
        return pipe


@pytest.fixture(scope="module", params=["base", "refiner"])
def made(request, tmp_path_factory, tokenizer_files):
    """The peer's parts, and the home in which their single file lies as `xl`."""
    home = tmp_path_factory.mktemp("home")
    parts = Parts({"base": BASE, "refiner": REFINER}[request.param], tokenizer_files)
    at_home(parts, home, tokenizer_files, "xl")
    return parts, home


@pytest.fixture(scope="module")
def ours(made):
    return models.load(made[1] / "models" / "xl.safetensors")


def told(pipe, size, words, negative, is_refiner):
    """What the peer's pipeline tells its UNet of a picture of `size`: words, pooled words, numbers."""
    positive, unwanted, pooled, unwanted_pooled = pipe.encode_prompt(words, negative_prompt=negative)
    height_width = size[::-1]
    if is_refiner:
        numbers = pipe._get_add_time_ids(
            height_width, (0, 0), height_width, 6.0, 2.5, height_width, (0, 0), height_width, torch.float32, WIDTHS[1]
        )
    else:
        same = pipe._get_add_time_ids(height_width, (0, 0), height_width, torch.float32, WIDTHS[1])
        numbers = same, same
    return (positive, pooled, numbers[0]), (unwanted, unwanted_pooled, numbers[1])


@torch.no_grad()
def test_each_part_equals_the_peers(made, ours):
    parts, home = made
    row = catalog.catalog(home)["xl"]
    assert (row.family, ours.config.prediction, ours.size) == ("stable-diffusion", "eps", 1024)
    assert ours.config.unet.transformer_depth == (2 if parts.is_refiner else (2, 3, 3))
    assert catalog.tokenizer(row).count("red fox") == 4
    pipe = parts.pipeline(EulerDiscreteScheduler(**BETAS))
    both = told(pipe, (96, 64), "red fox", "a", parts.is_refiner)
    x = torch.randn(1, 4, 16, 24, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([421.0])
    for text, wanted, (context, pooled, numbers) in zip(("red fox", "a"), (True, False), both, strict=True):
        words = ours.words([text], (96, 64), wanted)
        near(words["context"], context)
        near(words["vector"][:, : WIDTHS[1]], pooled)
        conds = {"text_embeds": pooled, "time_ids": numbers}
        near(ours.unet(x, t, **words), parts.unet(x, t, context, added_cond_kwargs=conds).sample)
    pictures = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1)) * 2 - 1
    latents = parts.vae.encode(pictures).latent_dist.mode() * 0.13025
    near(ours.encode(pictures), latents)
    near(ours.decode(latents), parts.vae.decode(latents / 0.13025).sample)


@torch.no_grad()
def test_without_words_it_is_told_what_the_peer_tells(made, ours):
    parts, _ = made
    (_, _, _), (context, pooled, _) = told(
        parts.pipeline(EulerDiscreteScheduler(**BETAS)), (64, 64), "red fox", None, parts.is_refiner
    )
    words = ours.words([""], (64, 64), wanted=False)
    assert torch.allclose(words["context"], context, atol=1e-4)
    assert torch.allclose(words["vector"][:, : WIDTHS[1]], pooled, atol=1e-4)
    assert bool(context.abs().sum()) == parts.is_refiner  # zeros for the base alone


@torch.no_grad()
@pytest.mark.parametrize("sampler", SCHEDULERS)
def test_twenty_steps_are_those_of_the_peers_pipeline(made, ours, sampler, monkeypatch):
    parts, _ = made
    if parts.is_refiner:
        pytest.skip("the pipeline of the refiner begins with a picture")
    scheduler = SCHEDULERS[sampler]()
    pipe = parts.pipeline(scheduler)
    request = GenerateRequest(
        prompt="red fox", negative="a", steps=20, cfg_scale=3.0, seed=5, width=128, height=64, sampler=sampler
    )
    # the peer rounds its times; ours is given the same
    scheduler.set_timesteps(20)
    sigmas = torch.cat([ours.noise.sigma(scheduler.timesteps.double()), torch.zeros(1)]).float()
    monkeypatch.setattr(schedules, "by_name", lambda name: lambda noise, steps: sigmas)
    # all but Euler keep the spread of the noise at 1
    noise = tensors.noise([5], (4, 8, 16)) * (1 if sampler == "euler" else sigmas[0] / (1 + sigmas[0] ** 2).sqrt())
    expected = pipe(
        "red fox", negative_prompt="a", num_inference_steps=20, guidance_scale=3.0, latents=noise, width=128,
        height=64, output_type="latent",
    ).images  # fmt: skip
    found = []
    monkeypatch.setattr(ours, "decode", lambda latents: found.append(latents))
    DRAW["latent-diffusion"](request, ours, range(1), lambda *at: None, drawing.at_once)
    near(found[-1], expected, 1e-3)


@torch.no_grad()
def test_a_folder_of_the_peer_holds_the_same(made, ours, tmp_path):
    parts, _ = made
    parts.pipeline(EulerDiscreteScheduler(**BETAS)).save_pretrained(tmp_path / "models" / "peer")
    rows = catalog.catalog(tmp_path)
    assert rows["peer-ours"].family == "stable-diffusion" and rows["peer"].size == rows["peer-ours"].size > 0
    assert catalog.tokenizer(rows["peer-ours"]).count("red fox") == 4
    model = models.load(tmp_path / "models" / "peer")
    assert model.config.unet == ours.config.unet and model.config.readers == ours.config.readers
    state, same = model.state_dict(), ours.state_dict()
    assert state.keys() == same.keys() and all(torch.equal(state[name], same[name]) for name in state)
    for name, expected in ours.words(["red fox", ""], (64, 64)).items():
        assert torch.equal(model.words(["red fox", ""], (64, 64))[name], expected)


@torch.no_grad()
def test_a_lora_changes_it_as_the_peer_does(made, ours, tmp_path):
    parts, _ = made
    if parts.is_refiner:
        pytest.skip("the peer lends its refiner no LoRA of words")
    pipe = parts.pipeline(EulerDiscreteScheduler(**BETAS))
    nets = [adapted(parts.unet, 1, lora_alpha=4, target_modules=["to_q", "to_v", "proj_in", "conv1", "linear_1"])]
    nets += [adapted(text, 2, lora_alpha=4, target_modules=["q_proj", "fc1"]) for text in parts.texts]
    pipe.save_lora_weights(tmp_path, *nets, weight_name="ink.safetensors")
    (positive, pooled, numbers), _ = told(pipe, (64, 64), "red fox", "a", False)
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    with lora.merged(ours, [(tmp_path / "ink.safetensors", 0.7)]):
        words = ours.words(["red fox"], (64, 64))
        found = ours.unet(X, AT, **words)
    pipe.load_lora_weights(tmp_path, weight_name="ink.safetensors", adapter_name="ink")
    try:
        pipe.set_adapters("ink", 0.7)
        (context, changed, numbers), _ = told(pipe, (64, 64), "red fox", "a", False)
        conds = {"text_embeds": changed, "time_ids": numbers}
        expected = pipe.unet(X, AT, context, added_cond_kwargs=conds).sample
    finally:
        pipe.unload_lora_weights()
    assert (context - positive).norm() > 0.01 * positive.norm() and (changed - pooled).norm() > 0.01 * pooled.norm()
    near(words["context"], context)
    near(words["vector"][:, : WIDTHS[1]], changed)
    near(found, expected)
    after = ours.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)


@torch.no_grad()
def test_an_embedding_stands_for_words_of_both_readers(made, ours, tmp_path):
    parts, _ = made
    if parts.is_refiner:
        pytest.skip("an embedding of XL is of two readers")
    random = torch.Generator().manual_seed(7)
    vectors = {
        name: torch.randn(2, width, generator=random) for name, width in zip(("clip_l", "clip_g"), WIDTHS, strict=True)
    }
    save_file(vectors, tmp_path / "ink.safetensors")
    pipe = copy.deepcopy(parts).pipeline(EulerDiscreteScheduler(**BETAS))
    pipe.load_textual_inversion(vectors["clip_l"], "ink", text_encoder=pipe.text_encoder, tokenizer=pipe.tokenizer)
    pipe.load_textual_inversion(vectors["clip_g"], "ink", text_encoder=pipe.text_encoder_2, tokenizer=pipe.tokenizer_2)
    (context, pooled, _), _ = told(pipe, (64, 64), "red ink fox", "a", False)
    with embeddings.readable(ours, {"*": tmp_path / "ink.safetensors"}):
        words = ours.words(["red * fox"], (64, 64))
    near(words["context"], context)
    near(words["vector"][:, : WIDTHS[1]], pooled)
    with pytest.raises(BadCheckpoint, match="64 wide, and the words of “xl” 64 and 128"):
        save_file({"emb_params": vectors["clip_l"]}, tmp_path / "one.safetensors")
        with embeddings.readable(ours, {"*": tmp_path / "one.safetensors"}):
            pass


@torch.no_grad()
def test_as_a_folder_it_is_opened_by_the_peer_and_comes_back(made, ours, tmp_path):
    parts, _ = made
    export.write(ours, tmp_path / "folder", {})
    pipe = DiffusionPipeline.from_pretrained(tmp_path / "folder")
    assert type(pipe) is type(parts.pipeline(EulerDiscreteScheduler(**BETAS)))
    texts = [pipe.text_encoder, pipe.text_encoder_2]
    for found, expected in zip([pipe.unet, pipe.vae, *texts], [parts.unet, parts.vae, *parts.texts], strict=True):
        assert (found is None) == (expected is None)
        if found is not None:
            state, same = found.state_dict(), expected.state_dict()
            assert state.keys() == same.keys() and all(torch.equal(state[name], same[name]) for name in state)
    here, there = (
        told(pipe, (64, 96), "red fox", None, parts.is_refiner)
        for pipe in (pipe, parts.pipeline(EulerDiscreteScheduler(**BETAS)))
    )
    # of the same weights; on some processors sums go in another order where they lie otherwise in memory
    for found, expected in zip(sum(here, ()), sum(there, ()), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    back = models.load(tmp_path / "folder")
    state, same = back.state_dict(), ours.state_dict()
    assert back.config == ours.config and all(torch.equal(state[name], same[name]) for name in same)


def test_it_draws_by_its_name_and_from_a_picture(made):
    _, home = made
    engine = Engine(home, "cpu")
    request = GenerateRequest(model="xl", prompt="red fox", steps=2, width=64, height=64, cfg_scale=3.0)
    drawn = engine.run(request).pictures[0].image
    assert drawn.size == (64, 64) and np.asarray(drawn).std() > 1


def test_a_vector_that_no_words_and_numbers_make_is_refused(ours):
    unet = replace(ours.config.unet, adm_dim=ours.config.unet.adm_dim + 1)
    with pytest.raises(BadRequest, match="takes a vector of"):
        replace(ours.config, unet=unet)
