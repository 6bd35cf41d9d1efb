"""Kinds of pipelines of diffusers in `models/`: each draws what its own class draws, called directly."""

import json
import re
import resource
import shutil

import diffusers
import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, DDIMScheduler, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from engines import catalog, tensors
from engines.engine import Engine
from engines.errors import BadCheckpoint, BadRequest
from engines.pipelines import folders
from engines.requests import InpaintRequest
from tests import tiny
from tests.engines.checkpoints.test_damaged import ROOM
from tests.engines.checkpoints.test_stable_diffusion import WORDS, write_vocabulary
from tests.peers import pipeline, randomise

IMAGE = tiny.picture(64, 64)
PICTURE = tiny.png(IMAGE)
HOLE = np.zeros((64, 64), np.uint8)
HOLE[12:52, 20:44] = 255
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


def painted(home, name, theirs, **fields):
    """Asserts that under `HOLE` the model paints `theirs`, and nothing else."""
    request = InpaintRequest(
        model=name, image=PICTURE, mask=tiny.png(Image.fromarray(HOLE)), area="whole", match="none", begin="picture",
        feather=0, seed=7, **ASKED | fields,
    )  # fmt: skip
    ours = np.asarray(Engine(home, "cpu").run(request).pictures[0].image).astype(int)
    assert np.array_equal(ours[HOLE == 0], np.asarray(IMAGE)[HOLE == 0])
    near(ours[HOLE > 0], np.asarray(theirs)[HOLE > 0])


def second_encoder(width):
    return CLIPTextModelWithProjection(CLIPTextConfig(
        hidden_size=width, num_attention_heads=2, max_position_embeddings=16, projection_dim=width, **TEXT
    ))  # fmt: skip


# ---------------------------------------------------------------- Stable Diffusion XL


