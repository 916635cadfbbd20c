"""Names of system errors, whichever library passes them on."""

import errno
import os
from pathlib import Path

import pytest

from timesformer_jax.atomic_write import write_whole
from timesformer_jax.errors import InputError
from timesformer_jax.os_errors import NAMES, WriteError, name_os_error, sentence


@pytest.mark.parametrize("number", NAMES)
def test_name_os_error_searches_the_chain_and_messages(number: int):
    named = NAMES[number]
    error = OSError(number, os.strerror(number))
    assert name_os_error(error) == named
    outer = RuntimeError("Failed to save")
    outer.__cause__ = error
    assert name_os_error(outer) == named
    assert name_os_error(ExceptionGroup("several", [KeyError("a"), outer])) == named
    text = f"UNKNOWN: Error opening ocdbt [OS error {number}: {os.strerror(number)}] [source locations='file.cc']"
    assert name_os_error(ValueError(text)) == named


def test_name_os_error_names_only_lost_peers():
    lost = name_os_error(TimeoutError("Timed out while waiting for async_write_complete barrier."))
    assert lost is not None
    assert "another process" in lost.what
    assert name_os_error(ValueError("barrier")) is None
    assert sentence(ValueError("odd."), "Can't write x") == "Can't write x: odd."


def test_unwritable_file_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It is bad input to the jobs, and still an `OSError` for callers that can do without the file."""

    def full(self: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    path = tmp_path / "results.json"
    with pytest.raises(InputError) as caught:
        write_whole(path, "text")
    assert str(caught.value) == f"Can't write {path}: the disk is full; free some space and start the same command again."
    assert isinstance(caught.value, WriteError)
    assert isinstance(caught.value, OSError)
    assert caught.value.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())
