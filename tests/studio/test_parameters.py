"""Settings of other studios: what they write is read, what we write they read."""

import json

import pytest

from engines import requests
from engines.errors import BadPicture
from engines.requests import GenerateRequest
from studio import parameters

A1111 = """a (red:1.2) fox, masterpiece
Negative prompt: blurry, text
Steps: 28, Sampler: DPM++ 2M Karras, CFG scale: 7.5, Seed: 1234567890, Size: 512x768, Model hash: 6ce0161689, \
Model: v1-5, Lora hashes: "x: 1, y: 2", Clip skip: 2, Version: v1.6.0"""

COMFY = json.dumps({
    "3": {"class_type": "KSampler", "inputs": {
        "seed": 5, "steps": 30, "cfg": 6.0, "sampler_name": "uni_pc", "scheduler": "sgm_uniform", "denoise": 1,
        "model": ["4", 0], "positive": ["10", 0], "negative": ["7", 0], "latent_image": ["5", 0]}},
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "v1-5.safetensors"}},
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 640, "height": 512, "batch_size": 1}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a lighthouse", "clip": ["4", 1]}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "fog", "clip": ["4", 1]}},
    "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
    "9": {"class_type": "SaveImage", "inputs": {"images": ["8", 0]}},
    "10": {"class_type": "ConditioningSetArea", "inputs": {"conditioning": ["6", 0], "width": 64}},
})  # fmt: skip


def record(**fields):
    made = GenerateRequest(**{"prompt": "红苹果, ripe", "negative": "blue", "model": "icons-diffusion"} | fields)
    return {"request": json.loads(requests.to_json(made)), "model_sha256": "ab" * 32, "versions": {"atelier": "0.1.0"}}


def test_a1111_is_read():
    made, lost = parameters.read({"parameters": A1111})
    assert made == GenerateRequest(
        prompt="a (red:1.2) fox, masterpiece", negative="blurry, text", steps=28, sampler="dpmpp_2m",
        scheduler="karras", cfg_scale=7.5, seed=1234567890, width=512, height=768,
    )  # fmt: skip
    assert lost == ["Model", "Lora hashes", "Clip skip"]


def test_a_graph_of_comfyui_is_read():
    made, lost = parameters.read({"prompt": COMFY, "workflow": "{}"})
    assert made == GenerateRequest(
        prompt="a lighthouse", negative="fog", steps=30, cfg_scale=6.0, seed=5, sampler="unipc",
        scheduler="sgm_uniform", width=640, height=512,
    )  # fmt: skip
    assert lost == ["CheckpointLoaderSimple", "ConditioningSetArea"]


@pytest.mark.parametrize("fields", [{}, {"negative": ""}, {"sampler": "lms", "scheduler": "exponential"}, {"seed": 9}])
def test_what_is_written_comes_back(fields):
    made, lost = parameters.read({"parameters": parameters.to_text(record(**fields))})
    expected = GenerateRequest(**{"prompt": "红苹果, ripe", "negative": "blue"} | fields)
    assert made == expected
    assert lost == ["Model"]


def test_every_sampler_and_schedule_has_its_names():
    assert parameters.SAMPLERS.keys() == requests.SAMPLERS.keys()
    assert parameters.SCHEDULES.keys() == requests.SCHEDULES.keys()


def test_a_style_is_among_the_words_that_others_read():
    assert parameters.to_text(record(style="flat")).startswith("红苹果, ripe, flat\nNegative prompt: blue\nSteps: 20, ")


def test_what_has_no_words_has_no_text():
    request = {"task": "reconstruct", "model": "icons-vqgan"}
    assert parameters.to_text({"request": request}) is None


@pytest.mark.parametrize(("text", "fields"), [
    ("x\nSteps: 900, Seed: -1, Size: 70x5000, CFG scale: 0", {
        "steps": 150, "seed": 2**32 - 1, "width": 64, "height": 2048, "cfg_scale": 1.0}),
    ("Steps: 20, CFG scale: 7", {"prompt": "", "cfg_scale": 1.0}),
    ("x\nSteps: many, Sampler: Whirl", {"steps": 20, "sampler": "dpmpp_2m"}),
])  # fmt: skip
def test_odd_values_come_to_the_nearest_that_is_allowed(text, fields):
    made, _ = parameters.read({"parameters": text})
    assert {name: getattr(made, name) for name in fields} == fields


@pytest.mark.parametrize("texts", [
    {}, {"parameters": "words alone"}, {"prompt": "no json"}, {"prompt": "[1, 2]"}, {"prompt": "{}"},
    {"prompt": '{"1": {"class_type": "LoadImage"}}'}, {"prompt": "[" * 100_000},
])  # fmt: skip
def test_what_holds_no_settings_is_refused(texts):
    with pytest.raises(BadPicture, match="holds no settings"):
        parameters.read(texts)


def test_a_graph_that_leads_in_a_circle_is_read_to_its_end():
    nodes = json.loads(COMFY)
    nodes["10"]["inputs"]["conditioning"] = ["10", 0]
    assert parameters.read({"prompt": json.dumps(nodes)})[0].prompt == ""
