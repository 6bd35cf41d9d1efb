"""Requests: every bound holds where the table says it does, and a request survives JSON."""

import dataclasses
import json
import math

import pytest

from engines import catalog, requests
from engines.errors import BadRequest
from engines.requests import TASKS, GenerateRequest, ReconstructRequest

PICTURE = bytes(range(256)) * 3
VALID = {
    "generate": {"prompt": "a red fox"},
    "inpaint": {"prompt": "a red fox", "image": PICTURE, "mask": PICTURE},
    "adjust": {"image": PICTURE},
    "upscale": {"image": PICTURE},
    "spot": {"image": PICTURE},
    "refine": {"prompt": "a red fox", "image": PICTURE},
    "locate": {"prompt": "a red fox", "image": PICTURE},
    "reconstruct": {"image": PICTURE},
    "resample": {"prompt": "a red fox", "tokens": PICTURE, "mask": PICTURE},
    "codebook": {},
    "engine": {},
    "measure": {"image": PICTURE, "other": PICTURE[::-1]},
    "compare": {"base": GenerateRequest(prompt="a red fox"), "axes": (({"seed": 1}, {"seed": 2}),)},
}


def rows(key):
    """`(task, field name, its row of the table)` of every field with that entry."""
    return [
        pytest.param(task, item.name, requests.control(kind, item.name), id=f"{task} {item.name}")
        for task, kind in TASKS.items()
        for item in dataclasses.fields(kind)
        if key in item.metadata
    ]


def request(task, **values):
    return TASKS[task](**VALID[task] | values)


def with_room(name, value):
    # the one rule between two fields: guidance ends later than it begins
    return {"cfg_start": {"cfg_end": 1.0}, "cfg_end": {"cfg_start": 0.0}}.get(name, {}) | {name: value}


@pytest.mark.parametrize("task", TASKS)
def test_a_task_is_valid_with_its_defaults(task):
    made = request(task)
    for item in dataclasses.fields(made):
        if item.name not in VALID[task]:
            assert getattr(made, item.name) == item.default


@pytest.mark.parametrize("task, name, row", rows("low"))
def test_numbers_are_taken_at_their_bounds_and_refused_beyond(task, name, row):
    assert row["low"] <= row["default"] <= row["high"]
    ends = {row["low"], row["high"]}
    # the ends of the two that must differ meet each other
    for value in ends - {{"cfg_start": 1.0, "cfg_end": 0.0}.get(name)}:
        assert getattr(request(task, **with_room(name, value)), name) == value
    for value in (row["low"] - row["step"], row["high"] + row["step"], math.inf, -math.inf, math.nan, 10**400):
        with pytest.raises(BadRequest, match=f"{name} is .*between {row['low']} and {row['high']}"):
            request(task, **with_room(name, value))


@pytest.mark.parametrize("task, name, row", rows("low"))
@pytest.mark.parametrize("value", [True, "20", None, [20], b"20"])
def test_only_numbers_are_numbers(task, name, row, value):
    with pytest.raises(BadRequest, match=f"{name} must be a number"):
        request(task, **{name: value})


@pytest.mark.parametrize("task, name, row", rows("step"))
def test_whole_numbers_stay_whole(task, name, row):
    if isinstance(row["default"], int):
        assert isinstance(row["step"], int)
        made = getattr(request(task, **{name: float(row["default"])}), name)
        assert made == row["default"] and isinstance(made, int)
        with pytest.raises(BadRequest, match=f"{name} must be a whole number, not {row['default']}.5"):
            request(task, **{name: row["default"] + 0.5})
    else:
        between = (row["low"] + row["high"]) / 2.1
        assert getattr(request(task, **with_room(name, between)), name) == between


@pytest.mark.parametrize("task, name, row", rows("choices"))
def test_choices_are_taken_and_others_are_refused_with_the_list(task, name, row):
    assert row["default"] in row["choices"]
    for choice in row["choices"]:
        assert getattr(request(task, **{name: choice}), name) == choice
    with pytest.raises(BadRequest) as caught:
        request(task, **{name: "quick"})
    assert f"no {name} called “quick”" in str(caught.value)
    assert all(choice in str(caught.value) for choice in row["choices"])


@pytest.mark.parametrize("task, name, row", rows("help"))
def test_every_field_has_its_line_of_help_and_its_kind(task, name, row):
    assert row["help"].strip() == row["help"] != ""
    if "low" not in row:
        with pytest.raises(BadRequest, match=f"{name} must be (text|the bytes of a picture)"):
            request(task, **{name: 5})
        with pytest.raises(BadRequest, match=f"{name} must be (text|the bytes of a picture)"):
            request(task, **{name: ["a list", "cannot be looked up"]})


@pytest.mark.parametrize("name", ["width", "height"])
@pytest.mark.parametrize("value", [65, 100, 127, 1000])
def test_sizes_are_multiples_of_32(name, value):
    with pytest.raises(BadRequest, match=f"{name} is {value}.*multiple of 32"):
        request("generate", **{name: value})


@pytest.mark.parametrize("prompt", ["", "   ", "\n"])
def test_guidance_without_words_is_refused(prompt):
    with pytest.raises(BadRequest, match="write a prompt, or set guidance to 1"):
        GenerateRequest(prompt=prompt, cfg_scale=1.5)
    assert GenerateRequest(prompt=prompt, cfg_scale=1.0).prompt == prompt
    assert GenerateRequest(prompt=prompt, cfg_scale=1.5, style="flat").style == "flat"  # a style is words


