"""The ASGI wrapper: which requests pass, and what is added to and removed from answers."""

import asyncio
from typing import Any

import pytest

from timesformer_jax.app.guard import LONGEST_BODY, LOOPBACK, Guard

PAGE = b'<html><meta charset="utf-8"><meta property="og:image" content="https://elsewhere.example/a.jpg"><h1>Page</h1></html>'
JOIN = "/gradio_api/queue/join"


def ask(
    path: str,
    method: str = "GET",
    *,
    headers: dict[str, str] | None = None,
    body: bytes = b"",
    names: tuple[str, ...] | None = LOOPBACK,
) -> tuple[int, dict[str, str], bytes, bytes | None]:
    """Return the status, headers and body of the answer, and the body that reached the application behind the guard."""
    reached: list[bytes] = []
    sent: list[Any] = []

    async def behind(scope: Any, receive: Any, send: Any) -> None:
        reached.append((await receive())["body"])
        answered = [(b"content-length", str(len(PAGE)).encode()), (b"x-encoding", str(scope["headers"]).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": answered})
        await send({"type": "http.response.body", "body": PAGE})

    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Any:
        return waiting.pop()

    async def send(message: Any) -> None:
        sent.append(message)

    given = {"host": "127.0.0.1:7860", "accept-encoding": "br", **(headers or {})}
    scope = {"type": "http", "method": method, "path": path, "query_string": b""}
    scope["headers"] = [(name.encode(), value.encode()) for name, value in given.items()]
    asyncio.run(Guard(behind, names)(scope, receive, send))
    answered = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], answered, sent[1]["body"], reached[0] if reached else None


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file/etc/passwd",
        "/gradio_api/file=https://elsewhere.example/a.jpg",
        "/gradio_api/proxy=https://elsewhere.example",
        "/gradio_api/upload",
        "/gradio_api/component_server",
        "/gradio_api/call/predict",
        "/gradio_api/info",
        "/gradio_api/deep_link",
        "/gradio_api/custom_component/a/client/b/c",
        "/monitoring",
        "/config",
        "/static/../../../../etc/passwd",
        "/static/js/../../../../../etc/passwd",
        "/assets/../index.html",
        "/assets/%2e%2e/index.html",
        "//etc/passwd",
        "/media/token",
        "/media/token/../../../etc/passwd",
        "/media/token/a/b",
        "/docs",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_routes_that_the_page_does_not_need_are_closed(path: str, method: str):
    status, _, body, reached = ask(path, method)
    assert (status, body, reached) == (404, b"Not found.", None)


@pytest.mark.parametrize(
    ("path", "method"),
    [
        ("/", "GET"),
        ("/", "HEAD"),
        ("/theme.css", "GET"),
        ("/assets/index.js", "GET"),
        ("/static/js/a.js", "GET"),
        ("/media/token/a.mp4", "GET"),
        ("/gradio_api/heartbeat/abc", "GET"),
        ("/gradio_api/queue/data", "GET"),
        (JOIN, "POST"),
        ("/upload", "POST"),
    ],
)
def test_routes_of_the_page_are_open(path: str, method: str):
    assert ask(path, method, body=b"{}" if path == JOIN else b"")[0] == 200


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "PATCH", "POST"])
def test_only_known_methods_pass(method: str):
    assert ask("/", method)[0] == 404


def test_answers_forbid_loading_from_elsewhere():
    for path in ("/", "/assets/a.js", "/docs"):
        policy = ask(path)[1]["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "http" not in policy


def test_page_names_no_other_host():
    _, headers, body, _ = ask("/")
    assert body == b'<html><meta charset="utf-8"><h1>Page</h1></html>'
    assert headers["content-length"] == str(len(body))
    assert "accept-encoding" not in headers["x-encoding"]  # a compressed page could not be searched
    assert ask("/assets/a.js")[2] == PAGE


@pytest.mark.parametrize(
    "mark", [b'"gradio.FileData"', rb'"\u0067radio.FileData"', rb'"gradio\u002EFileData"', rb'"gradio.Fil\u0065Data"']
)
def test_requests_with_files_are_refused(mark: bytes):
    body = b'{"data": [{"path": "/etc/passwd", "meta": {"_type": ' + mark + b"}}]}"
    for encoding in ("utf-8", "utf-16", "utf-16-le", "utf-32-be"):  # of which Python's parser takes each
        status, _, _, reached = ask(JOIN, "POST", body=body.decode().encode(encoding))
        assert (status, reached) == (403, None)


def test_requests_that_are_not_json_are_refused():
    for body in (b"", b"{", b"\xff\xfe\x00", b"[" * 60_000):
        assert ask(JOIN, "POST", body=body)[0] == 400


def test_requests_of_the_page_are_passed_on_whole():
    body = b'{"data": ["relevance", 0.65, "caf\\u00e9 \\ud83d\\ude00"]}'
    assert ask(JOIN, "POST", body=body)[3] == body


def test_long_requests_are_refused():
    assert ask(JOIN, "POST", body=b" " * (LONGEST_BODY + 1))[0] == 413


@pytest.mark.parametrize("header", ["host", "origin"])
def test_malformed_names_are_refused(header: str):
    assert ask("/upload", "POST", headers={header: "http://[" if header == "origin" else "["})[0] == 400


@pytest.mark.parametrize("host", ["elsewhere.example", "127.0.0.1.elsewhere.example:7860", ""])
def test_requests_under_another_name_are_refused(host: str):
    assert ask("/", headers={"host": host})[0] == 403
    assert ask("/", headers={"host": host}, names=None)[0] == 200


@pytest.mark.parametrize("path", ["/upload", JOIN])
def test_pages_of_other_sites_can_not_post(path: str):
    assert ask(path, "POST", headers={"origin": "https://elsewhere.example"})[0] == 403
    assert ask(path, "POST", headers={"origin": "null"})[0] == 403
    assert ask(path, "POST", headers={"origin": "http://127.0.0.1:7860"}, body=b"{}")[0] == 200
