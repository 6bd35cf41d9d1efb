"""What a kill, a lost database or a stranger's file leaves behind, and what the next start makes of it."""

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from engines import requests
from engines.errors import BadRequest
from engines.requests import GenerateRequest, ReconstructRequest
from studio import images
from studio.database import MIGRATIONS, Database
from studio.gallery import Gallery, request_of
from studio.home import open_home

ROOT = Path(__file__).parents[2]
RED = Image.new("RGB", (16, 8), "red")
SOURCE = images.png_bytes(RED)


def record_of(request):
    return {"request": json.loads(requests.to_json(request)), "model_sha256": "ab" * 32}


FOX = record_of(GenerateRequest(prompt="a fox"))


def opened(home):
    return Gallery(home, Database(home / "atelier.db"))


def python(code, *arguments):
    """Another process that runs `code`; it is killed, or ends with its input."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip


def kill(process):
    process.kill()
    process.communicate()


# ---------------------------------------------------------------- pictures


@pytest.mark.parametrize("request_made", [
    GenerateRequest(prompt="狐狸", negative="blue", seed=2**32 - 1, cfg_scale=2.5, image=SOURCE, strength=0.3),
    ReconstructRequest(image=SOURCE, max_side=256),
], ids=["generate", "reconstruct"])  # fmt: skip
def test_the_png_alone_replays_the_picture(tmp_path, request_made):
    entry = opened(tmp_path).add(RED, record_of(request_made), seed=1)
    assert request_of(images.read_record(entry.path.read_bytes())) == request_made


def test_settings_of_another_version_are_refused():
    with pytest.raises(BadRequest, match="whirl"):
        request_of({"request": {"task": "generate", "prompt": "a", "whirl": 3}})


def test_recent_pictures_are_turned_page_by_page(tmp_path):
    gallery = opened(tmp_path)
    ids = [gallery.add(RED, FOX, seed).id for seed in range(5)][::-1]
    assert [entry.id for entry in gallery.recent(2)] + [entry.id for entry in gallery.recent(9, offset=2)] == ids
    other = gallery.add(RED, record_of(ReconstructRequest(image=SOURCE))).id
    assert [entry.id for entry in gallery.recent(9, task="reconstruct")] == [other]


def test_a_picture_is_whole_on_disk_before_its_row(tmp_path, monkeypatch):
    gallery, seen = opened(tmp_path), []
    insert = gallery._insert

    def spied(number, path, *rest):
        seen.append((images.png_bytes(images.read_picture(path)), gallery.get(number)))
        return insert(number, path, *rest)

    monkeypatch.setattr(gallery, "_insert", spied)
    gallery.add(RED, FOX)
    assert seen == [(SOURCE, None)]


def test_a_lost_database_is_made_again_from_the_files(tmp_path):
    gallery = opened(tmp_path)
    made = [gallery.add(RED, FOX, 3, "j"), gallery.add(RED, record_of(ReconstructRequest(image=SOURCE)))]
    for path in tmp_path.glob("atelier.db*"):
        path.unlink()
    gallery = opened(tmp_path)
    for entry in made:
        found = gallery.get(entry.id)
        assert abs(found.created - entry.created) < 60  # when the file was written
        assert (found.path, found.task, found.seed, found.prompt, found.job, found.record) == (
            entry.path, entry.task, entry.seed, entry.prompt, entry.job, entry.record
        )  # fmt: skip


def test_a_moved_file_is_found_where_it_lies(tmp_path):
    entry = opened(tmp_path).add(RED, FOX, 4)
    there = tmp_path / "gallery" / "best" / entry.path.name
    there.parent.mkdir()
    entry.path.rename(there)
    (found,) = opened(tmp_path).recent(9)
    assert (found.id, found.path, found.seed) == (entry.id, there, 4)


def test_a_copy_in_another_folder_does_not_stop_the_start(tmp_path):
    entry = opened(tmp_path).add(RED, FOX)
    copy = tmp_path / "gallery" / "copy" / entry.path.name
    copy.parent.mkdir()
    copy.write_bytes(entry.path.read_bytes())
    (found,) = opened(tmp_path).recent(9)
    assert found.id == entry.id and found.path in (entry.path, copy)


def test_damaged_and_strange_files_do_not_stop_the_start(tmp_path):
    whole = opened(tmp_path).add(RED, FOX)
    folder = tmp_path / "gallery"
    for name, data in {"plain": SOURCE, "words": b"no picture", "cut": whole.path.read_bytes()[:-40]}.items():
        (folder / f"{name}.png").write_bytes(data)
    for name, request in {"task": {}, "prompt": {"task": "generate", "prompt": []}, "seed": FOX["request"]}.items():
        images.write_png(folder / f"{name}.png", RED, {"request": request, "seed": 2**80})
    before = {path: path.read_bytes() for path in folder.glob("*.png")}
    assert len(before) == 6
    assert opened(tmp_path).recent(9) == [whole]
    assert {path: path.read_bytes() for path in folder.glob("*.png")} == before


# ---------------------------------------------------------------- jobs


KILLED = """
import sys
from pathlib import Path
from engines.requests import GenerateRequest
from studio.database import MIGRATIONS, Database
from studio.gallery import Gallery
from studio.jobs import Jobs
from tests.studio.conftest import StandIn
home, worker = Path(sys.argv[1]), StandIn()
database = Database(home / "atelier.db")
jobs = Jobs([worker], Gallery(home, database), database)
done = jobs.submit(GenerateRequest(prompt="done", count=2))
list(jobs.watch(done))
worker.hold_seed(6)
running = jobs.submit(GenerateRequest(prompt="running", count=3, steps=4, seed=5))
next(state for state in jobs.watch(running) if state.progress and state.progress.index == 5)
print(done, running, *[jobs.submit(GenerateRequest(prompt=prompt)) for prompt in "ab"], flush=True)
sys.stdin.read()
"""


def test_a_kill_loses_nothing_that_was_committed(tmp_path, open_jobs, worker):
    killed = python(KILLED, tmp_path)
    done, running, *waiting = killed.stdout.readline().split()
    kill(killed)
    jobs = open_jobs()
    before = jobs.state(done)
    assert before.state == "done" and len(before.entries) == 2 and before.result is None
    assert all(images.read_picture(entry.path).size == (16, 16) for entry in before.entries)
    resumed = [*jobs.watch(running)][-1]
    assert resumed.state == "done" and [entry.seed for entry in resumed.entries] == [5, 6, 7]
    assert [[*jobs.watch(job)][-1].state for job in waiting] == ["done", "done"]
    assert worker.seen == ["running", "running", "a", "b"]  # the picture that was finished is not drawn again


def test_what_goes_on_after_a_kill_says_so(tmp_path, open_jobs, worker):
    killed = python(KILLED, tmp_path)
    _, running, *_ = killed.stdout.readline().split()
    kill(killed)
    worker.hold_seed(6)
    states = open_jobs().watch(running, every=0.05)
    assert all(next(states).resumed for _ in range(3))


def test_a_database_of_the_version_before_is_brought_up_and_a_newer_one_refused(tmp_path):
    path = tmp_path / "atelier.db"
    with sqlite3.connect(path) as connection:
        connection.executescript(MIGRATIONS[0])
        request = requests.to_json(GenerateRequest(prompt="a"))
        connection.execute("INSERT INTO jobs VALUES ('old', 1, 'waiting', ?, '')", (request,))
    (row,) = Database(path)().execute("SELECT * FROM jobs").fetchall()
    assert (row["id"], row["user"], row["place"], row["held"], row["attempts"]) == ("old", "", 1, 0, 0)
    assert Database(path)().execute("PRAGMA user_version").fetchone()[0] == len(MIGRATIONS)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 999")
    with pytest.raises(BadRequest, match="newer Atelier"):
        Database(path)


def test_a_waiting_request_of_another_version_fails_with_a_sentence(tmp_path, open_jobs):
    with Database(tmp_path / "atelier.db")() as connection:
        connection.execute(
            "INSERT INTO jobs (id, created, state, request) VALUES ('old', 1, 'waiting', '{\"task\": \"sculpt\"}')"
        )
    jobs = open_jobs()
    assert jobs.state("old").state == "failed" and jobs.state("old").error.endswith(".")
    assert [*jobs.watch(jobs.submit(GenerateRequest(prompt="a")))][-1].state == "done"


# ---------------------------------------------------------------- the home


def test_a_killed_studio_holds_no_home(tmp_path):
    first = python("import sys, studio.home as h; print(h.open_home(sys.argv[1]), flush=True); input()", tmp_path)
    assert first.stdout.readline().strip() == str(tmp_path.resolve())
    with pytest.raises(BadRequest, match="Another studio runs on"):
        open_home(tmp_path)
    kill(first)
    assert open_home(tmp_path) == tmp_path.resolve()
