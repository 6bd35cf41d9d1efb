"""The gallery: a picture is never lost, and the table follows the files."""

import base64
import io
import json
import time
import zipfile

import pytest
from PIL import Image, PngImagePlugin

from engines import requests
from engines.errors import BadPicture
from studio import images
from studio.database import Database
from studio.gallery import Gallery, Search, compared, request_of

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


def test_what_differs_between_two_records_tells_of_the_files_that_a_prompt_named():
    one, other = (RECORD | {"additions": {"ink": {"sha256": told}, "odd": 3}} for told in ("aa", "bb"))
    assert [row for row in compared(one, other) if row[1] != row[2]] == [("ink sha256", "aa", "bb")]
    assert compared(RECORD, RECORD | {"additions": "odd"}) == compared(RECORD, RECORD)


def test_a_file_without_a_row_gets_one(open_gallery, tmp_path):
    entry = add(open_gallery(), seed=9)
    (tmp_path / "atelier.db").unlink()
    again = open_gallery().get(entry.id)
    assert (again.seed, again.job, again.path, again.record["request"]) == (9, "j", entry.path, RECORD["request"])


def test_a_picture_made_from_others_tells_how_each_of_them_was_made(open_gallery, tmp_path):
    gallery, colours = open_gallery(), ("red", "green", "blue")
    entries, record = [], RECORD
    for colour in colours:
        image = Image.new("RGB", (16, 16), colour)
        entries.append(gallery.add(image, record))
        # as a request keeps it, whose pixels are the same whatever else is in the file
        request = requests.InpaintRequest(image=images.full_bytes(entries[-1].path), left=8, model=colour, cfg_scale=1)
        record = {"request": json.loads(requests.to_json(request)), "model_sha256": colour}
    assert "made_from" not in entries[0].record
    chain = entries[2].record["made_from"]
    assert [(row["id"], row["request"]["task"]) for row in chain] == [
        (entries[0].id, "generate"), (entries[1].id, "inpaint"),
    ]  # fmt: skip
    assert chain[0]["request"]["prompt"] == "红心" and chain[1]["model_sha256"] == "red"
    assert len(chain[1]["request"]["image"]) == 12  # not the picture: the file stays small
    (tmp_path / "atelier.db").unlink()
    again = open_gallery()
    assert again.add(Image.new("RGB", (9, 9)), record).record["made_from"][:2] == chain
    assert "made_from" not in again.add(Image.new("RGB", (9, 9)), record, user="another").record


@pytest.mark.parametrize(
    "request_",
    [
        {"task": "generate", "mask": 5}, {"task": "generate", "image": 5}, {"task": "generate", "image": "junk"},
        {"task": "inpaint", "image": "junk"}, {"task": "measure"}, {"prompt": "no task"}, {"task": ["generate"]},
    ],
)  # fmt: skip
def test_a_strangers_record_is_refused_and_stops_nothing(open_gallery, tmp_path, request_):
    text = PngImagePlugin.PngInfo()
    text.add_itxt(images.RECORD, json.dumps({"request": request_, images.DIFFERENCE: "x", "made_from": [7]}))
    Image.new("RGB", (16, 16)).save(tmp_path / "gallery" / "stranger.png", pnginfo=text)
    with pytest.raises(BadPicture):
        open_gallery().take_in(tmp_path / "gallery" / "stranger.png")
    (tmp_path / "atelier.db").unlink()
    assert add(open_gallery()).prompt == "红心"


def test_only_pictures_are_looked_for_inside_a_record(open_gallery, monkeypatch):
    """Not what Pillow reads by other programs, such as PostScript."""
    postscript = base64.b64encode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n").decode()
    with pytest.raises(BadPicture, match="PNG, JPEG or WebP"):
        open_gallery().add(Image.new("RGB", (9, 9)), {"request": {"task": "reconstruct", "image": postscript}})


