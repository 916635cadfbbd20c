"""Requests to `timesformer app` that its page wouldn't send: paths, other users' files, and Gradio's own routes."""

import asyncio
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

import timesformer_jax as tsf
from tests.browser.conftest import MAX_BYTES, ROOT, started
from timesformer_jax.app.checkpoint import Checkpoint
from timesformer_jax.app.store import IDLE_SECONDS, Store
from timesformer_jax.video import Limits

pytestmark = pytest.mark.browser

SECRET = "root:"
"""What /etc/passwd begins with."""


RECORDER = """
import sys

def record(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        open({file!r}, "a").write(f"{{event}} {{arguments[1:] if event == 'socket.connect' else arguments}}\\n")

sys.addaudithook(record)
"""
"""Module that Python imports at its start."""


def ask(app: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, str]:
    """Send a request whose path isn't tidied up, and return the status and the beginning of the answer."""
    connection = http.client.HTTPConnection(urlsplit(app).netloc, timeout=30)
    connection.putrequest("GET" if body is None else "POST", path)
    for name, value in {**headers, **({} if body is None else {"Content-Length": str(len(body))})}.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders(body)
    answer = connection.getresponse()
    text = answer.read(4096).decode("utf-8", "replace")
    connection.close()
    return answer.status, text


def upload(app: str, content: bytes, name: str = "a.mp4") -> dict[str, Any]:
    return json.loads(ask(app, f"/upload?name={name}", content)[1])


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=../../../../etc/passwd",
        "/gradio_api/file/etc/passwd",
        "/file=/etc/passwd",
        "/static/..%2f..%2f..%2f..%2f..%2f..%2f..%2fetc/passwd",
        "/assets/..%2f..%2fetc%2fpasswd",
        "/assets/../../../../../../../../etc/passwd",
        "/static/js/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/theme.css/../../../../etc/passwd",
        "/media/../../../etc/passwd",
        "/media/x/..%2f..%2f..%2fetc%2fpasswd",
        "/media/%2fetc/passwd",
        "//etc/passwd",
        "/gradio_api/proxy=http://127.0.0.1:1/",
        "/gradio_api/file=http://127.0.0.1:1/",
        "/gradio_api/custom_component/x/client/component/..%2f..%2f..%2fetc%2fpasswd",
        "/gradio_api/stream/x/y/1/playlist-file",
        "/svelte/../../etc/passwd",
    ],
)
def test_no_path_is_readable(app: str, path: str):
    status, text = ask(app, path)
    assert status in (403, 404)
    assert SECRET not in text


