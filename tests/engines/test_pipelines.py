"""A pipeline of diffusers in `models/` is a model beside ours: same noise, same fields, previews and Stop."""

import copy
import json

import diffusers
import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline
from PIL import Image

from engines import catalog, requests, tensors
from engines.engine import Engine
from engines.errors import BadCheckpoint, BadRequest, Cancelled
from engines.pipelines import folders, schedulers
from engines.pipelines.pipeline import Pipeline
from tests import tiny
from tests.peers import pipeline

IMAGE = tiny.picture(64, 64)
PICTURE = tiny.png(IMAGE)


TEXT = {"vocab_size": 8, "intermediate_size": 64, "num_hidden_layers": 2, "bos_token_id": 0, "eos_token_id": 1}


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    """The folder of a vocabulary."""
    folder = tmp_path_factory.mktemp("tokenizer")
    words = ["<|startoftext|>", "<|endoftext|>", "!", "r", "e", "re", "d</w>", "red</w>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\nr e\nre d</w>\n")
    return folder


@pytest.fixture(scope="module")
def pipe(vocabulary):
    """A Stable Diffusion of random weights, small."""
    return pipeline(vocabulary, 16, **TEXT)


@pytest.fixture(scope="module")
def home(tmp_path_factory, vocabulary, pipe):
    home = tmp_path_factory.mktemp("home")
    pipe.save_pretrained(home / "models" / "peer")
    tiny.save(home / "models" / "painter.safetensors", tiny.latent_diffusion())
    pipeline(vocabulary, 16, StableDiffusionInpaintPipeline, 9, **TEXT).save_pretrained(home / "models" / "nine")
    return home


def asked(**fields):
    return tiny.request(**{"model": "peer", "prompt": "red", "sampler": "ddim", "steps": 4} | fields)


def drawn(engine, **fields):
    return [np.asarray(picture.image).astype(int) for picture in engine.run(asked(**fields)).pictures]


def painted(engine, **fields):
    asked = {"model": "peer", "prompt": "red", "image": PICTURE, "sampler": "ddim", "steps": 4, "seed": 7} | fields
    return [np.asarray(picture.image).astype(int) for picture in engine.run(requests.InpaintRequest(**asked)).pictures]


@pytest.fixture(scope="module")
def engine(home):
    return Engine(home, "cpu")


def test_the_folder_is_in_the_catalog(home):
    rows = {name: row for name, row in catalog.catalog(home).items() if row.path and row.path.is_relative_to(home)}
    assert set(rows) == {"peer", "peer-ours", "nine", "nine-ours", "painter", "mirror"}  # and once more, by our engine
    assert (rows["peer"].family, rows["peer"].tasks) == ("diffusers", ("generate", "inpaint"))
    assert rows["peer"].bytes > 10**5


def test_it_draws_what_diffusers_draws_from_our_noise(engine, pipe):
    (ours,) = drawn(engine, seed=7)
    pipe.set_progress_bar_config(disable=True)
    theirs = pipe(["red"], negative_prompt=[""], height=64, width=64, num_inference_steps=4, guidance_scale=4.0,
                  latents=tensors.noise([7], (4, 32, 32))).images[0]  # fmt: skip
    assert np.abs(ours - np.asarray(theirs).astype(int)).max() <= 2


def test_a_picture_is_of_its_own_seed_in_a_batch_too(engine):
    batch = drawn(engine, count=2, seed=3)
    for index, picture in enumerate(batch):
        assert np.abs(picture - drawn(engine, seed=3 + index)[0]).max() <= 2


@pytest.mark.parametrize("sampler", schedulers.SCHEDULERS)
def test_samplers_have_their_schedulers(engine, sampler):
    assert sampler in requests.SAMPLERS
    (picture,) = drawn(engine, sampler=sampler)
    assert picture.shape == (64, 64, 3)


@pytest.mark.parametrize("sampler", ["ddim", "euler_ancestral"])
def test_from_a_picture_it_draws_what_diffusers_draws(engine, home, sampler):
    batch = drawn(engine, image=PICTURE, strength=0.5, seed=3, count=2, sampler=sampler, negative="re")
    peer = StableDiffusionImg2ImgPipeline.from_pretrained(home / "models" / "peer")
    peer.scheduler = getattr(diffusers, schedulers.SCHEDULERS[sampler][0]).from_config(peer.scheduler.config)
    for index, ours in enumerate(batch):  # each by itself there
        (theirs,) = peer(
            "red", IMAGE, 0.5, 4, guidance_scale=4.0, negative_prompt="re",
            generator=tensors.generator(3 + index),
        ).images  # fmt: skip
        assert np.abs(ours - np.asarray(theirs).astype(int)).max() <= 2
    assert np.abs(batch[0] - batch[1]).max() > 10


@pytest.mark.parametrize("model", ["peer", "nine"])
def test_under_a_mask_it_paints_what_diffusers_paints_and_the_rest_stays(engine, home, model):
    peer = StableDiffusionInpaintPipeline.from_pretrained(home / "models" / model)
    source, hole = np.asarray(IMAGE), np.zeros((64, 64), np.uint8)
    hole[12:50, 20:44] = 255
    for strength in (1.0, 0.5):
        (theirs,) = peer("red", IMAGE, Image.fromarray(hole), height=64, width=64, strength=strength,
                         num_inference_steps=4, guidance_scale=4.0, generator=tensors.generator(7)).images  # fmt: skip
        (ours,) = painted(
            engine, model=model, mask=tiny.png(Image.fromarray(hole)), strength=strength, area="whole", match="none",
            begin="picture", feather=0,
        )  # fmt: skip
        assert np.array_equal(ours[hole == 0], source[hole == 0])
        assert np.abs(ours - np.asarray(theirs).astype(int))[hole > 0].max() <= 2