def xl(vocabulary):
    parts = pipeline(vocabulary, 16, **TEXT).components
    torch.manual_seed(1)
    unet = UNet2DConditionModel(
        sample_size=32, block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=8, cross_attention_dim=64,
        attention_head_dim=4, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 32, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    return diffusers.StableDiffusionXLPipeline(
        vae=parts["vae"], text_encoder=parts["text_encoder"], text_encoder_2=second_encoder(32), unet=unet,
        tokenizer=parts["tokenizer"], tokenizer_2=parts["tokenizer"], scheduler=SCHEDULER, add_watermarker=False,
    )  # fmt: skip


def test_xl_draws_from_words_from_a_picture_and_under_a_mask(home, vocabulary):
    folder = home / "models" / "xl"
    xl(vocabulary).save_pretrained(folder)
    kinds = diffusers.StableDiffusionXLPipeline, diffusers.StableDiffusionXLImg2ImgPipeline
    words, picture = (kind.from_pretrained(folder) for kind in kinds)
    noise = {"latents": tensors.noise([7], (4, 32, 32))}
    near(drawn(home, "xl", cfg_rescale=0.5)[0], words("red fox", guidance_rescale=0.5, **noise, **CALL).images[0])
    call = {"image": IMAGE, "strength": 0.5, "num_inference_steps": 4, "guidance_scale": 4.0}
    (theirs,) = picture("red fox", generator=tensors.generator(7), **call).images
    near(drawn(home, "xl", image=PICTURE, strength=0.5)[0], theirs)
    mask = Image.fromarray(HOLE)
    (theirs,) = diffusers.StableDiffusionXLInpaintPipeline.from_pretrained(folder)(
        "red fox", mask_image=mask, generator=tensors.generator(7), height=64, width=64, **call
    ).images
    painted(home, "xl", theirs, strength=0.5)


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
    parts = xl(vocabulary).components
    return diffusers.StableDiffusionXLControlNetPipeline(
        **parts, controlnet=control(parts["unet"]), add_watermarker=False
    )


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


def test_an_adapter_is_of_diffusers_alone(home, adapted):
    rows = catalog.catalog(home)
    assert rows["adapted"].family == "diffusers" and "adapted-ours" not in rows


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


# ---------------------------------------------------------------- nets that are transformers


def autoencoder(channels):
    return diffusers.AutoencoderKL(
        block_out_channels=(32, 32), latent_channels=channels, norm_num_groups=8, shift_factor=0.1,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip


def pixart(parts):
    words = [(word, -1.0) for word in ("<pad>", "</s>", "<unk>", "▁red", "▁fox")]
    return diffusers.PixArtAlphaPipeline(
        tokenizer=T5Tokenizer(vocab=words, extra_ids=0), vae=autoencoder(4), scheduler=SCHEDULER,
        text_encoder=T5EncoderModel(T5Config(vocab_size=8, d_model=32, d_ff=32, d_kv=8, num_layers=1, num_heads=2)),
        transformer=randomise(diffusers.PixArtTransformer2DModel(
            num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=1, sample_size=32,
            cross_attention_dim=16, norm_num_groups=8, patch_size=2, caption_channels=32,
            use_additional_conditions=False,
        )),
    )  # fmt: skip


def stable_diffusion_3(parts):
    return diffusers.StableDiffusion3Pipeline(
        vae=autoencoder(16), scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        text_encoder=second_encoder(32), tokenizer=parts["tokenizer"],
        text_encoder_2=second_encoder(32), tokenizer_2=parts["tokenizer"], text_encoder_3=None, tokenizer_3=None,
        transformer=randomise(diffusers.SD3Transformer2DModel(
            sample_size=32, patch_size=2, in_channels=16, out_channels=16, num_layers=1, attention_head_dim=8,
            num_attention_heads=2, joint_attention_dim=64, caption_projection_dim=16, pooled_projection_dim=64,
            pos_embed_max_size=96,
        )),
    )  # fmt: skip


def amused(parts):
    return diffusers.AmusedPipeline(
        tokenizer=parts["tokenizer"], text_encoder=second_encoder(32),
        scheduler=diffusers.AmusedScheduler(mask_token_id=31),
        vqvae=diffusers.VQModel(
            block_out_channels=(32, 32), latent_channels=8, norm_num_groups=8, num_vq_embeddings=24, sample_size=8,
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
            mid_block_add_attention=False, lookup_from_codebook=True,
        ),
        transformer=randomise(diffusers.UVit2DModel(
            hidden_size=32, use_bias=False, hidden_dropout=0.0, cond_embed_dim=32, micro_cond_encode_dim=2,
            micro_cond_embed_dim=10, encoder_hidden_size=32, vocab_size=32, codebook_size=24, in_channels=32,
            block_out_channels=32, num_res_blocks=1, downsample=True, upsample=True, block_num_heads=1,
            num_hidden_layers=1, num_attention_heads=1, attention_dropout=0.0, intermediate_size=32,
            layer_norm_eps=1e-6, ln_elementwise_affine=True,
        )),
    )  # fmt: skip


@pytest.fixture(scope="module")
def transformers_at_home(home, vocabulary):
    torch.manual_seed(3)
    parts = pipeline(vocabulary, 16, **TEXT).components
    for make in (pixart, stable_diffusion_3, amused):
        make(parts).save_pretrained(home / "models" / make.__name__)
    return home


def opened(home, name, kind=diffusers.DiffusionPipeline):
    absent = {"text_encoder_3": None, "tokenizer_3": None} if name == "stable_diffusion_3" else {}
    return kind.from_pretrained(home / "models" / name, **absent)


CALLS = {  # the sampler that is the folder's own, and how its class is called directly
    "pixart": ("ddim", lambda seed: {
        "latents": tensors.noise([seed], (4, 32, 32)), "use_resolution_binning": False, "clean_caption": False,
    }),
    "stable_diffusion_3": ("euler", lambda seed: {"latents": tensors.noise([seed], (16, 32, 32))}),
    "amused": ("ddim", lambda seed: {"generator": tensors.generator(seed)}),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_a_transformer_draws_what_its_class_draws(transformers_at_home, name):
    sampler, given = CALLS[name]
    peer, seen = opened(transformers_at_home, name), []
    request = tiny.request(model=name, count=2, **ASKED | {"sampler": sampler, "negative": "a fox"})
    result = Engine(transformers_at_home, "cpu").run(request, seen.append)
    for index, picture in enumerate(result.pictures):
        (theirs,) = peer("red fox", negative_prompt="a fox", **given(7 + index), **CALL).images
        near(np.asarray(picture.image).astype(int), theirs)
    first, second = (np.asarray(picture.image).astype(int) for picture in result.pictures)
    assert np.abs(first - second).max() > 10
    steps = 8 if name == "amused" else 4  # by itself each, or both at once
    assert [(progress.index, progress.count) for progress in seen] == [(i, steps) for i in range(1, steps + 1)]
    assert seen[0].preview.width >= 64 and np.asarray(seen[0].preview).std() > 1


def test_the_solvers_of_a_flow_come_to_the_same_picture(transformers_at_home):
    found = [drawn(transformers_at_home, "stable_diffusion_3", sampler=name, steps=steps, cfg_scale=1.0)[0]
             for name, steps in (("euler", 150), ("heun", 50), ("dpmpp_2m", 50), ("unipc", 50))]  # fmt: skip
    other = drawn(transformers_at_home, "stable_diffusion_3", sampler="euler", steps=2, cfg_scale=1.0)[0]
    for picture in found[1:]:
        assert np.abs(picture - found[0]).mean() < np.abs(other - found[0]).mean() / 4


def test_a_flow_begins_from_a_picture_and_paints_under_a_mask(transformers_at_home):
    name, call = "stable_diffusion_3", CALL | {"image": IMAGE, "strength": 0.5}
    peer = opened(transformers_at_home, name, diffusers.StableDiffusion3Img2ImgPipeline)
    (ours,) = drawn(transformers_at_home, name, image=PICTURE, strength=0.5, sampler="euler")
    near(ours, peer("red fox", generator=tensors.generator(7), **call).images[0])
    peer = diffusers.StableDiffusion3InpaintPipeline(**peer.components)
    (theirs,) = peer("red fox", generator=tensors.generator(7), mask_image=Image.fromarray(HOLE), **call).images
    painted(transformers_at_home, name, theirs, strength=0.5, sampler="euler")


@pytest.mark.parametrize("name, fields, words", [
    ("pixart", {"image": PICTURE}, "PixArtAlphaPipeline of diffusers begins from noise alone"),
    ("pixart", {"cfg_rescale": 0.5}, "has no cfg_rescale"),
    ("pixart", {"prompt": "red " * 120}, "The prompt has 121 tokens .* reads 120"),
    ("stable_diffusion_3", {"prompt": "red fox " * 20, "sampler": "euler"}, "this model reads 16"),
    ("pixart", {"sampler": "lms"}, "has no lms"),
    ("stable_diffusion_3", {"sampler": "ddim"}, "with the linear schedule and euler or heun or dpmpp_2m or unipc"),
    ("stable_diffusion_3", {"sampler": "euler", "scheduler": "karras"}, "with the linear schedule"),
    ("stable_diffusion_3", {"sampler": "unipc", "image": PICTURE}, "from a picture by diffusers .* euler or heun;"),
    ("amused", {"image": PICTURE}, "AmusedPipeline of diffusers begins from noise alone"),
    ("amused", {"temperature": 1.5}, "has no temperature"),
    ("amused", {"variation_strength": 0.5}, "has no variation_strength"),
])
def test_what_a_transformer_cannot_do_gets_a_sentence(transformers_at_home, name, fields, words):
    with pytest.raises(BadRequest, match=words):
        drawn(transformers_at_home, name, **fields)


def test_tokens_paint_under_no_mask(transformers_at_home):
    with pytest.raises(BadRequest, match="AmusedPipeline of diffusers paints under no mask"):
        Engine(transformers_at_home, "cpu").run(InpaintRequest(model="amused", image=PICTURE, mask=PICTURE, **ASKED))


def test_a_family_that_is_not_used_is_refused(transformers_at_home, tmp_path):
    index = "model_index.json"
    shutil.copytree(transformers_at_home / "models" / "stable_diffusion_3", tmp_path / "other")
    text = (tmp_path / "other" / index).read_text()
    (tmp_path / "other" / index).write_text(text.replace("StableDiffusion3Pipeline", "StableDiffusion3PAGPipeline"))
    with pytest.raises(BadCheckpoint, match="StableDiffusion3PAGPipeline; used are .* PixArtAlpha, PixArtSigma"):
        folders.load(tmp_path / "other")


@pytest.mark.parametrize("name, field, number", [
    ("pixart", "sample_size", 10**4), ("pixart", "sample_size", 10**6), ("pixart", "num_layers", 10**6),
    ("stable_diffusion_3", "pos_embed_max_size", 10**4), ("stable_diffusion_3", "num_layers", 10**6),
    ("amused", "vocab_size", 10**6), ("amused", "num_hidden_layers", 10**6),
])
def test_a_vast_transformer_is_refused_before_it_takes_memory(transformers_at_home, tmp_path, name, field, number):
    shutil.copytree(transformers_at_home / "models" / name, tmp_path / "vast")
    path = tmp_path / "vast" / "transformer" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: number}))
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BadCheckpoint, match="transformer"):
        folders.load(tmp_path / "vast")
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - most) * 1024 < ROOM


