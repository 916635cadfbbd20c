"""Orbax's log without the tracebacks of its threads."""

import logging
from pathlib import PurePath


class _NoTracebacks(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and "orbax" in PurePath(record.pathname).parts)


_FILTER = _NoTracebacks()


def quiet_orbax() -> None:
    """Drop what Orbax's threads log about exceptions, which reach the caller too; a second call changes nothing.

    A full disk would otherwise fill the terminal with a dozen tracebacks before the one sentence about it.
    """
    logging.getLogger("absl").addFilter(_FILTER)
