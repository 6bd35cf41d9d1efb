"""The page without a browser: what is drawn, what it says, and what a handler's failure looks like."""

import dataclasses
import json
import logging
import re
from types import SimpleNamespace

import gradio as gr
import pytest
import torch
from safetensors.torch import save_file

from engines import catalog, requests
from engines.errors import BadRequest
from engines.requests import (
    AdjustRequest,
    Drawn,
    GenerateRequest,
    InpaintRequest,
    Progress,
    ReconstructRequest,
    RefineRequest,
    UpscaleRequest,
)
from studio import layout, texts
from studio.gallery import Entry
from studio.jobs import JobState
from studio.tabs import common, generate, models, reconstruct
from tests import tiny

PAGE = {
    GenerateRequest: "generate", ReconstructRequest: "reconstruct", InpaintRequest: "inpaint", AdjustRequest: "restore",
    UpscaleRequest: "upscale", RefineRequest: "refine",
}  # fmt: skip
ELSEWHERE = {  # fields without a control of their own: masks are painted, and a picture made bigger brings its words
    (kind, "mask") for kind in PAGE
} | {(RefineRequest, name) for name in ("image", *Drawn.__dataclass_fields__) if name != "model"}
FIELDS = [
    (kind, item.name) for kind in PAGE for item in dataclasses.fields(kind) if (kind, item.name) not in ELSEWHERE
]


def browser(language):
    return SimpleNamespace(headers={"accept-language": language})


ENGLISH, CHINESE = browser("en-GB,en;q=0.9"), browser("zh-CN,zh;q=0.9")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    studio = SimpleNamespace(home=tmp_path_factory.mktemp("home"), jobs=None, gallery=None, inputs=None)
    return layout.build(studio)


@pytest.fixture(scope="module")
def controls(page):
    """The components of the page by their ids."""
    return {block.elem_id: block for block in page.blocks.values() if getattr(block, "elem_id", None)}


@pytest.mark.parametrize(("kind", "name"), FIELDS)
def test_every_field_of_a_request_has_a_control_that_obeys_its_table(controls, kind, name):
    component = controls[f"{PAGE[kind]}-{name.replace('_', '-')}"]
    field = requests.control(kind, name)
    assert component.label
    if name not in ("image", "tokens"):  # what is chosen by a button or dropped; a line stands beside them
        assert component.info
    if "low" in field:
        assert (component.minimum, component.maximum) == (field["low"], field["high"])
    if "choices" in field:
        assert {value for _, value in component.choices} == set(field["choices"])
    if name not in ("model", "upscaler", "image", "tokens"):
        suited = {}
        if kind in (GenerateRequest, InpaintRequest):
            row = catalog.find("", PAGE[kind])
            suited = requests.SUITED[row.family] | dict.fromkeys(("width", "height"), row.size)
        assert component.value == suited.get(name, field["default"])


def test_no_event_shows_its_progress_on_parts_of_the_page(page):
    """At every step of any event the page goes over all parts on which one shows its progress, hidden or not."""
    events = [event for event in page.get_config_file()["dependencies"] if event["api_visibility"] == "private"]
    shown = [event["outputs"] if event["show_progress_on"] is None else event["show_progress_on"] for event in events]
    assert len(events) > 100 and not any(shown)


def test_every_text_is_there_in_both_languages():
    for key, (english, chinese) in texts.ROWS.items():
        assert english.strip() and chinese.strip(), key
        assert re.findall(r"{(\w+)", english) == re.findall(r"{(\w+)", chinese), key
        letters = re.sub(r"{.*?}|[^A-Za-z]", "", chinese)
        assert re.search("[\u4e00-\u9fff]", chinese) or letters, key


def test_every_choice_has_a_chinese_line():
    for field in ("sampler", "scheduler"):
        for choice in requests.control(GenerateRequest, field)["choices"]:
            assert re.search("[\u4e00-\u9fff]", texts.ROWS[f"{field}.{choice}"][1])


def test_an_unknown_text_is_refused_when_the_page_is_drawn():
    with pytest.raises(KeyError):
        texts.t("no such text")


def test_the_language_of_the_browser_decides():
    assert texts.say(ENGLISH, "step", index=1, count=4) == "Step 1 of 4"
    assert texts.say(CHINESE, "step", index=1, count=4) == "第 1 / 4 步"
    assert texts.say(None, "stop") == "Stop"


@pytest.mark.parametrize("as_generator", [False, True])
def test_a_known_failure_is_its_sentence_as_text(as_generator):
    def fail(words):
        raise BadRequest(f"There is no model called “{words}”.")

    def fail_in_steps(words):
        yield
        fail(words)

    with pytest.raises(gr.Error) as caught:
        list(common.guard(fail_in_steps)("<b>")) if as_generator else common.guard(fail)("<b>")
    assert caught.value.message == "There is no model called “&lt;b&gt;”."
    assert caught.value.print_exception is False


