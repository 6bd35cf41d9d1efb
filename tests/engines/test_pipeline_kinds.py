"""Kinds of pipelines of diffusers in `models/`: each draws what its own class draws, called directly."""

import re

import diffusers
import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from engines import tensors
from engines.engine import Engine
from engines.errors import BadCheckpoint, BadRequest
from engines.pipelines import folders
from engines.requests import InpaintRequest
from tests import tiny
from tests.engines.checkpoints.test_stable_diffusion import WORDS, write_vocabulary
from tests.peers import pipeline, randomise

IMAGE = tiny.picture(64, 64)
PICTURE = tiny.png(IMAGE)
ENDS = {"bos_token_id": len(WORDS) - 2, "eos_token_id": len(WORDS) - 1}
TEXT = {"vocab_size": len(WORDS), "intermediate_size": 64, "num_hidden_layers": 2, **ENDS}
SCHEDULER = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
                          set_alpha_to_one=False, steps_offset=1)  # fmt: skip
ASKED = {"prompt": "red fox", "sampler": "ddim", "steps": 4}
CALL = {"height": 64, "width": 64, "num_inference_steps": 4, "guidance_scale": 4.0}


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    return write_vocabulary(tmp_path_factory.mktemp("vocabulary"))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


def drawn(home, name, **fields):
    """The pictures of the model in the folder `name` of `models/`, as arrays."""
    pictures = Engine(home, "cpu").run(tiny.request(model=name, **ASKED | fields)).pictures
    return [np.asarray(picture.image).astype(int) for picture in pictures]


def near(ours, image):
    assert np.abs(ours - np.asarray(image).astype(int)).max() <= 2


def second_encoder(width):
    return CLIPTextModelWithProjection(CLIPTextConfig(
        hidden_size=width, num_attention_heads=2, max_position_embeddings=16, projection_dim=width, **TEXT
    ))  # fmt: skip


# ---------------------------------------------------------------- a ControlNet


def control(unet):
    """A ControlNet whose every weight counts, and not too much."""
    net = randomise(ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(16, 32)))
    with torch.no_grad():
        for layer in (*net.controlnet_down_blocks, net.controlnet_mid_block):
            layer.weight *= 0.3
    return net


def stable_diffusion(vocabulary):
    parts = pipeline(vocabulary, 16, **TEXT).components
    return diffusers.StableDiffusionControlNetPipeline(
        **parts, controlnet=control(parts["unet"]), requires_safety_checker=False
    )


def stable_diffusion_xl(vocabulary):
    parts = pipeline(vocabulary, 16, **TEXT).components
    torch.manual_seed(1)
    unet = UNet2DConditionModel(
        sample_size=32, block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=8, cross_attention_dim=64,
        attention_head_dim=4, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 32, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    return diffusers.StableDiffusionXLControlNetPipeline(
        vae=parts["vae"], text_encoder=parts["text_encoder"], text_encoder_2=second_encoder(32), unet=unet,
        tokenizer=parts["tokenizer"], tokenizer_2=parts["tokenizer"], controlnet=control(unet), scheduler=SCHEDULER,
        add_watermarker=False,
    )  # fmt: skip


@pytest.mark.parametrize("make", [stable_diffusion, stable_diffusion_xl])
def test_a_controlnet_guides_by_a_picture(home, vocabulary, make):
    folder, name = home / "models" / make.__name__, make.__name__
    make(vocabulary).save_pretrained(folder)
    batch = drawn(home, name, image=PICTURE, strength=0.8, count=2)
    peer = diffusers.DiffusionPipeline.from_pretrained(folder)
    for index, ours in enumerate(batch):
        noise = tensors.noise([7 + index], (4, 32, 32))
        near(ours, peer("red fox", image=IMAGE, controlnet_conditioning_scale=0.8, latents=noise, **CALL).images[0])
    (less,) = drawn(home, name, image=PICTURE, strength=0.05)
    assert np.abs(less - batch[0]).max() > 10
    with pytest.raises(BadRequest, match="goes by a picture, too; choose one"):
        drawn(home, name)
    with pytest.raises(BadRequest, match="ControlNetPipeline of diffusers paints under no mask"):
        Engine(home, "cpu").run(InpaintRequest(model=name, image=PICTURE, mask=PICTURE, **ASKED))


# ---------------------------------------------------------------- an IP-Adapter


@pytest.fixture(scope="module")
def adapted(home, vocabulary):
    """A folder with an IP-Adapter, as published."""
    torch.manual_seed(2)
    seeing = CLIPVisionModelWithProjection(CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=16,
        projection_dim=24,
    ))  # fmt: skip
    pipe = pipeline(vocabulary, 16, parts={"image_encoder": seeing}, **TEXT)
    folder = home / "models" / "adapted"
    pipe.save_pretrained(folder)
    weights = {
        "image_proj.proj.weight": torch.randn(4 * 32, 24), "image_proj.proj.bias": torch.randn(4 * 32),
        "image_proj.norm.weight": torch.ones(32), "image_proj.norm.bias": torch.zeros(32),
    }  # fmt: skip
    state = {name: value for name, value in pipe.unet.state_dict().items() if re.search(r"attn2\.to_[kv]\.", name)}
    order = [name for name in pipe.unet.attn_processors if "attn2" in name]
    for number, name in enumerate(order):
        for letter in "kv":
            shape = state[name.replace("processor", f"to_{letter}.weight")].shape
            weights[f"ip_adapter.{2 * number + 1}.to_{letter}_ip.weight"] = torch.randn(shape)
    save_file(weights, folder / "ip-adapter_tiny.safetensors")
    return folder


def test_an_ip_adapter_draws_what_is_like_a_picture(home, adapted):
    batch = drawn(home, "adapted", image=PICTURE, strength=0.7, count=2)
    peer = diffusers.StableDiffusionPipeline.from_pretrained(adapted)
    peer.load_ip_adapter(str(adapted), "", "ip-adapter_tiny.safetensors", image_encoder_folder=None)
    peer.set_ip_adapter_scale(0.7)
    for index, ours in enumerate(batch):
        near(ours, peer("red fox", ip_adapter_image=IMAGE, latents=tensors.noise([7 + index], (4, 32, 32)),
                        **CALL).images[0])  # fmt: skip
    (less,) = drawn(home, "adapted", image=PICTURE, strength=0.05)
    assert np.abs(less - batch[0]).max() > 10
    with pytest.raises(BadRequest, match="goes by a picture, too; choose one"):
        drawn(home, "adapted")


@pytest.mark.parametrize("change, words", [
    (lambda path, state: path.write_bytes(b"x" * 100), "ip-adapter_tiny.safetensors is no safetensors file"),
    (lambda path, state: save_file({"a": torch.zeros(2)}, path), "is no IP-Adapter that fits"),
    (lambda path, state: save_file({k: v for k, v in state.items() if ".1." not in k}, path), "is no IP-Adapter that"),
    (lambda path, state: save_file(state | {"image_proj.proj.bias": torch.full((128,), torch.nan)}, path), "NaN"),
    (lambda path, state: save_file(state, path.with_name("ip-adapter_more.safetensors")), "one alone is used"),
])
def test_a_damaged_ip_adapter_is_refused(adapted, change, words):
    path = adapted / "ip-adapter_tiny.safetensors"
    whole, state = path.read_bytes(), load_file(path)
    change(path, state)
    try:
        with pytest.raises(BadCheckpoint, match=words):
            folders.load(adapted)
    finally:
        path.with_name("ip-adapter_more.safetensors").unlink(missing_ok=True)
        path.write_bytes(whole)
