"""Transformers of taming-transformers: found by what is in the file, and equal to their published definition."""

import math
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from engines import catalog, tensors
from engines.checkpoints import models, taming
from engines.engine import Engine
from engines.errors import BadCheckpoint, BadRequest, Cancelled
from engines.vqgan import decoding, gpt
from engines.vqgan.autoencoder import VQGAN, AutoencoderConfig, CodebookConfig
from tests.tiny import request

WIDTH, LAYERS, SIDE, CODES, HEADS = 32, 3, 8, 40, 16
LOGITS = 1e-5


def attention_names(block):
    return [f"{block}.attn.{part}" for part in ("key", "query", "value", "proj")]


@pytest.fixture(scope="module")
def state():
    """The weights of a small model as a converted checkpoint of Net2NetTransformer holds them."""
    draw = torch.Generator().manual_seed(0)

    def linear(name, out, width):
        return {f"{name}.weight": torch.randn(out, width, generator=draw) * 1.5 / math.sqrt(width),
                f"{name}.bias": torch.randn(out, generator=draw) * 0.2}  # fmt: skip

    def norm(name):
        return {f"{name}.weight": 1 + 0.3 * torch.randn(WIDTH, generator=draw),
                f"{name}.bias": 0.1 * torch.randn(WIDTH, generator=draw)}  # fmt: skip

    net = {
        "tok_emb.weight": torch.randn(CODES, WIDTH, generator=draw),
        "pos_emb": torch.randn(1, SIDE**2, WIDTH, generator=draw),
        "head.weight": torch.randn(CODES, WIDTH, generator=draw) / 3,
        **norm("ln_f"),
    }
    for number in range(LAYERS):
        block = f"blocks.{number}"
        net |= norm(f"{block}.ln1") | norm(f"{block}.ln2")
        for name in attention_names(block):
            net |= linear(name, WIDTH, WIDTH)
        net |= linear(f"{block}.mlp.0", 4 * WIDTH, WIDTH) | linear(f"{block}.mlp.2", WIDTH, 4 * WIDTH)
        net[f"{block}.attn.mask"] = torch.ones(SIDE**2, SIDE**2).tril()[None, None]
    torch.manual_seed(0)
    vqgan = VQGAN(
        AutoencoderConfig(ch=32, ch_mult=(1, 1, 1, 1), num_res_blocks=1, attention_levels=(3,), z_channels=8,
                          embed_dim=8),
        CodebookConfig(CODES),
    )  # fmt: skip
    stage = vqgan.state_dict()
    stage["quantize.embedding.weight"] = torch.randn(CODES, 8, generator=draw)
    stage["loss.discriminator.main.0.weight"] = torch.zeros(4, 3, 4, 4)
    return {f"transformer.{name}": value for name, value in net.items()} | {
        f"first_stage_model.{name}": value for name, value in stage.items()
    }


@pytest.fixture(scope="module")
def home(tmp_path_factory, state):
    home = tmp_path_factory.mktemp("home")
    (home / "models").mkdir()
    save_file(state, home / "models" / "faces.safetensors")
    return home


@pytest.fixture(scope="module")
def model(home):
    return models.load(home / "models" / "faces.safetensors")


