"""The checkout itself: what lies at its top, what it asks for, and what it must not say."""

import ast
import fnmatch
import os
import re
import shlex
import sys
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from engines import requests
from studio import cli

ROOT = Path(__file__).parents[1]
TOP = {
    "app.py", "studio", "engines", "assets", "tests", "requirements.txt", "README.md", ".ci", "pyproject.toml",
    "README.zh.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", ".gitignore",
}  # fmt: skip
PROJECT = {"app", "studio", "engines", "tests"}
# the package that brings a module of another name
OPTIONAL = {"spandrel"}  # used where the artist has installed it
BROUGHT_BY = {"PIL": "pillow", "cv2": "opencv-python-headless", "starlette": "gradio"}
# where a page of the project may lead to; `.example` is reserved for examples
HOSTS = {
    "127.0.0.1", "localhost", "apache.org", "arxiv.org", "creativecommons.org", "github.com", "keepachangelog.com",
    "openimages.github.io", "semver.org", "unsplash.com", "w3.org",
}  # fmt: skip
ADDRESS = re.compile(rb"https?://[^\s\"'<>()\[\]{}`\\]+")
# an absolute path into somebody's machine, and an option that names a place to take packages from
MACHINE = re.compile(
    rb"(?<![\w.~])/(?:root|home|Users|work|opt|mnt|srv)/[\w.]|(?i:[a-z]:\\users\\)|--?(?:\w+-)?index-url"
)


def ignored():
    lines = (ROOT / ".gitignore").read_text(encoding="utf-8").split("\n")
    return [".git", *(line.rstrip("/") for line in lines if line and not line.startswith("#"))]


def files():
    """Every file of the project: what lies in the checkout and git does not ignore."""
    patterns = ignored()

    def kept(path):
        whole = "/" + path.relative_to(ROOT).as_posix()
        return not any(fnmatch.fnmatch(whole if rule.startswith("/") else path.name, rule) for rule in patterns)

    for folder, folders, names in os.walk(ROOT):
        folders[:] = sorted(name for name in folders if kept(Path(folder, name)))
        yield from (Path(folder, name) for name in sorted(names) if kept(Path(folder, name)))


FILES = list(files())


def pins(path):
    lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
    found = [re.fullmatch(r"([a-z0-9-]+)==(\d+(?:\.\d+)+)", line) for line in lines]
    assert all(found), f"{path} holds a line that pins no version: {lines}"
    assert len({match[1] for match in found}) == len(lines)
    return {match[1]: match[2] for match in found}


def imported(folders):
    """The first names of every absolute import in the Python files of `folders`."""
    names = set()
    for path in FILES:
        if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in folders:
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    names |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and not node.level:
                    names.add(node.module.partition(".")[0])
    return names - sys.stdlib_module_names - PROJECT


def readable(path):
    """The bytes of a file; of weights only the header, which alone holds words."""
    with open(path, "rb") as stream:
        return stream.read(int.from_bytes(stream.read(8), "little") if path.suffix == ".safetensors" else -1)


def findings(content):
    """What a file says and must not: addresses of unknown hosts, and places on a machine."""
    hosts = {urlsplit(match[0].decode("ascii", "replace")).hostname or "" for match in ADDRESS.finditer(content)}
    strange = {h for h in hosts if h.removeprefix("www.") not in HOSTS and not h.endswith((".example", "example.com"))}
    return sorted(strange) + [match[0].decode() for match in MACHINE.finditer(content)]


# ---------------------------------------------------------------- what is there


def test_the_top_holds_what_the_house_says_and_nothing_else():
    assert {path.relative_to(ROOT).parts[0] for path in FILES} == TOP


def test_the_studio_asks_for_exactly_pinned_packages():
    studio, tests = pins("requirements.txt"), pins("tests/requirements.txt")
    assert studio["torch"] == "2.13.0"
    assert not studio.keys() & tests.keys()


@pytest.mark.parametrize("folders, asked", [
    (("app.py", "engines", "studio"), ("requirements.txt",)),
    (("tests",), ("requirements.txt", "tests/requirements.txt")),
])
def test_whatever_is_imported_is_asked_for(folders, asked):
    names = {BROUGHT_BY.get(name, name).replace("_", "-") for name in imported(folders)}
    assert names and names - OPTIONAL <= {name for path in asked for name in pins(path)}


def test_the_version_is_one():
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert table["project"]["version"] == requests.VERSION
    assert f"[{requests.VERSION}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_licence_is_the_whole_apache_licence():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert text.split()[:4] == ["Apache", "License", "Version", "2.0,"]
    assert "END OF TERMS AND CONDITIONS" in text and len(text) > 11_000


def test_the_assets_stay_small():
    assert sum(path.stat().st_size for path in FILES if path.is_relative_to(ROOT / "assets")) < 48_000_000


@pytest.mark.skipif(os.name == "nt", reason="file modes are kept on POSIX systems")
def test_the_check_before_landing_can_be_started():
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


# ---------------------------------------------------------------- what it says


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_file_names_no_machine_and_no_unknown_host(path):
    assert findings(readable(path)) == []


# The words are cut in two, so that this file does not say them.
@pytest.mark.parametrize("text, found", [
    ("see https:/" "/packages.somewhere.net/simple", ["packages.somewhere.net"]),
    ("from http:/" "/10.1.2.3:8080/", ["10.1.2.3"]),
    ("pictures in /ho" "me/ann/pictures", ["/ho" "me/a"]),
    ("a cache in '/ro" "ot/.cache'", ["/ro" "ot/."]),
    (r"models in C:\Us" r"ers\ann", ["C:\\Us" "ers\\"]),
    ("pip install --extra-in" "dex-url x", ["--extra-in" "dex-url"]),
    ("on http://127.0.0.1:7860 or https://evil.example/", []),
    ("in ~/atelier/models, home/models, tests/work/a, a home/ and a root/", []),
])
def test_the_reader_finds_what_must_not_be_said(text, found):
    assert findings(text.encode()) == found


# ---------------------------------------------------------------- what the pages promise


PAGES = ("README.md", "README.zh.md", "CONTRIBUTING.md", "CHANGELOG.md")


def page(name):
    return (ROOT / name).read_text(encoding="utf-8")


def commands():
    """Every `python app.py ...` of the pages, as lists of arguments."""
    lines = [line for name in PAGES for line in page(name).replace("\\\n", " ").splitlines()]
    return [shlex.split(line, comments=True)[2:] for line in lines if line.strip().startswith("python app.py")]


@pytest.mark.parametrize("argv", [argv for argv in commands() if argv[:1] != ["test"]], ids=shlex.join)
def test_a_command_of_the_pages_is_one(argv):
    assert callable(cli._parser().parse_args(argv).run)


def test_the_pages_show_the_two_commands_first():
    assert commands()[:2] == [[], ["test"]]


@pytest.mark.parametrize("name", PAGES)
def test_the_links_of_a_page_lead_somewhere(name):
    targets = re.findall(r"\]\(([^)#\s]+)", page(name))
    missing = [t for t in targets if not t.startswith("http") and not (ROOT / t).exists()]
    assert missing == []
