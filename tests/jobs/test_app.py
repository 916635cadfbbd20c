"""`timesformer app` as a command line: what it refuses before it serves anything. tests/browser has the page itself."""

from pathlib import Path
from typing import Any

import pytest

from timesformer_jax import extras
from timesformer_jax.__main__ import main
from timesformer_jax.app.server import listen
from timesformer_jax.errors import InputError


@pytest.fixture(autouse=True)
def gradio_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradio is installed in a separate environment only."""
    monkeypatch.setitem(extras.JOBS, "timesformer app", extras.Job(("app",)))


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (
            [],
            "Give weights with --checkpoint (`timesformer zoo` lists names), or train the demo first with `make demo`: "
            "runs/demo doesn't exist.",
        ),
        (["--checkpoint=x", "--port=70000"], "--port must be from 0 to 65535, got 70000."),
        (["--checkpoint=x", "--max-side=0"], "--max-side must be at least 1, got 0."),
        (["--checkpoint=x", "--max-bytes=0"], "--max-bytes must be above 0, got 0."),
    ],
)
def test_app_refuses_what_it_can_not_serve(
    arguments: list[str], error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
):
    monkeypatch.chdir(tmp_path)
    assert main(["app", *arguments]) == 1
    assert capsys.readouterr().err == f"Error: {error}\n"


def test_app_names_its_extra(monkeypatch: pytest.MonkeyPatch, capsys: Any):
    monkeypatch.setitem(extras.JOBS, "timesformer app", extras.Job(("app",), ("no_such_module",)))
    monkeypatch.setitem(extras.EXTRAS, "app", ("no_such_module",))
    assert main(["app"]) == 1
    assert 'pip install "timesformer_jax[app]"' in capsys.readouterr().err


def test_port_in_use_and_unknown_hosts_are_refused():
    with listen("127.0.0.1", 0) as opened:
        port = opened.getsockname()[1]
        with pytest.raises(InputError, match=f"^Port {port} is in use: give another with --port, or --port=0"):
            listen("127.0.0.1", port)
    with pytest.raises(InputError, match="--host=no such host"):
        listen("no such host", 0)
