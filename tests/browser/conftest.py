"""Fixtures: Debian's Chromium, pages whose requests are watched, and an app server with tiny random checkpoints."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

import timesformer_jax as tsf
from tests.support import moving_square, random_variables, write_video

ROOT = Path(__file__).parent.parent.parent
OWN_HOSTS = {"127.0.0.1", "localhost"}
LOCAL_SCHEMES = {"data", "blob", "file", "about"}
PATIENCE = 30_000
"""Milliseconds that Playwright waits for an element: a busy machine compiles slowly."""


def chromium_path() -> str | None:
    """Return Debian's Chromium, or None if it isn't installed."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Playwright's browser object over Debian's Chromium."""
    from playwright.sync_api import sync_playwright

    path = chromium_path()
    assert path, "Chromium is missing: apt-get install chromium"
    with sync_playwright() as playwright:
        # As root there is no sandbox. Chromium's own requests (updates, accounts) aren't the page's.
        arguments = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--no-first-run"]
        opened = playwright.chromium.launch(executable_path=path, args=arguments)
        yield opened
        opened.close()


@pytest.fixture
def new_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Function that opens a page in a new context; keyword arguments are those of Playwright's `new_context`.

    At the end of the test, every request of every page must have gone to this machine, and no script may have failed.
    """
    foreign: list[str] = []
    failed: list[str] = []
    with contextlib.ExitStack() as contexts:

        def open_page(**options: Any) -> Any:
            context = browser.new_context(**options)
            contexts.callback(context.close)
            context.set_default_timeout(PATIENCE)
            context.on("request", lambda request: foreign.extend(foreign_urls(request.url)))
            context.on("weberror", lambda error: failed.append(str(error.error)))
            page = context.new_page()
            page.on("websocket", lambda socket: foreign.extend(foreign_urls(socket.url)))
            return page

        yield open_page
    assert foreign == [], "requests to other hosts"
    assert failed == [], "errors of the page's scripts"


def foreign_urls(url: str) -> list[str]:
    """Return `[url]` if it leads off this machine, else nothing."""
    parts = urlsplit(url)
    return [] if parts.scheme in LOCAL_SCHEMES or parts.hostname in OWN_HOSTS else [url]


@pytest.fixture
def page(new_page: Callable[..., Any]) -> Any:
    """A page of 1280 x 900 pixels that fails the test if it asks another host for anything."""
    return new_page(viewport={"width": 1280, "height": 900})


LABELS = ("across", "down", "back", "<b>up</b> & away")
MAX_BYTES = 1_000_000
SCHEMES = ("divided_space_time", "space_only")


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Tiny models with random weights, one for each of `SCHEMES`."""
    folder = tmp_path_factory.mktemp("checkpoints")
    preprocess = tsf.Preprocess(num_frames=4, crop_size=32, sampling_rate=4.0)
    for seed, scheme in enumerate(SCHEMES):
        sizes = {"image_size": 32, "patch_size": 8, "num_frames": 4, "embed_dim": 24, "depth": 1, "num_heads": 3}
        model = tsf.TimeSformer(len(LABELS), attention_type=scheme, **sizes)
        params = random_variables(model, seed)["params"]
        tsf.save(tsf.Pretrained(model, params, preprocess, LABELS), folder / scheme)
    return [folder / scheme for scheme in SCHEMES]


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Generated videos of 4 s, with a square that moves, and one of a single frame."""
    folder = tmp_path_factory.mktemp("videos")
    moves = {name: moving_square(label, 0, num_frames=40) for label, name in enumerate(LABELS[:3])}
    moves["one frame"] = moving_square(0, 0, num_frames=1)
    return {name: write_video(folder / f"{name}.mp4", frames, fps=10) for name, frames in moves.items()}


@pytest.fixture(scope="session")
def uploads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The app's folder for temporary files."""
    return tmp_path_factory.mktemp("uploads")


@pytest.fixture(scope="session")
def app(checkpoints: list[Path], uploads: Path) -> Iterator[str]:
    """Address of `timesformer app` with both checkpoints, in a separate process."""
    command = [sys.executable, "-m", "timesformer_jax", "app", "--port=0", f"--max-bytes={MAX_BYTES}"]
    command += [f"--checkpoint={path}" for path in checkpoints]
    with started(command, {"TMPDIR": str(uploads)}) as url:
        yield url
    assert list(uploads.iterdir()) == [], "left behind at exit"


@contextlib.contextmanager
def started(command: list[str], variables: dict[str, str]) -> Iterator[str]:
    """Start a server, yield the address that it prints, and end it as Ctrl-C would."""
    process = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **variables}, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    try:
        printed = ""
        for line in process.stdout:
            printed += line
            if found := re.search(r"http://\S+", line):
                yield found[0]
                break
        else:
            pytest.fail(f"{command} ended without an address: {printed}")
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        finally:
            process.kill()
            process.stdout.close()
