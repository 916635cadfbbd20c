"""What a long job over files has found so far, so that the same command continues where it was stopped."""

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
    """A file of JSON lines below the user's cache folder (`$XDG_CACHE_HOME`, else `~/.cache`).

    The job works without it if it can't be written, with a note on stderr.

    Args:
      job: the job's name.
      arguments: everything that its findings depend on; other arguments have another file.
    """

    def __init__(self, job: str, arguments: Any):
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        self.path = cache / "timesformer_jax" / job / f"{_digest(ascii(arguments))}.jsonl"
        self._file: Any = None

    def read(self) -> dict[str, Any]:
        """Key -> finding of the run that was stopped. A line that was cut is skipped: its item is looked at again."""
        found = {}
        with contextlib.suppress(OSError):
            for line in self.path.read_bytes().splitlines():
                with contextlib.suppress(ValueError, TypeError):
                    key, finding = json.loads(line)
                    found[key] = finding
        return found

    def begin(self, *, anew: bool = False) -> None:
        """Open the file to add findings."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "wb" if anew else "ab")  # noqa: SIM115 (closed by `close`)
            self._file.write(b"" if anew else b"\n")  # after a line that was cut
        except OSError as error:
            print(f"Note: an interruption will lose what was found: {self.path}: {first_line(error)}.", file=sys.stderr)

    def add(self, key: str, finding: Any) -> None:
        """Add a finding, in JSON's types."""
        if self._file is not None:
            self._file.write(json.dumps([key, finding]).encode() + b"\n")
            self._file.flush()

    def close(self, *, complete: bool) -> None:
        """Close the file, and delete it once the job is complete."""
        if self._file is not None:
            self._file.close()
        if complete:
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)


def keys_of(facts: Iterable[str]) -> list[str]:
    """A short key per item: of the text of everything that its finding depends on."""
    return [_digest(fact) for fact in facts]


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
