"""The web server: Gradio's page behind the guard, uploads and the files made of them."""

# Gradio and what it brings are optional.
# pyright: reportMissingImports=false

import asyncio
import contextlib
import errno
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import PurePosixPath
from typing import Any

from timesformer_jax.app.checkpoint import Checkpoint
from timesformer_jax.app.guard import LOOPBACK, Guard
from timesformer_jax.app.store import Store
from timesformer_jax.errors import InputError
from timesformer_jax.extras import needs
from timesformer_jax.os_errors import sentence
from timesformer_jax.printable import printable
from timesformer_jax.video import Limits

SETTINGS = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}
"""Environment variables of Gradio, set before it is imported: nothing may leave the machine."""
TIDY_SECONDS = 60.0
"""Seconds between two searches for idle uploads."""
GRACE_SECONDS = 3
"""Seconds that requests have to end once the server stops."""
LONGEST_NAME = 100


def listen(host: str, port: int) -> socket.socket:
    """Open the server's socket; raises `InputError` if that isn't possible."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        opened = socket.socket(family, socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # the latter for a name that no resolver takes
        raise InputError(f"--host={host} is no address of this machine: {sentence(error, 'looking it up')}") from error
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
        opened.listen(128)
    except OSError as error:
        opened.close()
        if error.errno == errno.EADDRINUSE:
            raise InputError(f"Port {port} is in use: give another with --port, or --port=0 for any that is free.") from error
        raise InputError(sentence(error, f"Can't listen on {host}:{port}")) from error
    return opened


def serve(checkpoints: Sequence[Checkpoint], *, host: str, port: int, limits: Limits, max_side: int | None = None) -> None:
    """Serve the page until the process is interrupted; then remove all uploads.

    Args:
        checkpoints: The checkpoints to compare.
        host: Address or name to listen on.
        port: Port to listen on; 0 for any that is free.
        limits: Largest video to accept.
        max_side: Maximum of width and height in pixels of drawn videos; None for the video's own size.
    """
    store = Store()
    try:
        with listen(host, port) as opened:
            number = opened.getsockname()[1]
            app = build(checkpoints, store, limits, max_side, names=LOOPBACK if host in LOOPBACK else None)
            shown = f"[{host}]" if ":" in host else host
            print(f"Open http://{shown}:{number} in a browser. Ctrl-C stops.", flush=True)
            _run(app, opened)
    finally:
        store.close()


def build(
    checkpoints: Sequence[Checkpoint], store: Store, limits: Limits, max_side: int | None, *, names: tuple[str, ...] | None
) -> Guard:
    """Make the whole ASGI application; `names` as in `Guard`, and the others as in `serve`."""
    os.environ.update(SETTINGS, GRADIO_TEMP_DIR=str(store.folder), GRADIO_EXAMPLES_CACHE=str(store.folder))
    with needs("gradio", "The page", "timesformer app"):
        import fastapi
        import gradio
    from timesformer_jax.app import page

    app = fastapi.FastAPI(lifespan=_tidying(store), openapi_url=None, docs_url=None, redoc_url=None)
    app.add_route("/upload", _receiver(store, limits), methods=["POST"])
    app.add_route("/media/{token}/{name}", _giver(store), methods=["GET"])
    options: dict[str, Any] = {
        "footer_links": [],
        "run_history": False,
        "show_error": False,
        "ssr_mode": False,
        "mcp_server": False,
    }
    blocks = page.build_page(checkpoints, store, limits, max_side)
    gradio.mount_gradio_app(app, blocks, path="/", **options, **page.look())
    return Guard(app, names)


def _receiver(store: Store, limits: Limits) -> Callable[..., Awaitable[Any]]:
    """Return the handler that writes an upload to disk, and answers with its token or with why it can't."""
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import JSONResponse, Response

    async def receive(request: Request) -> Response:
        name = PurePosixPath(request.query_params.get("name", "").replace("\\", "/")).name
        upload = store.add(printable(name)[-LONGEST_NAME:] or "video")
        try:
            limits.check_bytes(upload.name, int(request.headers.get("content-length", 0)))
            num_bytes = 0
            with open(upload.video, "wb") as file:
                async for chunk in request.stream():
                    num_bytes += len(chunk)
                    limits.check_bytes(upload.name, num_bytes)
                    file.write(chunk)
                    store.touch(upload)
        except InputError as error:
            store.remove(upload)
            return JSONResponse({"error": str(error)}, 413)
        except OSError as error:
            store.remove(upload)
            return JSONResponse({"error": sentence(error, f"Can't save {upload.name} on the server")}, 507)
        except (ClientDisconnect, ValueError):
            store.remove(upload)
            return Response(status_code=400)
        return JSONResponse({"token": upload.token})

    return receive


def _giver(store: Store) -> Callable[..., Awaitable[Any]]:
    """Return the handler that gives browsers the files made of an upload: those in `Upload.served`, found by their names."""
    from starlette.requests import Request
    from starlette.responses import FileResponse, PlainTextResponse, Response

    async def give(request: Request) -> Response:
        try:
            upload = store.get(request.path_params["token"])
            path = upload.served[request.path_params["name"]]
        except (InputError, KeyError):
            return PlainTextResponse("Not found.", 404)
        return FileResponse(path, headers={"cache-control": "private, max-age=3600"})

    return give


def _tidying(store: Store) -> Callable[..., Any]:
    """Return the application's lifespan, which removes idle uploads now and then."""

    async def tidy() -> None:
        while True:
            await asyncio.sleep(TIDY_SECONDS)
            await asyncio.to_thread(store.remove_idle)

    @contextlib.asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        task = asyncio.create_task(tidy())
        yield
        task.cancel()

    return lifespan


def _run(app: Guard, opened: socket.socket) -> None:
    """Serve until SIGINT, SIGTERM or the end of the terminal."""
    import uvicorn

    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=GRACE_SECONDS
    )
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(
                getattr(signal, name), signal.default_int_handler
            )  # uvicorn raises the signal again once it has stopped
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[opened])
    print("Stopped; all uploads are removed.", flush=True)