def published(state, tokens):
    """Logits `(B, T, CODES)` as the paper's code computes them (mingpt.GPT), all tokens at once."""

    def of(name, x):
        return x @ state[f"transformer.{name}.weight"].T + state[f"transformer.{name}.bias"]

    def normed(name, x):
        x = (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, unbiased=False, keepdim=True) + 1e-5)
        return x * state[f"transformer.{name}.weight"] + state[f"transformer.{name}.bias"]

    count, size = tokens.shape[1], WIDTH // HEADS
    x = state["transformer.tok_emb.weight"][tokens] + state["transformer.pos_emb"][:, :count]
    for number in range(LAYERS):
        block = f"blocks.{number}"
        inner = normed(f"{block}.ln1", x)
        k, q, v = (of(name, inner).view(-1, count, HEADS, size).transpose(1, 2)
                   for name in attention_names(block)[:3])  # fmt: skip
        seen = q @ k.transpose(2, 3) / math.sqrt(size)
        mask = state[f"transformer.{block}.attn.mask"][:, :, :count, :count]
        told = seen.masked_fill(mask == 0, -math.inf).softmax(-1) @ v
        x = x + of(f"{block}.attn.proj", told.transpose(1, 2).reshape(x.shape))
        x = x + of(f"{block}.mlp.2", F.gelu(of(f"{block}.mlp.0", normed(f"{block}.ln2", x))))
    return normed("ln_f", x) @ state["transformer.head.weight"].T


def some_tokens(count=SIDE**2):
    return torch.randint(0, CODES, (2, count), generator=torch.Generator().manual_seed(3))


# ---------------------------------------------------------------- the file


def test_it_is_found_by_its_content(home):
    row = catalog.catalog(home)["faces"]
    assert (row.family, row.tasks) == ("taming-transformer", ("generate",))


def shapes_of(codes, width, tokens):
    layers = "encoder.conv_in", "encoder.down.0.block.0.conv2", "post_quant_conv", "decoder.conv_in"
    first = {f"{name}.weight": (32, 32, 1, 1) for name in layers} | {"quantize.embedding.weight": (codes, 32)}
    gpt_shapes = {"tok_emb.weight": (codes, width), "pos_emb": (1, tokens, width), "blocks.0.ln1.weight": (width,)}
    return {f"first_stage_model.{name}": shape for name, shape in first.items()} | {
        f"transformer.{name}": shape for name, shape in gpt_shapes.items()
    }


@pytest.mark.parametrize("codes, width, heads, classes", [(16384, 1536, 24, 1000), (1024, 1664, 16, 0)])
def test_what_no_tensor_tells_is_that_of_the_published_models(codes, width, heads, classes):
    _, config, _, _ = taming.detect(shapes_of(codes, width, 256))
    assert (config["side"], config["heads"], config["classes"]) == (16, heads, classes)


def test_one_that_draws_by_a_map_is_refused():
    with pytest.raises(BadCheckpoint, match="by a map .* choose"):
        taming.detect(shapes_of(1024, 1024, 512))


def test_what_is_missing_or_strange_is_named_as_the_file_calls_it(tmp_path, state):
    def refused(changed, words):
        save_file(changed, tmp_path / "bad.safetensors")
        with pytest.raises(BadCheckpoint, match=re.escape(words)):
            models.load(tmp_path / "bad.safetensors")

    for lost in ("transformer.blocks.1.mlp.2.bias", "first_stage_model.decoder.conv_out.weight"):
        refused({name: value for name, value in state.items() if name != lost}, f"{lost} is missing")
    for more in ("cond_stage_model.embed.weight", "transformer.blocks.0.attn.gate"):
        refused(state | {more: torch.zeros(3)}, f"{more} is not part of the model")
    wrong = "transformer.blocks.2.attn.key.weight"
    refused(state | {wrong: torch.zeros(WIDTH, 2 * WIDTH)}, f"{wrong} has shape")


# ---------------------------------------------------------------- the net


@torch.no_grad()
def test_the_logits_equal_the_published_computation_with_and_without_what_is_kept(model, state):
    tokens = some_tokens()
    expected = published(state, tokens)
    found, _ = model.transformer(tokens)
    assert expected.std() > 0.5 and (found - expected).abs().max() < LOGITS
    past, parts = None, []
    for part in tokens.split([5, 1, 1, 7, *[1] * (SIDE**2 - 14)], dim=1):
        logits, past = model.transformer(part, past)
        parts.append(logits)
    assert (torch.cat(parts, 1) - expected).abs().max() < LOGITS


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"temperature": 0.5, "top_k": 9}, {"top_p": 0.7}, {"temperature": 0.0}])
def test_what_follows_is_the_same_without_what_is_kept(model, state, options):
    first, noise = torch.tensor([0, 7]), decoding.Chance([4, 5], SIDE, SIDE).gumbel(CODES)

    def anew(token, tokens):  # in the place of keys and values, all tokens
        tokens = token if tokens is None else torch.cat([tokens, token], 1)
        return published(state, tokens), tokens

    found = gpt.follow(model.transformer, first, noise, **options)
    assert torch.equal(found, gpt.follow(anew, first, noise, **options))
    assert found.shape == (2, SIDE**2) and len(found.unique()) > 3


