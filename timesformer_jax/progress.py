"""Report the progress of long work: a bar in terminals, elsewhere one log line per minute."""

import logging
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

log = logging.getLogger("timesformer_jax")

MINUTE = 60.0
"""Seconds between two log lines."""


class Progress:
    """Context manager that reports the progress of work on `total` items.

    Lines are logged every minute, even without progress: "train: 1,234 of 240,000 videos, 35.2 a second, 1 h 53 min left,
    3 unreadable so far".

    Args:
        total: Number of items.
        title: Subject of the work, such as a split; may be empty.
        unit: Name of an item.
        units: Plural of `unit`, if that isn't regular.
        initial: Number of items that are already done.
        remark: Returns text to append to a line, such as "3 unreadable so far", or "".
        quiet: Show neither a bar nor lines.
        say: Prints a line.
    """

    def __init__(
        self,
        total: int,
        title: str = "",
        *,
        unit: str = "video",
        units: str = "",
        initial: int = 0,
        remark: Callable[[], str] = str,
        quiet: bool = False,
        say: Callable[[str], None] = log.info,
    ):
        from tqdm import tqdm

        self.done, self._total, self._initial = initial, total, initial
        self._title, self._units, self._remark, self._say = title, units or f"{unit}s", remark, say
        in_terminal = sys.stderr.isatty()
        self.bar: Any = tqdm(
            total=total, initial=initial, desc=title or None, unit=unit, dynamic_ncols=True, disable=quiet or not in_terminal
        )
        self._logs = not quiet and not in_terminal
        self._began, self._over = time.monotonic(), threading.Event()

    def __enter__(self) -> "Progress":
        if self._logs:
            threading.Thread(target=self._report, daemon=True, name="progress").start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.bar.close()

    def update(self, count: int = 1) -> None:
        """Count `count` more items as done."""
        self.done += count
        self.bar.update(count)

    def line(self) -> str:
        """Format a log line."""
        here = self.done - self._initial
        rate = here / max(time.monotonic() - self._began, 1e-9)
        words = [f"{self.done:,} of {self._total:,} {self._units}"]
        words += [f"{number(rate)} a second, {duration((self._total - self.done) / rate)} left"] if here else ["none done yet"]
        words += [remark] if (remark := self._remark()) else []
        return (f"{self._title}: " if self._title else "") + ", ".join(words)

    def _report(self) -> None:
        while not self._over.wait(MINUTE):
            self._say(self.line())


def number(value: float) -> str:
    """Format a number with three digits, or all digits of its integer part: 0.0512, 1.87, 188, 12,345."""
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:,.0f}"


def duration(seconds: float) -> str:
    """Format a duration, rounded to its two largest units: `40 s`, `3 min`, `2 h 5 min`, `3 d 4 h`."""
    minutes = round(seconds / 60)
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h" + (f" {minutes % 60} min" if minutes % 60 else "")
    hours = round(minutes / 60)
    return f"{hours // 24} d" + (f" {hours % 24} h" if hours % 24 else "")
