"""Progress reports of long work without a terminal."""

import threading

import pytest

from timesformer_jax import progress


def test_progress_logs_once_a_minute_without_a_terminal(monkeypatch: pytest.MonkeyPatch):
    """It is printed even if nothing has been done in the meantime."""
    monkeypatch.setattr(progress, "MINUTE", 0.01)
    lines: list[str] = []
    two = threading.Event()

    def record(line: str) -> None:
        lines.append(line)
        if len(lines) == 2:
            two.set()

    with progress.Progress(240_000, "train", initial=1000, say=record, remark=lambda: "3 unreadable so far") as shown:
        assert two.wait(60)
        assert lines[1] == "train: 1,000 of 240,000 videos, none done yet, 3 unreadable so far"
        shown.update(200)
        monkeypatch.setattr(progress.time, "monotonic", lambda: shown._began + 100)
        assert shown.line() == "train: 1,200 of 240,000 videos, 2 a second, 1 d 9 h left, 3 unreadable so far"


def test_quiet_progress_prints_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(progress, "MINUTE", 0.001)
    lines: list[str] = []
    with progress.Progress(2, quiet=True, say=lines.append) as shown:
        shown.update()
        threading.Event().wait(0.05)
    assert not lines
    assert capsys.readouterr() == ("", "")