@pytest.mark.parametrize("model", ["peer", "nine"])
def test_the_thinnest_scratch_of_a_larger_picture_is_painted_and_nothing_else(engine, model):
    image, scratch = tiny.picture(150, 110), np.zeros((110, 150), np.uint8)
    scratch[31, 21:120] = 255
    batch = painted(
        engine, model=model, image=tiny.png(image), mask=tiny.png(Image.fromarray(scratch)), feather=0, area="whole",
        count=2,
    )  # fmt: skip
    for picture in batch:
        changed = (picture != np.asarray(image)).any(2)
        assert not changed[scratch == 0].any() and changed[scratch > 0].mean() > 0.9
    assert np.abs(batch[0] - batch[1]).max() > 5


def test_painting_is_told_of_and_stops(engine):
    seen, mask = [], tiny.png(Image.new("L", (64, 64), 255))
    request = {"model": "peer", "image": PICTURE, "mask": mask, "prompt": "red", "strength": 0.35, "steps": 20}

    def report(progress):
        seen.append(progress)
        if progress.index == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        engine.run(requests.InpaintRequest(**request, area="whole"), report)
    assert [(progress.index, progress.count) for progress in seen] == [(1, 7), (2, 7), (3, 7)]
    assert seen[0].preview.size == (64, 64)


def test_a_net_that_inpaints_draws_with_all_under_its_mask(engine, home):
    peer = StableDiffusionInpaintPipeline.from_pretrained(home / "models" / "nine")
    everything, grey = Image.new("L", (64, 64), 255), Image.new("RGB", (64, 64), (128, 128, 128))
    call = {"height": 64, "width": 64, "num_inference_steps": 4, "guidance_scale": 4.0}
    start = {"latents": tensors.noise([7], (4, 32, 32)), "generator": tensors.generator(7)}
    (theirs,) = peer("red", grey, everything, **start, **call).images
    assert np.abs(drawn(engine, model="nine")[0] - np.asarray(theirs).astype(int)).max() <= 2
    (theirs,) = peer("red", IMAGE, everything, strength=0.5, generator=tensors.generator(7), **call).images
    (ours,) = drawn(engine, model="nine", image=PICTURE, strength=0.5)
    assert np.abs(ours - np.asarray(theirs).astype(int)).max() <= 2


@pytest.mark.parametrize("image, count", [(None, 6), (PICTURE, 3)])
def test_progress_previews_and_stop(engine, image, count):
    seen = []

    def report(progress):
        seen.append(progress)
        if progress.index == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        engine.run(asked(steps=6, image=image), report)
    assert [(progress.index, progress.count) for progress in seen] == [(1, count), (2, count)]
    assert seen[0].preview.size == (64, 64)


def test_the_record_names_the_content_of_the_folder(engine, home):
    record = engine.run(asked()).record
    assert len(record["model_sha256"]) == 64
    extra = home / "models" / "peer" / "more.txt"
    extra.write_text("x")
    try:
        assert Engine(home, "cpu").run(asked()).record["model_sha256"] != record["model_sha256"]
    finally:
        extra.unlink()


@pytest.mark.parametrize("fields, words", [
    ({"sampler": "lms"}, "has no lms"), ({"scheduler": "karras"}, "ddim of diffusers knows no karras"),
    ({"sampler": "euler", "scheduler": "simple"}, "knows no simple"),
    ({"sampler": "euler", "scheduler": "karras"}, None),
    ({"cfg_start": 0.5}, "has no cfg_start"), ({"width": 96}, None), ({"prompt": "red " * 14}, None),
    ({"prompt": "red " * 15}, "The prompt has 17 tokens .* reads 16: shorten it"),
    ({"negative": "red " * 20}, "The negative has 22 tokens"),
    ({"image": PICTURE, "cfg_rescale": 0.5}, "Img2ImgPipeline of diffusers has no cfg_rescale"),
    ({"image": PICTURE, "variation_strength": 0.5}, "has no variation_strength"),
    ({"image": PICTURE, "strength": 0.2}, "leaves nothing of 4 steps; ask for at least 5"),
    ({"image": PICTURE, "strength": 0.2, "steps": 5, "width": 96}, None),
])
def test_what_it_cannot_do_gets_a_sentence(engine, fields, words):
    if words is None:
        assert drawn(engine, **fields)[0].shape == (64, fields.get("width", 64), 3)
        return
    with pytest.raises(BadRequest, match=words):
        engine.run(asked(**fields))


@pytest.mark.parametrize("fields, words", [
    ({"jumps": 1}, "InpaintPipeline of diffusers has no jumps"), ({"cfg_end": 0.5}, "has no cfg_end"),
    ({"strength": 0.2}, "leaves nothing of 4 steps; ask for at least 5"),
])
def test_what_it_cannot_do_under_a_mask_gets_a_sentence(engine, fields, words):
    with pytest.raises(BadRequest, match=words):
        painted(engine, mask=tiny.png(Image.new("L", (64, 64), 255)), **fields)


def test_a_broken_folder_gets_a_sentence(tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    with pytest.raises(BadCheckpoint, match="broken is no pipeline"):
        folders.load(tmp_path / "broken")


def test_an_autoencoder_that_overflows_in_half_precision_decodes_in_float32(pipe):
    halved = copy.deepcopy(pipe)
    halved.vae.to(torch.float16).register_to_config(force_upcast=True)
    whole = copy.deepcopy(halved.vae).float()
    latents = torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        found = Pipeline(halved).decode(latents)
        expected = whole.decode(latents / whole.config.scaling_factor).sample
    assert torch.equal(found, expected) and halved.vae.dtype == torch.float16
