"""Results file, written atomically after every measurement."""

import json
import time
from pathlib import Path
from typing import Any

from benchmarks import result_files
from timesformer_jax.atomic_write import write_whole

FAILURES = ("out of memory", "failed", "time limit", "skipped", "not reached")
"""Values of an entry's `failure`, which explain a missing result."""


class Record:
    """Results of one run.

    Attributes:
        about: Description of the whole run.
        entries: Measurements, each with `section`, `name`, `seconds` (its duration) and either `result` or `failure` (one of
            `FAILURES`) with a `message`.
    """

    def __init__(self, path: Path, about: dict[str, Any]):
        self._path = path
        started = time.strftime("%Y-%m-%d %H:%M:%S %z")
        self.about = {"format": result_files.FORMAT, "started": started, "finished": False, **about}
        self.entries: list[dict[str, Any]] = []

    def add(self, section: str, name: str, seconds: float, outcome: dict[str, Any]) -> None:
        """Append one outcome, `{"result": ...}` or `{"failure": ..., "message": ...}`, and write the file."""
        self.entries.append({"section": section, "name": name, "seconds": round(seconds, 2), **outcome})
        self.write()

    def write(self) -> None:
        """Replace the file with the current state."""
        content = json.dumps({**self.about, "entries": self.entries}, indent=1)
        write_whole(self._path, content + "\n")


def read_record(path: Path) -> dict[str, Any]:
    """Return the content of a file that a `Record` wrote.

    Raises:
        ValueError: If the file is not a results file.
    """
    return result_files.read_record(path, "entries")


def find(content: dict[str, Any], section: str, name: str) -> dict[str, Any] | None:
    """Return the result of one measurement; None if there is none."""
    for entry in content.get("entries", []):
        if (entry["section"], entry["name"]) == (section, name) and "result" in entry:
            return entry["result"]
    return None


def first_line(message: str) -> str:
    """Return the first line of a message, shortened to 160 characters for tables."""
    line = message.strip().partition("\n")[0]
    return f"{line[:157]}..." if len(line) > 160 else line
