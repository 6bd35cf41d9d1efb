"""A pipeline of diffusers in `models/` is a model beside ours: same noise, same fields, previews and Stop."""

import json

import diffusers
import numpy as np
import pytest
from diffusers import StableDiffusionImg2ImgPipeline

from engines import catalog, requests, tensors
from engines.engine import Engine
from engines.errors import BadCheckpoint, BadRequest, Cancelled
from engines.pipelines import folders, schedulers
from tests import tiny
from tests.peers import pipeline

IMAGE = tiny.picture(64, 64)
PICTURE = tiny.png(IMAGE)


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    """A Stable Diffusion of random weights, small."""
    folder = tmp_path_factory.mktemp("tokenizer")
    words = ["<|startoftext|>", "<|endoftext|>", "!", "r", "e", "re", "d</w>", "red</w>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\nr e\nre d</w>\n")
    return pipeline(
        folder, 16, vocab_size=8, intermediate_size=64, num_hidden_layers=2, bos_token_id=0, eos_token_id=1
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory, pipe):
    home = tmp_path_factory.mktemp("home")
    pipe.save_pretrained(home / "models" / "peer")
    tiny.save(home / "models" / "painter.safetensors", tiny.latent_diffusion())
    return home


def asked(**fields):
    return tiny.request(**{"model": "peer", "prompt": "red", "sampler": "ddim", "steps": 4} | fields)


def drawn(engine, **fields):
    return [np.asarray(picture.image).astype(int) for picture in engine.run(asked(**fields)).pictures]


@pytest.fixture(scope="module")
def engine(home):
    return Engine(home, "cpu")


def test_the_folder_is_in_the_catalog(home):
    rows = {name: row for name, row in catalog.catalog(home).items() if row.path and row.path.is_relative_to(home)}
    assert set(rows) == {"peer", "peer-ours", "painter", "mirror"}  # and once more, by our engine
    assert (rows["peer"].family, rows["peer"].tasks) == ("diffusers", ("generate",)) and rows["peer"].bytes > 10**5


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
    ({"cfg_start": 0.5}, "has no cfg_start"), ({"width": 96}, None),
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


def test_a_broken_folder_gets_a_sentence(tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    with pytest.raises(BadCheckpoint, match="broken is no pipeline"):
        folders.load(tmp_path / "broken")
