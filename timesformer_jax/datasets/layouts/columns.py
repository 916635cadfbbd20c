"""Columns of a list of videos: those that are read, and those that look like them."""

import functools
import re
from collections.abc import Iterable
from pathlib import Path

from timesformer_jax.errors import InputError
from timesformer_jax.printable import printable
from timesformer_jax.video.finding import show

COLUMNS = ("path", "label", "labels", "start", "end", "name", "fps")
"""Columns, or keys, that are read."""

MAX_NAMED = 10
"""Unread columns to name in a note."""

_BEFORE = "(?:time|timestamp|frame|clip|segment|video|action|event|t)*"
_AFTER = "(?:time|timestamp|frames?|idx|index|number|milliseconds?|msecs?|ms|seconds?|secs?|s)*"
SPANS = {
    "start": re.compile(f"{_BEFORE}(?:start|begin|onset){_AFTER}"),
    "end": re.compile(f"{_BEFORE}(?:end|stop){_AFTER}"),
}
"""Common names of the start and the end of a segment, without case and anything but letters: start_time, tEnd, begin (s)."""


def check_columns(names: Iterable[str], path: Path, line: int) -> list[str]:
    """Return the columns that aren't read, except for those without a name.

    Raises:
        InputError: If one of them looks like a column that is read and absent. Ignoring `start_time` would train on the whole
            video instead of its segment.
    """
    names = list(names)
    unread = [name for name in names if name and name not in COLUMNS]
    for name in unread:
        wanted = _similar_column(name)
        if wanted is None or wanted in names:
            continue
        hint = "rename it"
        if wanted in SPANS:
            hint += ", or remove it if the files are cut already. start and end are in seconds, so convert frame numbers"
        raise InputError(f"{path}, line {line}: expected the column {wanted}, got {printable(name)}: {hint}.")
    return unread


def describe_unread(unread: Iterable[str]) -> tuple[str, ...]:
    """Return a note that names the columns that aren't read, or no note if there are none."""
    names = list(dict.fromkeys(unread))
    return (f"Columns that aren't read: {show(names, len(names), MAX_NAMED)}.",) if names else ()


@functools.lru_cache(maxsize=1024)
def _similar_column(name: str) -> str | None:
    letters = re.sub(r"[\W\d_]", "", name).casefold()
    similar = (column for column, pattern in SPANS.items() if pattern.fullmatch(letters))
    return next(similar, letters if letters in ("path", "name", "fps") else None)