# ---------------------------------------------------------------- weights in many files, and in variants


@pytest.fixture(scope="module")
def shards(home, vocabulary):
    """A folder whose weights lie in several files each, in half precision, under the names of that variant."""
    folder = home / "models" / "shards"
    pipeline(vocabulary, 16, **TEXT).to(torch.float16).save_pretrained(folder, variant="fp16", max_shard_size="100KB")
    assert len(list(folder.glob("unet/*.fp16-*.safetensors"))) > 2 and not list(folder.glob("*/*model.safetensors"))
    return folder


def test_weights_in_many_files_of_half_precision_draw(home, shards):
    peer = diffusers.StableDiffusionPipeline.from_pretrained(shards, variant="fp16", torch_dtype=torch.float32)
    near(drawn(home, "shards")[0], peer("red fox", latents=tensors.noise([7], (4, 32, 32)), **CALL).images[0])


def index(change):
    def act(folder):
        path = folder / "unet" / "diffusion_pytorch_model.safetensors.index.fp16.json"
        path.write_text(json.dumps(change(json.loads(path.read_text()))))

    return act


@pytest.mark.parametrize("act, words", [
    (lambda folder: next(folder.glob("unet/*00002*")).unlink(), "fp16-00002-of-.*cannot be opened"),
    (lambda folder: next(folder.glob("unet/*00002*")).write_bytes(b"x" * 50), "is no safetensors file"),
    (lambda folder: save_file({"evil": torch.zeros(2)}, next(folder.glob("unet/*00002*"))), "is missing"),
    (index(lambda found: {"weight_map": {"conv_in.weight": "../../evil.safetensors"}}), "does not tell its files"),
    (index(lambda found: {"weight_map": {"conv_in.weight": ["a"]}}), "does not tell its files apart"),
    (index(lambda found: [found]), "does not tell its files apart"),
    (lambda folder: (folder / "unet" / "config.json").write_text((folder / "unet" / "config.json").read_text().replace(
        '"layers_per_block": 1', '"layers_per_block": 1000000000')), "above 10000000"),
])
def test_damaged_weights_in_many_files_are_refused(shards, tmp_path, act, words):
    shutil.copytree(shards, tmp_path / "shards")
    act(tmp_path / "shards")
    with pytest.raises(BadCheckpoint, match=words):
        folders.load(tmp_path / "shards")