def test_a_result_may_be_larger_than_what_people_send(open_gallery, monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 100)
    entry = add(open_gallery())
    assert entry.record["seed"] == 1 and Image.open(open_gallery().thumbnail(entry)).size == (16, 16)
    assert images.look(entry.path, 8).size == (8, 8)


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


# ---------------------------------------------------------------- searching


def fill(gallery, *prompts, user="", **fields):
    """A picture a prompt; returns their ids."""
    ids = []
    for prompt in prompts:
        record = {"request": json.loads(requests.to_json(requests.GenerateRequest(prompt=prompt, **fields)))}
        ids.append(gallery.add(Image.new("RGB", (16, 16)), record, seed=1, user=user).id)
    return ids


def found(gallery, user="", **search):
    return [entry.prompt for entry in gallery.find(Search(**search), 100, user=user)][::-1]


@pytest.mark.parametrize(("words", "prompts"), [
    ("fox", ["a red fox", "foxglove, 3d"]),
    ("FOX red", ["a red fox"]),
    ("苹果", ["红苹果，扁平"]),
    ("苹", ["红苹果，扁平"]),
    ("果苹", []),
    ("glove", []),
    ('fox" OR "house', []),
    ("fox) OR (NEAR", []),
    ("*", ["a red fox", "foxglove, 3d", "a house", "红苹果，扁平"]),
])  # fmt: skip
def test_words_find_prompts(open_gallery, words, prompts):
    gallery = open_gallery()
    fill(gallery, "a red fox", "foxglove, 3d", "a house", "红苹果，扁平")
    assert found(gallery, words=words) == prompts
    assert gallery.count(Search(words=words)) == len(prompts)


def test_filters_narrow_what_is_found(open_gallery):
    gallery = open_gallery()
    fox, house = fill(gallery, "fox", "house", model="a")
    (tree,) = fill(gallery, "tree", model="b")
    gallery.star([fox, tree])
    gallery.put([house, tree], " best ")
    assert found(gallery, starred=True) == ["fox", "tree"]
    assert found(gallery, board="best") == ["house", "tree"]
    assert found(gallery, model="a", board="best") == ["house"]
    assert (gallery.names("model"), gallery.names("board")) == (["a", "b"], ["best"])
    gallery.star([tree], False)
    gallery.put([house], "")
    assert found(gallery, starred=True) == ["fox"] and found(gallery, board="best") == ["tree"]
    between = gallery.get(house).created
    assert found(gallery, since=between) == ["house", "tree"] and found(gallery, until=between) == ["fox"]
    assert found(gallery, task="reconstruct") == []


def test_pictures_of_others_are_neither_found_nor_changed(open_gallery):
    gallery = open_gallery()
    (mine,), (theirs,) = fill(gallery, "mine", user="ann", model="m"), fill(gallery, "theirs", user="bo", model="t")
    assert found(gallery, user="ann") == ["mine"] and found(gallery) == []
    assert gallery.get(theirs, "ann") is None and gallery.names("model", "ann") == ["m"]
    for change in (gallery.star, gallery.delete, lambda ids, user: gallery.put(ids, "x", user)):
        change([theirs], user="ann")
    entry = gallery.get(theirs, "bo")
    assert (entry.starred, entry.board, entry.user) == (False, "", "bo")
    stream = io.BytesIO()
    gallery.zipped([mine, theirs], stream, "ann")
    assert zipfile.ZipFile(stream).namelist() == [f"{mine}.png"]


# ---------------------------------------------------------------- deleting


