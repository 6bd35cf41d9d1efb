"""Who may speak to the studio."""

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from studio.security import Guard


@pytest.fixture
def client():
    routes = [Route("/", lambda request: PlainTextResponse("page"), methods=["GET", "POST"])]
    return TestClient(Starlette(routes=routes, middleware=[Guard.middleware("127.0.0.1")]))


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost", "localhost:80", "[::1]:7860"])
def test_the_studios_own_names_are_answered_and_told_to_be_careful(client, host):
    answer = client.get("/", headers={"host": host})
    assert answer.text == "page"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["x-frame-options"] == "SAMEORIGIN"


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "localhost@evil.example", "[::2]"])
def test_other_names_are_refused(client, host):
    answer = client.get("/", headers={"host": host})
    assert answer.status_code == 400 and "does not answer to that name" in answer.text


HERE = {"host": "localhost:7860"}


@pytest.mark.parametrize("headers", [
    {"origin": "https://evil.example"},
    {"origin": "null"},
    {"origin": "http://localhost:1234"},
    {"sec-fetch-site": "cross-site"},
])
def test_pages_of_other_sites_are_refused(client, headers):
    answer = client.post("/", headers=HERE | headers)
    assert answer.status_code == 403 and "from other pages" in answer.text


@pytest.mark.parametrize("headers", [{}, {"origin": "http://localhost:7860"}, {"sec-fetch-site": "same-origin"}])
def test_the_own_page_is_heard(client, headers):
    assert client.post("/", headers=HERE | headers).text == "page"
