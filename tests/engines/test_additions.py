"""What prompts name beside their words: how it reaches the picture and its record, and what is refused."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from engines import catalog, requests
from engines.checkpoints import files
from engines.engine import Engine
from engines.errors import BadCheckpoint, BadRequest, Cancelled
from tests import tiny

LAYERS = ("middle_block_1_proj_in", "input_blocks_3_1_transformer_blocks_0_attn2_to_k", "output_blocks_0_0_in_layers_2")


def a_lora(model, seed):
    """A random LoRA of some layers of a tiny model, as kohya writes it."""
    generator, state = torch.Generator().manual_seed(seed), {}
    modules = {name.replace(".", "_"): module for name, module in model.unet.named_modules()}
    for name in LAYERS:
        out, *inner = modules[name].weight.shape
        up, down = (out, 2, *(1 for _ in inner[1:])), (2, *inner)
        state[f"lora_unet_{name}.lora_up.weight"] = torch.randn(up, generator=generator)
        state[f"lora_unet_{name}.lora_down.weight"] = torch.randn(down, generator=generator)
        state[f"lora_unet_{name}.alpha"] = torch.tensor(2.0)
    return state


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    model = tiny.latent_diffusion()
    tiny.save(home / "models" / "painter.safetensors", model)
    tiny.save(home / "models" / "apart" / "tokens.safetensors", tiny.token_generator())
    for seed, name in enumerate(("ink", "wash v2")):
        save_file(a_lora(model, seed), home / "models" / f"{name}.safetensors")
    return home


@pytest.fixture(scope="module")
def engine(home):
    return Engine(home, "cpu")


def drawn(engine, prompt="", **fields):
    asked = tiny.request(**{"model": "painter", "prompt": prompt, "cfg_scale": 1.0} | fields)
    return [np.asarray(picture.image).tobytes() for picture in engine.run(asked).pictures]


def weights(engine):
    row = catalog.find("painter", home=engine.home)
    return {name: value.clone() for name, value in engine.load(row).state_dict().items()}


def test_a_lora_changes_the_picture_and_is_no_word(engine):
    before = weights(engine)
    plain, inked = drawn(engine, "red disc"), drawn(engine, "red disc<lora:ink:0.8>")
    assert plain != inked
    assert drawn(engine, "red disc <lora:ink:0>") == plain
    assert drawn(engine, "<lora:ink>red <lora:ink:-0.2>disc") == inked  # twice adds up, and 1 is understood
    both = drawn(engine, "red disc<lora:ink:.8><lora:wash v2:-1>")
    assert both not in (plain, inked) and both == drawn(engine, "<lora:wash v2:-1> <lora:ink:0.8> red disc")
    assert drawn(engine, "red disc") == plain
    after = weights(engine)
    assert all(torch.equal(after[name], before[name]) for name in before)
    crowd = " ".join(["<lora:ink:0.01>"] * 50)
    assert len(drawn(engine, f"red disc {crowd}")) == 1


def test_the_catalog_has_it_and_no_choice_of_a_model_does(home):
    row = catalog.catalog(home)["ink"]
    assert (row.family, row.tasks) == ("lora", ())
    with pytest.raises(BadRequest, match="“ink” cannot generate"):
        catalog.find("ink", "generate", home)
    with pytest.raises(BadCheckpoint, match="no model by itself.*write <lora:ink:1> into a prompt"):
        Engine(home, "cpu").run(requests.EngineRequest("load", "ink"))


def test_the_record_tells_of_the_file_and_makes_the_picture_again(engine, home):
    asked = tiny.request(model="painter", prompt="red disc <lora:ink:0.8><lora:ink:0.1>", count=2, cfg_scale=1.0)
    for picture in engine.run(asked).pictures:
        record = json.loads(json.dumps(picture.record))
        assert record["request"]["prompt"] == asked.prompt
        assert record["additions"]["ink"]["sha256"] == files.sha256(home / "models" / "ink.safetensors")
        assert record["additions"]["ink"]["weight"] == pytest.approx(0.9)
        again = engine.run(requests.from_json(json.dumps(record["request"]))).pictures[0]
        assert again.record == picture.record
        # alone or beside another, sums are rounded otherwise
        assert np.abs(np.asarray(again.image, int) - np.asarray(picture.image, int)).max() <= 1
    assert "additions" not in engine.run(tiny.request(model="painter")).pictures[0].record


def test_a_choice_may_hold_a_lora_of_one_picture(engine):
    either = "{red disc<lora:ink>|red disc<lora:wash v2>}"
    found = {seed: drawn(engine, either, seed=seed) for seed in range(4)}
    for seed, picture in found.items():
        assert picture == drawn(engine, requests.choose(either, seed), seed=seed)
    assert len({requests.choose(either, seed) for seed in found}) == 2
    with pytest.raises(BadRequest, match="choices of this prompt give its pictures different LoRAs"):
        drawn(engine, either, count=4)
    assert len(drawn(engine, "{red|blue} disc<lora:ink>", count=2)) == 2


@pytest.mark.parametrize("failure", [Cancelled(), ZeroDivisionError()], ids=["cancelled", "failed"])
def test_nothing_is_left_of_it_in_a_model_whose_task_was_cut(engine, failure):
    before = weights(engine)

    def stop(progress):
        raise failure

    with pytest.raises(type(failure)):
        engine.run(tiny.request(model="painter", prompt="disc <lora:ink:2>"), stop)
    after = weights(engine)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_every_task_by_words_takes_it(engine):
    picture = tiny.png(tiny.picture(64, 64))
    mask = np.zeros((64, 64, 3), np.uint8)
    mask[20:40, 20:40] = 255
    fields = {"model": "painter", "image": picture, "steps": 2, "cfg_scale": 1.0}
    asked = [
        requests.InpaintRequest(**fields, prompt="disc", mask=tiny.png(tiny.Image.fromarray(mask)), feather=0),
        requests.RefineRequest(**fields, prompt="disc", upscaler="lanczos", scale=1.5),
    ]
    for request in asked:
        with_lora = dataclasses.replace(request, prompt="disc<lora:ink:8>")
        plain, changed = (engine.run(r).pictures[0].image.tobytes() for r in (request, with_lora))
        assert plain != changed
    asked = requests.LocateRequest(model="painter", image=picture, prompt="disc")
    plain, changed = (engine.run(r).places for r in (asked, dataclasses.replace(asked, prompt="disc<lora:ink:8>")))
    assert plain.shape == changed.shape and not np.array_equal(plain, changed)


@pytest.mark.parametrize("prompt, fields, sentence", [
    ("disc <lora:inc:1>", {}, "no LoRA called “inc”; choose one of: ink"),
    ("disc <lora:painter:1>", {}, "no LoRA called “painter”"),
    ("disc <lora:ink:much>", {}, "written otherwise: <lora:name:0.8>"),
    ("disc", {"negative": "<lora:ink:1>"}, "stands in the prompt alone"),
    ("disc <lora:ink:1>", {"model": "tokens"}, "“tokens” cannot be changed by a LoRA.*painter"),
    ("<lora:ink:1>", {"cfg_scale": 4.0}, "Guidance follows words and there are none"),
])
def test_what_cannot_be_is_said_in_a_sentence(engine, prompt, fields, sentence):
    with pytest.raises(BadRequest, match=sentence):
        drawn(engine, prompt, **fields)


def test_where_there_is_none_it_says_where_to_put_one(tmp_path):
    tiny.save(tmp_path / "models" / "painter.safetensors", tiny.latent_diffusion())
    with pytest.raises(BadRequest, match="no LoRA called “ink”, nor any other; put its file into models/"):
        drawn(Engine(tmp_path, "cpu"), "disc <lora:ink:1>")