def test_what_is_deleted_can_be_brought_back_for_a_day(open_gallery, monkeypatch):
    gallery = open_gallery()
    kept, gone = fill(gallery, "kept", "gone")
    path = gallery.get(gone).path
    gallery.delete([kept, gone])
    assert found(gallery) == [] and found(gallery, words="gone") == [] and gallery.get(gone) is None
    gallery.restore([kept])
    assert found(gallery) == ["kept"]
    assert open_gallery().get(kept) and path.exists()
    small = gallery.thumbnails / f"{gone}.webp"
    small.parent.mkdir(exist_ok=True)
    small.write_bytes(b"")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 25 * 3600)
    assert found(open_gallery()) == ["kept"]
    assert not path.exists() and not small.exists()
    open_gallery().restore([gone])
    assert found(open_gallery()) == ["kept"]


# ---------------------------------------------------------------- files


def test_a_thumbnail_is_small_and_made_once(open_gallery, tmp_path):
    gallery = open_gallery()
    entry = gallery.add(Image.linear_gradient("L").resize((600, 300)).convert("RGB"), RECORD)
    path = gallery.thumbnail(entry)
    with Image.open(path) as image:
        assert image.size == (256, 128)
        assert abs(image.convert("L").getpixel((128, 64)) - 128) < 6
    path.write_bytes(b"made before")
    assert gallery.thumbnail(entry).read_bytes() == b"made before"
    assert open_gallery().recent(9) == [entry]  # and it is no picture of the gallery


def test_a_zip_holds_the_files_as_they_are(open_gallery):
    gallery = open_gallery()
    ids, stream = fill(gallery, "a", "b"), io.BytesIO()
    gallery.zipped([*ids, "never was"], stream)
    with zipfile.ZipFile(stream) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == {
            f"{number}.png": gallery.get(number).path.read_bytes() for number in ids
        }


def test_a_file_of_ours_is_taken_in_with_all_that_it_knows(open_gallery):
    gallery = open_gallery()
    (number,) = fill(gallery, "a red fox", model="m")
    first = gallery.get(number)
    again, lost = gallery.take_in(first.path.read_bytes(), user="ann")
    assert (again.prompt, again.model, again.seed, again.user, lost) == ("a red fox", "m", 1, "ann", [])
    assert again.record["request"] == first.record["request"] and again.id != first.id
    assert images.read_picture(again.path).tobytes() == images.read_picture(first.path).tobytes()


def test_files_of_other_studios_are_taken_in(open_gallery):
    texts = PngImagePlugin.PngInfo()
    texts.add_text("parameters", "a fox\nSteps: 9, Sampler: Euler, Seed: 77, Size: 64x64, Clip skip: 2")
    entry, lost = open_gallery().take_in(images.encoded(Image.new("RGB", (64, 64), "teal"), "PNG", pnginfo=texts))
    assert (entry.prompt, entry.seed, lost) == ("a fox", 77, ["Clip skip"])
    made = request_of(entry.record)
    assert (made.steps, made.sampler) == (9, "euler") and entry.record["imported"]
    with pytest.raises(BadPicture, match="holds no settings"):
        open_gallery().take_in(images.png_bytes(Image.new("RGB", (64, 64))))


def test_others_read_the_settings_of_a_picture(open_gallery):
    gallery = open_gallery()
    (number,) = fill(gallery, "a fox", steps=7)
    assert images.read_texts(gallery.get(number).path)["parameters"].startswith("a fox\nSteps: 7, Sampler: DPM++ 2M, ")


# ---------------------------------------------------------------- many


def test_a_page_of_many_pictures_reads_no_file_and_no_record(open_gallery, monkeypatch):
    gallery = open_gallery()
    fill(gallery, *(f"fox {i}" for i in range(30)))
    monkeypatch.setattr(images, "read_record", lambda path: pytest.fail("read"))
    assert len(gallery.find(Search(words="fox"), 24)) == 24
    with gallery._database() as connection:
        plan = connection.execute(
            "EXPLAIN QUERY PLAN SELECT id FROM pictures WHERE user = '' AND deleted IS NULL "
            "ORDER BY created DESC, rowid DESC LIMIT 24"
        ).fetchall()
    assert "pictures_by_time" in plan[0]["detail"]
