"""Another autoencoder for a Stable Diffusion, as the page and the command line offer it."""

import dataclasses
import json
from types import SimpleNamespace

import pytest

from engines import catalog, requests
from studio import cli, comparison, layout
from studio.tabs import common, generate
from tests import tiny
from tests.engines.checkpoints.test_stable_diffusion import tokenizer_files  # noqa: F401
from tests.engines.test_vae import asked, home  # noqa: F401

# ruff: noqa: F811


def test_the_page_offers_it_only_where_there_is_something_to_choose(home):
    for model, offered in (("sd", ["", "softer", "tiny"]), ("painter", [""]), (None, [""])):
        found = common.autoencoder_control(home, "generate", model)
        assert [name for _, name in found.choices] == offered and found.visible == (len(offered) > 1)


@pytest.mark.parametrize("tab", ["generate", "inpaint"])
def test_the_choice_follows_the_model(home, tab):
    demo = layout.build(SimpleNamespace(home=home, jobs=None, gallery=None, inputs=None))
    (follow,) = (
        block.fn for block in demo.fns.values() if [part.elem_id for part in block.outputs] == [f"{tab}-vae"]
    )
    browser = SimpleNamespace(headers={"accept-language": "zh"})
    shown, hidden = follow("sd", "tiny", browser), follow("painter", "tiny", browser)
    assert shown.visible and shown.value == "tiny"
    assert [name for _, name in shown.choices] == ["", "softer", "tiny"] and shown.choices[0][0] == "模型自带"
    assert not hidden.visible and hidden.value == ""
    assert follow("sd", "wide", browser).value == ""  # as a preset or a link may name it
    assert common.Offered([("", "")]).preprocess("gone") == "gone"


def test_another_model_draws_with_its_own(home):
    made = dataclasses.replace(asked(vae="tiny"), image=None)
    rows = catalog.catalog(home)
    axis = comparison.of_models(made, [rows["sd"], rows["painter"]])
    assert [point.get("vae", made.vae) for point in axis] == ["tiny", ""]
    path = home / "drawn.png"
    tiny.picture(32, 32).save(path)
    entry = SimpleNamespace(record={"request": json.loads(requests.to_json(made))}, path=path)
    more = {"upscaler": "", "scale": 2.0}
    bigger = {name: generate.made_bigger(rows, entry, more | {"model": name}).vae for name in rows}
    assert bigger["sd"] == "tiny" and {bigger[name] for name in rows if name != "sd"} == {""}


@pytest.mark.parametrize("command", [["generate", "red fox"], ["refine", "PICTURE"], ["inpaint", "PICTURE", "MASK"]])
def test_the_command_line_refuses_one_that_does_not_fit(home, tmp_path, capsys, command):
    tiny.picture(64, 64).save(tmp_path / "picture.png")
    tiny.picture(64, 64).convert("L").save(tmp_path / "mask.png")
    files = {"PICTURE": str(tmp_path / "picture.png"), "MASK": str(tmp_path / "mask.png")}
    words = [files.get(word, word) for word in command]
    code = cli.main([*words, "--model", "sd", "--vae", "wide", "--home", str(home), "--out", str(tmp_path / "out.png")])
    assert code == 2 and "“sd” cannot draw with “wide”; choose one of:" in capsys.readouterr().err
