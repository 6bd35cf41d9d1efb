"""Wildcards and presets: what an artist keeps for prompts to come."""

import pytest

from engines.errors import BadRequest
from engines.requests import choose
from studio.database import Database
from studio.presets import Presets
from studio.wildcards import fill


@pytest.fixture
def home(tmp_path):
    folder = tmp_path / "wildcards"
    folder.mkdir()
    (folder / "animal.txt").write_text("cat\n# no fish\n\n狐狸\n", encoding="utf-8")
    (folder / "one.txt").write_text("only __animal__")
    (folder / "empty.txt").write_text("\n")
    (folder / "loop.txt").write_text("__loop__")
    return tmp_path


def test_a_wildcard_is_one_of_its_lines(home):
    assert fill("a __animal__, flat", home) == "a {cat|狐狸}, flat"
    assert {choose(fill("__one__", home), seed) for seed in range(20)} == {"only cat", "only 狐狸"}
    assert fill("snake_case __ and ___", home) == "snake_case __ and ___"


@pytest.mark.parametrize("text, words", [
    ("__bird__", "no list “bird”; there are animal, empty, loop, one"),
    ("__empty__", "is empty"),
    ("__loop__", "lists within"),
])
def test_lists_that_are_none_get_a_sentence(home, text, words):
    with pytest.raises(BadRequest, match=words):
        fill(text, home)


def test_presets_are_kept_by_name_and_user(tmp_path):
    presets = Presets(Database(tmp_path / "atelier.db"))
    presets.save(" night ", {"prompt": "月亮", "steps": 8}, "ann")
    presets.save("night", {"prompt": "moon"}, "ben")
    presets.save("day", {}, "ann")
    again = Presets(Database(tmp_path / "atelier.db"))
    assert again.names("ann") == ["day", "night"] and again.names() == []
    assert again.load("night", "ann") == {"prompt": "月亮", "steps": 8}
    again.save("night", {"prompt": "stars"}, "ann")
    assert again.load("night", "ann") == {"prompt": "stars"} and again.load("night", "ben") == {"prompt": "moon"}
    again.forget("night", "ann")
    with pytest.raises(BadRequest, match="no preset “night”"):
        again.load("night", "ann")
    for name in ("", "  ", "n" * 61):
        with pytest.raises(BadRequest, match="needs a name"):
            again.save(name, {})
