"""Who may speak to the studio: names it answers to, pages it listens to, and what browsers are told."""

from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse

LOCAL = ("localhost", "127.0.0.1", "::1")
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
        self.any_host = host in ("0.0.0.0", "::")  # served to a network on purpose: names are not known

    @classmethod
    def middleware(cls, host):
        """As Starlette's list of middleware takes it."""
        return Middleware(cls, host=host)

    async def __call__(self, scope, receive, send):
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        headers = Headers(scope=scope)
        refusal = self._refusal(headers, scope.get("method", "websocket"))
        if refusal is None:
            return await self.app(scope, receive, _telling(send))
        if scope["type"] == "websocket":
            return await send({"type": "websocket.close", "code": 1008})
        status, sentence = refusal
        return await PlainTextResponse(sentence, status)(scope, receive, send)

    def _refusal(self, headers, method):
        host = headers.get("host", "")
        if not self.any_host and _name(f"//{host}") not in self.hosts:
            return 400, "This studio does not answer to that name; open it by the address that it printed."
        origin = headers.get("origin")
        foreign = origin is not None and urlsplit(origin).netloc.lower() != host.lower()
        crossed = headers.get("sec-fetch-site") == "cross-site" and method not in SAFE
        if foreign or crossed:
            return 403, "This studio takes no requests from other pages; use its own."
        return None


def _name(address):
    try:
        return (urlsplit(address).hostname or "").lower()
    except ValueError:
        return ""


def _telling(send):
    async def tell(message):
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in TOLD.items():
                headers[name] = value
        await send(message)

    return tell
