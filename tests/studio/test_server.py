"""The studio in the hands of its users."""

import pytest

from engines.errors import BadRequest
from engines.requests import GenerateRequest
from studio.database import Database
from studio.gallery import Gallery, Search
from studio.server import Own, serve


def test_everything_is_done_in_the_name_of_who_asks(open_jobs):
    jobs, who = open_jobs(), ["ann"]
    own, pictures = Own(jobs, lambda: who[0]), Own(jobs._gallery, lambda: who[0])
    job = own.submit(GenerateRequest(prompt="a"))
    *_, end = own.watch(job)
    assert end.state == "done" and [entry.user for entry in end.entries] == ["ann"]
    assert pictures.count(Search()) == 1 and pictures.thumbnail(end.entries[0]).exists()
    who[0] = "ben"
    assert pictures.count(Search()) == 0 and own.listed() == []
    with pytest.raises(BadRequest, match="no such job"):
        own.state(job)


def test_a_lost_database_gives_everybody_their_pictures_back(tmp_path, open_jobs):
    jobs = open_jobs()
    for user in ("ann", "ben", ""):
        *_, end = jobs.watch(jobs.submit(GenerateRequest(prompt=f"of {user}"), user), user=user)
    for path in tmp_path.glob("atelier.db*"):
        path.unlink()
    gallery = Gallery(tmp_path, Database(tmp_path / "atelier.db"))
    for user in ("ann", "ben", ""):
        assert [entry.prompt for entry in gallery.find(Search(), 9, user=user)] == [f"of {user}"]


@pytest.mark.parametrize("options, words", [
    ({"host": "0.0.0.0"}, "use --listen"),
    ({"host": "127.0.0.1", "listen": True}, "app.py login NAME"),
])
def test_nothing_is_open_by_chance(tmp_path, options, words):
    with pytest.raises(BadRequest, match=words):
        serve(tmp_path, port=0, devices=["cpu"], **options)