def test_an_unknown_failure_is_a_number_on_the_page_and_a_traceback_in_the_log(caplog):
    def fail():
        raise RuntimeError("secret detail")

    with caplog.at_level(logging.ERROR), pytest.raises(gr.Error) as caught:
        common.guard(fail)()
    number = re.search(r"\(id ([0-9a-f]+)\)", caught.value.message)[1]
    assert "secret" not in caught.value.message
    assert number in caplog.text and "secret detail" in caplog.text


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (JobState("a", "waiting", ahead=3), "Waiting; 3 before this one"),
        (JobState("a", "running"), "The engine is getting ready"),
        (JobState("a", "running", progress=Progress(3, 12), seconds_left=4.4), "Step 3 of 12 · about 4 s left"),
        (JobState("a", "running", progress=Progress(1, 12), seconds_left=290.0), "about 5 min left"),
        (JobState("a", "done", seconds=2.5), "Done in 2.5 s"),
        (JobState("a", "cancelled"), "Stopped."),
        (JobState("a", "failed", error="Too large: <b>."), "Too large: &lt;b&gt;."),
    ],
)
def test_the_state_of_a_job_is_a_line(state, words):
    assert words in common.status(state, ENGLISH)


def test_the_bar_shows_the_share_of_the_steps():
    state = JobState("a", "running", progress=Progress(3, 12), seconds_left=1.0)
    assert "width:25.0%" in common.status(state, ENGLISH)


STUDIO = SimpleNamespace(home=None)


def entry(**fields):
    given = {"prompt": "a <b>fox</b>", "seed": 5, "steps": 9, "style": "flat", "model": "icons-diffusion"} | fields
    request = GenerateRequest(**given)
    return told({"request": json.loads(requests.to_json(request))}, request.prompt)


def told(record, prompt=""):
    """An entry whose file tells that record."""
    made = Entry("1", "job", "1.png", "generate", 5, prompt, 0.0)
    vars(made)["record"] = record
    return made


def test_a_picture_says_what_it_was_drawn_from_and_markup_stays_text():
    line = generate.details(STUDIO, entry(), ENGLISH)
    assert "a &lt;b&gt;fox&lt;/b&gt;" in line
    assert "flat · seed 5 · 128 × 128 · 9 steps · DPM++ 2M<" in line
    assert "扁平 · 种子 5 · 128 × 128 · 9 步 · DPM++ 2M<" in generate.details(STUDIO, entry(), CHINESE)


def test_a_picture_drawn_by_tokens_names_their_order(tmp_path):
    tiny.save(tmp_path / "models" / "tokens.safetensors", tiny.token_generator())
    drawn = entry(model="tokens", order="halton")
    assert "9 steps · Halton<" in generate.details(SimpleNamespace(home=tmp_path), drawn, ENGLISH)
    # of a model that is gone nobody knows any more by what it drew
    assert "9 steps<" in generate.details(STUDIO, drawn, ENGLISH)


def test_what_a_prompt_names_beside_its_words_is_told_with_its_model_and_counts_no_token(tmp_path):
    model = tiny.latent_diffusion()
    tiny.save(tmp_path / "models" / "painter.safetensors", model)
    factors = {f"lora_unet_middle_block_1_proj_in.lora_{way}.weight": torch.ones(2, 2) for way in ("up", "down")}
    save_file(factors, tmp_path / "models" / "ink&wash.safetensors")
    studio = SimpleNamespace(home=tmp_path, shared=True, jobs=SimpleNamespace(estimate=lambda request: (None, None)))
    facts = models._facts(catalog.find("ink&wash", home=tmp_path), True, ENGLISH)
    assert "<dt>In a prompt</dt><dd>&lt;lora:ink&amp;wash:1&gt;</dd>" in facts
    given = {name: "" for name in ("negative", "style", "image")} | {"model": "painter", "noise_only": False}
    told = {
        prompt: generate.foreseen(studio, given | {"prompt": prompt, "random_seed": False}, ENGLISH)
        for prompt in ("red disc", "red disc <lora:ink&wash:0.5>", "red disc <lora:ink")
    }
    plain, counted, refused = told.values()
    assert plain == counted and f"{model.tokenizer.count('red disc')} of 32 tokens" in plain
    assert "over" in refused and "&lt;lora:name:0.8&gt;" in refused


def test_a_picture_drawn_without_words_says_so():
    assert "from noise alone" in generate.details(STUDIO, entry(prompt="", style="", cfg_scale=1.0), ENGLISH)


def test_a_record_of_another_version_leaves_the_line_empty():
    strange = told({"request": {"task": "generate", "colour": "red"}})
    assert generate.details(STUDIO, strange, ENGLISH) == ""


def test_an_autoencoder_without_tokens_has_figures_without_them():
    result = requests.ReconstructResult(None, 1.0, psnr=30.123, ssim=0.9)
    line = reconstruct.figures(result, ENGLISH)
    assert "30.12 dB" in line and "0.900" in line and "perplexity" not in line