@pytest.mark.parametrize(
    "data",
    [
        [{"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}, 0.65],
        [{"path": "/etc/passwd", "url": "http://127.0.0.1:1/", "orig_name": "a"}, 0.65],
        ["/etc/passwd", "relevance", "relevance", 0.65],
        [{"token": "/etc/passwd"}, 0.65],
        ["relevance", {"path": "/etc/passwd"}],
    ],
)
@pytest.mark.parametrize("event", [{"token": "/etc/passwd"}, {"token": "../../../etc/passwd"}, {"number": "/etc/passwd"}, None])
def test_no_event_takes_a_path(app: str, uploads: Path, data: list[Any], event: Any):
    for function in range(4):
        asked = {"data": data, "fn_index": function, "session_hash": "probe", "event_data": event, "trigger_id": 1}
        status, text = ask(app, "/gradio_api/queue/join", json.dumps(asked).encode(), Content_Type="application/json")
        assert status in (200, 400, 403, 422, 500)
        assert SECRET not in text
    assert not any(path.is_file() and path.read_bytes().startswith(SECRET.encode()) for path in uploads.rglob("*"))


def test_names_of_uploads_choose_no_place(app: str, uploads: Path, videos: dict[str, Path]):
    content = videos["down"].read_bytes()
    for name in ("../../evil.mp4", "..%2f..%2fevil.mp4", "/etc/evil.mp4", "%00evil.mp4", "evil" * 500 + ".mp4", ""):
        assert set(upload(app, content, name)) == {"token"}
    assert not list(uploads.rglob("*evil*"))
    assert not (uploads.parent / "evil.mp4").exists()


def test_uploads_themselves_are_not_given_back(app: str, videos: dict[str, Path]):
    token = upload(app, videos["down"].read_bytes())["token"]
    for name in ("video.mp4", "video", "", "."):
        assert ask(app, f"/media/{token}/{name}")[0] == 404


def test_upload_over_the_limit_is_refused_whatever_it_announces(app: str, uploads: Path):
    before = sorted(uploads.rglob("video*"))
    assert "max_bytes" in upload(app, b"x" * (MAX_BYTES + 1))["error"]
    connection = http.client.HTTPConnection(urlsplit(app).netloc, timeout=30)
    chunks = (b"x" * 65536 for _ in range(MAX_BYTES // 65536 + 2))
    try:
        connection.request("POST", "/upload?name=a.mp4", chunks, encode_chunked=True)
        assert "max_bytes" in json.loads(connection.getresponse().read())["error"]
    except (BrokenPipeError, ConnectionResetError):
        pass  # the server has hung up before the end
    finally:
        connection.close()
    assert sorted(uploads.rglob("video*")) == before


def test_broken_off_upload_leaves_nothing(app: str, uploads: Path):
    before = sorted(uploads.rglob("video*"))
    with socket.create_connection(("127.0.0.1", urlsplit(app).port or 0)) as connection:
        connection.sendall(b"POST /upload?name=half.mp4 HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\nhalf")
    done = threading.Event()
    for _ in range(100):
        if sorted(uploads.rglob("video*")) == before:
            break
        done.wait(0.1)
    assert sorted(uploads.rglob("video*")) == before


def test_video_is_kept_while_it_is_analysed(checkpoints: list[Path], videos: dict[str, Path]):
    """Its analysis may take longer than the time after which an idle video is removed."""
    import gradio as gr

    from timesformer_jax.app.page import build_page

    now = [0.0]
    store = Store(clock=lambda: now[0])

    async def build() -> gr.Blocks:  # outside a running event loop, Gradio makes its own and doesn't close them
        return build_page([Checkpoint("divided", tsf.load(checkpoints[0]))], store, Limits())

    blocks = asyncio.run(build())
    (uploaded,) = (each.fn for each in blocks.fns.values() if each.name == "uploaded")
    upload = store.add("a.mp4")
    shutil.copyfile(videos["across"], upload.video)
    event = gr.EventData(None, {"token": upload.token})
    for _ in uploaded("relevance", 0.5, event, gr.Request(session_hash="page")):
        now[0] += 2 * IDLE_SECONDS
        store.remove_idle()
        assert upload.video.exists()
    now[0] += 2 * IDLE_SECONDS
    store.remove_idle()
    assert not upload.video.exists()
    store.close()


def test_page_and_its_files_name_no_other_host(app: str):
    status, page = ask(app, "/")
    assert status == 200
    assert "googleapis" not in page
    assert "cdn" not in page
    theme = ask(app, "/theme.css")[1]
    assert "@import" not in theme
    assert "url(" not in theme


def test_foreign_hosts_and_sites_are_refused(app: str):
    assert ask(app, "/", Host="elsewhere.example")[0] in (400, 403)
    assert ask(app, "/upload?name=a", b"x", Origin="https://elsewhere.example")[0] == 403


def test_server_asks_no_other_machine(checkpoints: list[Path], videos: dict[str, Path], tmp_path: Path):
    """Every look-up of a name and every connection of the process is recorded from its start."""
    recorded = tmp_path / "connections.txt"
    recorded.touch()
    (tmp_path / "sitecustomize.py").write_text(RECORDER.format(file=str(recorded)))
    command = [sys.executable, "-m", "timesformer_jax", "app", "--port=0", f"--checkpoint={checkpoints[0]}"]
    with started(command, {"PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}) as app:
        assert ask(app, "/")[0] == 200
        upload(app, videos["down"].read_bytes())
    lines = recorded.read_text().splitlines()
    assert lines, "the socket to listen on is looked up, at least"
    assert [line for line in lines if "127.0.0.1" not in line and "socket.connect ('/" not in line] == []


def test_port_in_use_is_one_sentence(app: str, checkpoints: list[Path]):
    command = [sys.executable, "-m", "timesformer_jax", "app", f"--port={urlsplit(app).port}", f"--checkpoint={checkpoints[0]}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"Error: Port {urlsplit(app).port} is in use: give another with --port, or --port=0 for any that is free."
    )
