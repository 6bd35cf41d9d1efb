"""Every route under attack: rebound names, pages of other sites, headers that do not parse, websockets."""

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from studio.security import TOLD, Guard

METHODS = ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"]
UNSAFE = METHODS[3:]


def client(bound="127.0.0.1"):
    async def answer(request):
        return PlainTextResponse("through")

    async def talk(websocket):
        await websocket.accept()
        await websocket.send_text("through")
        await websocket.close()

    routes = [Route("/", answer, methods=METHODS), WebSocketRoute("/talk", talk)]
    return TestClient(Starlette(routes=routes, middleware=[Guard.middleware(bound)]), base_url="http://localhost:7860")


def ask(method="GET", bound="127.0.0.1", **headers):
    return client(bound).request(method, "/", headers={name.replace("_", "-"): text for name, text in headers.items()})


@pytest.mark.parametrize("host", ["LocalHost:7860", "127.0.0.1:1", "[::1]", "studio.lan:80"])
def test_its_own_names_are_answered(host):
    assert ask(bound="Studio.lan", host=host).text == "through"


@pytest.mark.parametrize("host", [
    "evil.example:7860", "127.0.0.1.nip.io", "evil@localhost", "localhost/evil", "localhost?", "localhost#",
    "localhost:evil", "localhost evil", "[::1", "::1", "10.0.0.1", ":7860",
])  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_other_names_are_refused(host, method):
    found = ask(method, host=host)
    assert found.status_code == 400 and "does not answer to that name" in found.text


@pytest.mark.parametrize("bound", ["0.0.0.0", "::"])
def test_on_a_network_addresses_are_answered_and_rebound_names_are_not(bound, monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "Easel")
    for host in ("192.168.1.5:7860", "[fe80::1]:7860", "localhost", "easel:7860", "easel.local"):
        assert ask(bound=bound, host=host).text == "through", host
    for host in ("evil.example", "192.168.1.5.nip.io", "easel.example"):
        assert ask(bound=bound, host=host).status_code == 400, host
    assert ask("POST", bound, host="192.168.1.5:7860", origin="http://evil.example").status_code == 403


@pytest.mark.parametrize("origin", [
    "http://evil.example", "null", "http://localhost", "http://127.0.0.1:7860", "http://localhost:7860.evil.example",
    "http://evil@localhost:7860", "http://[::1", "", "localhost:7860",
])  # fmt: skip
@pytest.mark.parametrize("method", UNSAFE)
def test_other_pages_are_refused(origin, method):
    found = ask(method, origin=origin)
    assert found.status_code == 403 and "from other pages" in found.text


@pytest.mark.parametrize("method", METHODS)
def test_its_own_page_and_programs_are_answered(method):
    assert ask(method, origin="http://localhost:7860", sec_fetch_site="same-origin").status_code == 200
    assert ask(method).status_code == 200  # a program sends no Origin


def test_a_link_on_another_site_leads_here_and_no_form_does():
    assert ask("GET", sec_fetch_site="cross-site").text == "through"
    assert [ask(method, sec_fetch_site="cross-site").status_code for method in UNSAFE] == [403] * len(UNSAFE)


@pytest.mark.parametrize("headers", [
    {"host": "evil.example"}, {"origin": "http://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}
])  # fmt: skip
def test_websockets_of_other_pages_are_refused(headers):
    with pytest.raises(WebSocketDisconnect), client().websocket_connect("/talk", headers=headers):
        pass


def test_its_own_websocket_is_answered():
    headers = {"host": "localhost:7860", "origin": "http://localhost:7860"}
    with client().websocket_connect("/talk", headers=headers) as websocket:
        assert websocket.receive_text() == "through"


@pytest.mark.parametrize("headers", [{"host": "evil.example"}, {"origin": "null"}], ids=["400", "403"])
def test_refusals_carry_the_same_headers(headers):
    found = ask("POST", **headers)
    assert {name: found.headers[name] for name in TOLD} == TOLD
