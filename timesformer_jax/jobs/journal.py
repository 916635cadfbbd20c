"""Journal of a long job's findings, from which the same command resumes after an interruption."""

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from timesformer_jax.errors import first_line


class Journal:
    """A file of JSON lines in the user's cache folder (`$XDG_CACHE_HOME`, else `~/.cache`).

    If the file can't be written, the job runs without it and prints a note to stderr.

    Args:
        job: Name of the job.
        arguments: Everything that the findings depend on; different arguments use different files.
    """

    def __init__(self, job: str, arguments: Any):
        cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
        self.path = cache / "timesformer_jax" / job / f"{_digest(ascii(arguments))}.jsonl"
        self._file: Any = None

    def read(self) -> dict[str, Any]:
        """Read the findings of an interrupted run by key, skipping lines that were cut off."""
        found = {}
        with contextlib.suppress(OSError):
            for line in self.path.read_bytes().splitlines():
                with contextlib.suppress(ValueError, TypeError):
                    key, finding = json.loads(line)
                    found[key] = finding
        return found

    def begin(self, *, anew: bool = False) -> None:
        """Open the file for new findings; with `anew`, discard the old ones."""
        try:
            if self.path.parts[0] == "~":
                raise OSError("this user has no home folder")
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "wb" if anew else "ab")  # noqa: SIM115 (closed by `close`)
            self._file.write(b"" if anew else b"\n")  # ends a line that was cut off
        except OSError as error:
            self._give_up(error)

    def add(self, key: str, finding: Any) -> None:
        """Add a finding, which must have JSON types."""
        if self._file is not None:
            try:
                self._file.write(json.dumps([key, finding]).encode() + b"\n")
                self._file.flush()
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        """Continue without the file."""
        print(f"Note: can't write {self.path} to resume after an interruption: {first_line(error)}.", file=sys.stderr)
        self.close(complete=False)
        self._file = None

    def close(self, *, complete: bool) -> None:
        """Close the file, and delete it if the job is complete."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
        if complete:
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)


def keys_of(facts: Iterable[str]) -> list[str]:
    """Return a short key per item, derived from a text of everything that its finding depends on."""
    return [_digest(fact) for fact in facts]


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
