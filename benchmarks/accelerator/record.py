"""The file of results: written after every measurement, whole at any moment."""

import json
import time
from pathlib import Path
from typing import Any

from timesformer_jax.atomic_write import write_whole

FORMAT = 1
FAILURES = ("out of memory", "failed", "time limit", "skipped", "not reached")
"""Values of an entry's `failure`: why there is no result."""


class Record:
    """Results of one run.

    Each entry of `entries` has `section`, `name`, `seconds` (what the measurement took) and either `result` or `failure` (one
    of `FAILURES`) with a `message`. `about` describes the run as a whole.
    """

    def __init__(self, path: Path, about: dict[str, Any]):
        self._path = path
        self.about = {"format": FORMAT, "started": time.strftime("%Y-%m-%d %H:%M:%S %z"), "finished": False, **about}
        self.entries: list[dict[str, Any]] = []

    def add(self, section: str, name: str, seconds: float, outcome: dict[str, Any]) -> None:
        """Append one outcome, `{"result": ...}` or `{"failure": ..., "message": ...}`, and write the file."""
        self.entries.append({"section": section, "name": name, "seconds": round(seconds, 2), **outcome})
        self.write()

    def write(self) -> None:
        """Replace the file by the present state."""
        content = json.dumps({**self.about, "entries": self.entries}, indent=1)
        write_whole(self._path, content + "\n")


def read_record(path: Path) -> dict[str, Any]:
    """The content of a file of results.

    Raises:
        ValueError: If it is not one that this script writes.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is no file of results: {error}.") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{path} is no file of results in format {FORMAT}: measure again with --output={path}.")
    return content


def find(content: dict[str, Any], section: str, name: str) -> dict[str, Any] | None:
    """The result of one measurement; None if there is none."""
    for entry in content.get("entries", []):
        if (entry["section"], entry["name"]) == (section, name) and "result" in entry:
            return entry["result"]
    return None


def first_line(message: str) -> str:
    """The beginning of a message, short enough for a table."""
    line = message.strip().partition("\n")[0]
    return f"{line[:157]}..." if len(line) > 160 else line
