"""Logins: passwords are hashed and checked, and guessing is slow."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from engines.errors import BadRequest
from studio import logins
from studio.logins import Logins


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(logins.time, "monotonic", lambda: now[0])
    return now


def test_a_login_lets_in_by_its_password_alone(tmp_path):
    Logins(tmp_path).add("ann", "correct horse")
    opened = Logins(tmp_path)
    assert opened.check("ann", "correct horse")
    assert not opened.check("ann", "correct horse ")
    assert not opened.check("ben", "correct horse")
    assert not opened.check("ann", "")


def test_the_file_holds_no_password_and_is_the_owners(tmp_path):
    made = Logins(tmp_path)
    made.add("ann", "correct horse")
    made.add("ben", "correct horse")
    text = made.path.read_text()
    assert "correct" not in text
    assert len(set(text.split('"hash": "')[1:])) == 2  # the same password twice is not seen to be the same
    assert made.path.stat().st_mode & 0o077 == 0


def test_a_new_password_takes_the_place_of_the_old(tmp_path):
    made = Logins(tmp_path)
    made.add("ann", "correct horse")
    made.add("ann", "battery staple")
    assert made.check("ann", "battery staple") and not made.check("ann", "correct horse")


@pytest.mark.parametrize("name", ["", "Ann", "../ann", "a b", "@ann", "-ann", "a" * 33, "安"])
def test_names_are_plain(tmp_path, name):
    with pytest.raises(BadRequest, match="cannot be a name"):
        Logins(tmp_path).add(name, "correct horse")


def test_short_passwords_are_refused(tmp_path):
    with pytest.raises(BadRequest, match="has 7 characters"):
        Logins(tmp_path).add("ann", "horse77")


def test_ten_tries_a_minute(tmp_path, clock):
    made = Logins(tmp_path)
    made.add("ann", "correct horse")
    for _ in range(10):
        assert not made.check("ann", "guess")
    assert not made.check("ann", "correct horse")
    clock[0] += 61
    assert made.check("ann", "correct horse")


def test_a_hundred_tries_a_minute_by_whatever_names(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(logins, "_hash", lambda *_: "another")
    made = Logins(tmp_path)
    assert not any(made.check(f"guess{number}", "x") and number >= 100 for number in range(120))
    assert len(made._tried) == 100


def test_a_running_studio_knows_a_new_password(tmp_path):
    running = Logins(tmp_path)
    Logins(tmp_path).add("ann", "correct horse")
    with ThreadPoolExecutor(1) as apart:  # a loop of its own, whatever runs in this thread
        assert apart.submit(asyncio.run, running.enter("ann", "correct horse")).result() and len(running) == 1


def test_a_file_that_is_none_gets_a_sentence(tmp_path):
    (tmp_path / "logins.json").write_text("{")
    with pytest.raises(BadRequest, match="cannot be read"):
        Logins(tmp_path)
