"""Who may speak to the studio: names it answers to, pages it listens to, and what browsers are told."""

import ipaddress
import re
import socket
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse

LOCAL = ("localhost", "127.0.0.1", "::1")
HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([^\s:/?#@\[\]]+))(?::\d+)?", re.IGNORECASE)  # a Host header: name and port
SAFE = ("GET", "HEAD", "OPTIONS")
TOLD = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "X-Frame-Options": "SAMEORIGIN"}


class Guard:
    """ASGI middleware: refuses foreign hosts with 400 and requests from other sites' pages with 403.

    Without the first, a name rebound to this machine reaches the studio; without the second, any page
    that the artist has open could start jobs and read pictures.
    """

    def __init__(self, app, host="127.0.0.1"):
        self.app = app
        self.hosts = {*LOCAL, host.lower()}
        # Served to a network, the studio goes by any address: a rebound name is a name, never an address.
        self.any_address = host in ("0.0.0.0", "::")
        if self.any_address:
            own = socket.gethostname().lower()
            self.hosts |= {own, f"{own}.local"}

    @classmethod
    def middleware(cls, host):
        """As Starlette's list of middleware takes it."""
        return Middleware(cls, host=host)

    async def __call__(self, scope, receive, send):
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        send = _telling(send)
        refusal = self._refusal(Headers(scope=scope), scope.get("method", "websocket"))
        if refusal is None:
            return await self.app(scope, receive, send)
        if scope["type"] == "websocket":
            return await send({"type": "websocket.close", "code": 1008})
        status, sentence = refusal
        return await PlainTextResponse(sentence, status)(scope, receive, send)

    def _refusal(self, headers, method):
        host = headers.get("host", "")
        if not self._answers_to(host):
            return 400, "This studio does not answer to that name; open it by the address that it printed."
        origin = headers.get("origin")
        foreign = origin is not None and _netloc(origin) != host.lower()
        crossed = headers.get("sec-fetch-site") == "cross-site" and method not in SAFE
        if foreign or crossed:
            return 403, "This studio takes no requests from other pages; use its own."
        return None

    def _answers_to(self, host):
        parts = HOST.fullmatch(host)
        name = (parts[1] or parts[2]).lower() if parts else ""
        return name in self.hosts or (self.any_address and _is_address(name))


def _netloc(origin):
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _is_address(name):
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _telling(send):
    async def tell(message):
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in TOLD.items():
                headers[name] = value
        await send(message)

    return tell
