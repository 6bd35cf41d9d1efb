"""The gallery: a picture is never lost, and the table follows the files."""

import json

import pytest
from PIL import Image

from engines import requests
from studio import images
from studio.database import Database
from studio.gallery import Gallery

RECORD = {"request": json.loads(requests.to_json(requests.GenerateRequest(prompt="红心")))}


@pytest.fixture
def open_gallery(tmp_path):
    (tmp_path / "gallery").mkdir()
    return lambda: Gallery(tmp_path, Database(tmp_path / "atelier.db"))


def add(gallery, seed=1, job="j"):
    return gallery.add(Image.new("RGB", (16, 16)), RECORD, seed, job)


def test_pictures_come_back_newest_first_and_by_job(open_gallery):
    gallery = open_gallery()
    entries = [add(gallery, seed, job) for seed, job in ((1, "a"), (2, "b"), (3, "a"))]
    assert gallery.get(entries[1].id) == entries[1]
    assert [entry.seed for entry in gallery.recent(2)] == [3, 2]
    assert [entry.seed for entry in gallery.of_job("a")] == [1, 3]
    assert gallery.get("nothing") is None
    assert entries[0].prompt == "红心" and entries[0].task == "generate"


def test_a_file_without_a_row_gets_one(open_gallery, tmp_path):
    entry = add(open_gallery(), seed=9)
    (tmp_path / "atelier.db").unlink()
    again = open_gallery().get(entry.id)
    assert (again.seed, again.job, again.path, again.record["request"]) == (9, "j", entry.path, RECORD["request"])


def test_a_row_without_a_file_goes(open_gallery):
    entry = add(open_gallery())
    entry.path.unlink()
    assert open_gallery().get(entry.id) is None


def test_half_written_files_go_and_strangers_stay(open_gallery, tmp_path):
    folder = tmp_path / "gallery"
    (folder / "x.png.part").write_bytes(b"half")
    Image.new("RGB", (9, 9)).save(folder / "stranger.png")
    assert open_gallery().recent(9) == []
    assert [path.name for path in folder.iterdir()] == ["stranger.png"]


def test_the_file_alone_holds_the_record(open_gallery):
    entry = add(open_gallery(), seed=4)
    assert images.read_record(entry.path) == RECORD | {"seed": 4, "job": "j"}