@pytest.mark.parametrize("start, end", [(0.5, 0.5), (0.8, 0.2), (1.0, 1.0), (0.0, 0.0)])
def test_guidance_ends_later_than_it_begins(start, end):
    with pytest.raises(BadRequest, match="end later than it begins"):
        request("generate", cfg_start=start, cfg_end=end)


def test_reconstructing_nothing_is_refused():
    with pytest.raises(BadRequest, match="no picture to reconstruct"):
        ReconstructRequest()


def test_a_request_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        request("generate").steps = 3


# ---------------------------------------------------------------- JSON


@pytest.mark.parametrize("made", [
    request("generate"),
    request("generate", prompt="“红色的狐狸”, naïve\n\\ 🦊", seed=2**32 - 1, cfg_scale=7.2, image=PICTURE),
    request("reconstruct", max_side=64),
    request("resample", seed=3, style="flat"),
    request("compare"),
], ids=["plain", "every kind of value", "picture", "tokens", "request"])
def test_a_request_comes_back_from_json(made):
    text = requests.to_json(made)
    assert requests.from_json(text) == made
    assert requests.to_json(requests.from_json(text)) == text


def test_json_is_plain_names_and_base64():
    values = json.loads(requests.to_json(request("reconstruct", image=b"\x00\xff")))
    assert values == {"task": "reconstruct", "model": "", "image": "AP8=", "tokens": "", "max_side": 512}


def test_fields_left_out_have_their_defaults():
    assert requests.from_json('{"task": "generate", "prompt": "a red fox"}') == request("generate")


@pytest.mark.parametrize("text", [
    "", "{", "null", "[]", "[1]", "5", '"generate"', "{}", '{"prompt": "fox"}', '{"task": "paint"}', '{"task": null}',
    '{"task": ["generate"]}', "[" * 100_000, '{"task": "compare"}',
    '{"task": "compare", "base": 5, "axes": []}', b"\xff\xfe\xfd", None,
], ids=repr)
def test_what_is_no_request_is_refused(text):
    with pytest.raises(BadRequest, match="hold no request"):
        requests.from_json(text)


@pytest.mark.parametrize("values, words", [
    ({"speed": 3}, "does not know: speed"),
    ({"z": 1, "y": 1, "x": 1, "w": 1}, "does not know: w, x, y"),
    ({"steps": "many"}, "steps must be a number"),
    ({"steps": 0}, "steps is 0"),
    ({"prompt": None}, "prompt must be text"),
    ({"sampler": ["euler"]}, "sampler must be text"),
    ({"sampler": {}}, "sampler must be text"),
    ({"image": 5}, "image must be the bytes of a picture"),
    ({"image": "no base64 at all"}, "picture in these settings is damaged"),
    ({"image": "AP8"}, "picture in these settings is damaged"),
    ({"image": "AP!8="}, "picture in these settings is damaged"),
    ({"image": "狐狸"}, "picture in these settings is damaged"),
    ({"seed": math.inf}, "seed is inf"),
    ({"cfg_scale": math.nan}, "cfg_scale is nan"),
])
def test_bad_values_in_json_are_refused_with_a_sentence(values, words):
    with pytest.raises(BadRequest, match=words):
        requests.from_json(json.dumps({"task": "generate", "prompt": "a red fox"} | values))


# ---------------------------------------------------------------- what the page reads


def test_control_is_the_row_of_the_table():
    steps = requests.control(GenerateRequest, "steps")
    assert {name: steps[name] for name in ("default", "low", "high", "step")} == {
        "default": 20, "low": 1, "high": 150, "step": 1
    }
    assert requests.control(GenerateRequest, "sampler")["choices"] is requests.SAMPLERS
    assert requests.control(ReconstructRequest, "max_side")["default"] == 512
    with pytest.raises(KeyError):
        requests.control(GenerateRequest, "speed")


@pytest.mark.parametrize(
    "table", [requests.SAMPLERS, requests.SCHEDULES, requests.STYLES, requests.AREAS, requests.MATCHES]
)
def test_every_choice_says_what_it_is(table):
    assert all(text.strip() for text in table.values())
    assert len(set(table.values())) == len(table)


def test_half_a_character_is_refused():
    with pytest.raises(BadRequest, match="prompt holds half of a character"):
        request("generate", prompt="a \ud83d fox")


def test_every_family_that_draws_has_what_suits_it():
    assert set(requests.SUITED) == {family for family, tasks in catalog.TASKS.items() if "generate" in tasks}
    for suited in requests.SUITED.values():
        assert vars(request("generate", **suited)).items() >= suited.items()


def test_what_is_left_open_suits_the_model_and_what_is_asked_for_stays():
    left_open = dict.fromkeys(requests.SETTINGS)
    assert requests.suited("stable-diffusion", left_open) == requests.SUITED["stable-diffusion"]
    assert requests.suited("stable-diffusion", left_open | {"steps": 7})["steps"] == 7
    defaults = {name: getattr(GenerateRequest, name) for name in requests.SETTINGS}
    assert requests.suited("classical", left_open) == defaults
    for words, guided in (({"prompt": "fox"}, True), ({"prompt": " "}, False), ({"prompt": "", "style": "flat"}, True)):
        assert (requests.suited("latent-diffusion", left_open | words)["cfg_scale"] > 1) == guided


def test_what_suits_another_family_or_is_the_default_gives_way():
    ours = requests.SUITED["latent-diffusion"]
    defaults = {name: getattr(GenerateRequest, name) for name in requests.SETTINGS}
    for given in (defaults, *requests.SUITED.values()):
        assert requests.refitted("latent-diffusion", given) == ours
    assert requests.refitted("latent-diffusion", {"steps": 7, "cfg_scale": 9.5}) == {"steps": 7, "cfg_scale": 9.5}