# ---------------------------------------------------------------- pictures


def asked(**fields):
    return request(**{"model": "faces", "prompt": "3", "cfg_scale": 1.0, "temperature": 1.0} | fields)


@pytest.fixture(scope="module")
def engine(home):
    return Engine(home, "cpu")


def drawn(engine, **fields):
    return [np.asarray(picture.image).astype(int) for picture in engine.run(asked(**fields)).pictures]


@torch.no_grad()
def test_a_picture_is_that_of_its_class_and_seed_in_a_batch_too(engine, model):
    batch = drawn(engine, count=2, seed=8)
    for seed, picture in zip((8, 9), batch, strict=True):
        noise = decoding.Chance([seed], SIDE, SIDE).gumbel(CODES)
        tokens = gpt.follow(model.transformer, torch.tensor([3]), noise).view(1, SIDE, SIDE)
        assert np.abs(picture - np.asarray(tensors.to_images(model.decode(tokens))[0])).max() <= 1
    assert np.abs(batch[0] - batch[1]).mean() > 1
    assert not np.array_equal(batch[0], drawn(engine, seed=8, prompt="4")[0])
    assert np.array_equal(drawn(engine, seed=8, prompt="")[0], drawn(engine, seed=8, prompt="0")[0])
    varied = drawn(engine, seed=1, variation_seed=9, variation_strength=1.0)[0]
    assert np.abs(batch[1] - varied).max() <= 1


def test_it_shows_what_it_draws_and_stops(engine):
    seen = []

    def stop(progress):
        seen.append(progress)
        if progress.index == 40:
            raise Cancelled

    with pytest.raises(Cancelled):
        engine.run(asked(), stop)
    assert len(seen) == 40 and seen[0].count == SIDE**2
    assert [progress.preview.size for progress in seen if progress.preview] == [(64, 64)] * 5


REFUSED = {
    "a size": ({"width": 128, "height": 128}, "draws 64x64 alone"),
    "words": ({"prompt": "a fox"}, "number of a class, from 0 to 39, or nothing"),
    "a class too many": ({"prompt": "40"}, "from 0 to 39"),
    "guidance": ({"cfg_scale": 2.0}, "no guidance"),
    "a style": ({"style": "flat"}, "no guidance, negative words or styles"),
    "a picture": ({"image": b"x"}, "begins from nothing"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_it_cannot_be_asked_is_refused(engine, name):
    fields, words = REFUSED[name]
    with pytest.raises(BadRequest, match=words):
        engine.run(asked(**fields))


def test_where_it_is_known_a_class_must_be_named_or_there_is_none():
    def first(classes, prompt):
        model = gpt.RasterGenerator.__new__(gpt.RasterGenerator)
        torch.nn.Module.__init__(model)
        model.config = gpt.GPTConfig(2000, SIDE, WIDTH, LAYERS, HEADS, classes)
        return model.first(prompt)

    assert (first(1000, "999"), first(0, ""), first(None, "")) == (999, 0, 0)
    for prompt in ("", "1000", "fox", "-1", "1.0", "９"):
        with pytest.raises(BadRequest, match="from 0 to 999.$"):
            first(1000, prompt)
    with pytest.raises(BadRequest, match="leave the prompt empty"):
        first(0, "3")

