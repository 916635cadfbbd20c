"""ASGI wrapper that decides which requests reach Gradio, and what pages may load.

Gradio has routes that read files by path and fetch other addresses. The page needs none of them: videos come and go under
tokens (`server.py`). So everything that isn't in a short table is answered with 404, and a policy in the page's headers forbids
browsers to load anything from elsewhere.
"""

import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

OPEN: dict[str, tuple[str, ...]] = {
    "GET": (
        *("/", "/theme.css", "/favicon.ico", "/manifest.json"),
        *("/assets/[^/]+", "/static/(js|fonts|img)/[^/]+(/[^/]+)*", "/media/[^/]+/[^/]+"),
        *("/gradio_api/heartbeat/[^/]+", "/gradio_api/queue/data"),
    ),
    "POST": ("/upload", "/gradio_api/queue/join", "/gradio_api/(cancel|reset)"),
}
"""Maps a method to the paths that may be asked for, as regular expressions."""

LONGEST_BODY = 1 << 16
"""Maximum bytes of a request to Gradio: the page sends a token and a few choices."""
FILES = "gradio.FileData"
"""Mark of files in requests to Gradio, which would copy or download them; the page sends none."""

POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",  # Gradio compiles its templates in the browser
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "media-src 'self' blob:",
        "font-src 'self' data:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "content-security-policy": POLICY,
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
}
LOOPBACK = ("127.0.0.1", "localhost", "::1")

_ELSEWHERE = re.compile(rb"<meta\b[^>]*https?://[^>]*>\s*")
"""Elements of Gradio's page that name other hosts: pictures for links in social networks."""


class Guard:
    """ASGI application in front of another.

    Args:
        app: The application that gets the requests in `OPEN`.
        names: Names of this host that requests may address; None for any. A page of another site whose name was made to point
            here would come with that name.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], names: tuple[str, ...] | None):
        self.app, self.names = app, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is None and scope["path"].startswith("/gradio_api/") and scope["method"] == "POST":
            body, refusal = await _read(receive)
            receive = _replay(body, receive)
        if refusal is not None:
            await _answer(send, *refusal)
        elif scope["path"] == "/":
            await self.app({**scope, "headers": _uncompressed(scope)}, receive, _strip(_with_headers(send)))
        else:
            await self.app(scope, receive, _with_headers(send))

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Return the status and text for a request that is refused; None for one that is allowed."""
        if scope["type"] != "http":
            return 404, "Not found."
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        if not any(re.fullmatch(path, scope["path"]) for path in OPEN.get(method, ())) or ".." in scope["path"]:
            return 404, "Not found."
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        origin = headers.get("origin")
        try:
            host = urlsplit(f"//{headers.get('host', '')}")
            from_here = origin is None or urlsplit(origin).netloc == host.netloc
        except ValueError:
            return 400, "The request names no host."
        if self.names is not None and host.hostname not in self.names:
            return 403, "This server answers to its own name only."
        if method == "POST" and not from_here:
            return 403, "Other sites' pages may not ask this server."
        return None


async def _read(receive: Receive) -> tuple[bytes, tuple[int, str] | None]:
    """Read a request to Gradio; return it, and the refusal of one that the page wouldn't send."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False) and len(body) <= LONGEST_BODY
    if len(body) > LONGEST_BODY:
        return b"", (413, "The request is too long.")
    try:
        said = json.dumps(json.loads(body), ensure_ascii=False)  # as Gradio's framework reads it, in any encoding of JSON
    except (ValueError, RecursionError):
        return b"", (400, "The request isn't JSON.")
    if FILES in said:
        return b"", (403, "Files are sent to /upload.")
    return body, None


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a function that gives the body that was read, and then what comes next."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> MutableMapping[str, Any]:
        return waiting.pop() if waiting else await receive()

    return again


def _uncompressed(scope: Scope) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in scope["headers"] if name.lower() != b"accept-encoding"]


def _with_headers(send: Send) -> Send:
    """Return a function that adds `HEADERS` to the response that it sends."""
    added = [(name.encode(), value.encode()) for name, value in HEADERS.items()]

    async def sending(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *added]}
        await send(message)

    return sending


def _strip(send: Send) -> Send:
    """Return a function that removes what names other hosts from the page that it sends."""
    parts: list[bytes] = []
    start: list[MutableMapping[str, Any]] = []

    async def sending(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            start.append(message)
            return
        parts.append(message.get("body", b""))
        if message.get("more_body", False):
            return
        whole = b"".join(parts)
        body = _ELSEWHERE.sub(b"", whole)
        headers = [(name, value) for name, value in start[0]["headers"] if name.lower() != b"content-length"]
        if whole:  # the answer to HEAD has none
            headers.append((b"content-length", str(len(body)).encode()))
        await send({**start[0], "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return sending


async def _answer(send: Send, status: int, text: str) -> None:
    body = text.encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await _with_headers(send)({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
