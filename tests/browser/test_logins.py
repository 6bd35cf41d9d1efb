"""A studio for others: who has no login stays outside, and everybody sees their own pictures alone."""

import json

import pytest
from playwright.sync_api import expect

from studio.logins import Logins
from tests.browser.artist import Artist
from tests.browser.conftest import running

PASSWORDS = {"ann": "correct horse", "ben": "battery staple"}


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    home = tmp_path_factory.mktemp("shared")
    logins = Logins(home)
    for name, password in PASSWORDS.items():
        logins.add(name, password)
    with running(home, "--listen") as url:
        yield url


def enter(browser, address, name):
    page = browser.new_context(locale="en-GB").new_page()
    page.goto(address)
    page.get_by_label("username").fill(name)
    page.get_by_label("password").fill(PASSWORDS[name])
    page.get_by_role("button", name="Login").click()
    expect(page.locator("#generate-run")).to_be_visible()
    return Artist(page, address)


def test_each_sees_their_own(browser, shared):
    ann, ben = (enter(browser, shared, name) for name in PASSWORDS)
    ann.ask("a zebra, flat", seed=1)
    drawn = ann.draw()
    assert drawn
    ann.tab("Gallery")
    expect(ann.find("#gallery-line")).to_contain_text("1 pictures")
    ben.page.reload()
    ben.tab("Gallery")
    expect(ben.find("#gallery-line")).to_contain_text("0 pictures")
    for artist in (ann, ben):
        artist.page.context.close()


def test_a_stranger_gets_nothing(browser, shared):
    context = browser.new_context()
    page = context.new_page()
    page.goto(shared)
    expect(page.get_by_label("password")).to_be_visible()
    expect(page.locator("#generate-run")).to_have_count(0)
    for path in ("/config", "/gradio_api/info"):
        assert page.request.get(shared + path).status == 401
    joined = page.request.post(
        shared + "/gradio_api/queue/join", data=json.dumps({"fn_index": 0, "data": [], "session_hash": "x"}),
        headers={"content-type": "application/json"},
    )  # fmt: skip
    assert joined.status == 401
    context.close()

