"""The exception for bad input, and helpers for its message."""

import difflib
from collections.abc import Iterable

from timesformer_jax.printable import as_utf8, printable


class InputError(ValueError):
    """Bad input: the message says what was wrong, the value and what to do.

    The command-line jobs print it without a traceback and exit with code 1, so a traceback always means a bug of this project,
    never bad input. Control characters in the message are escaped.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


def did_you_mean(given: str, known: Iterable[str], *, count: int = 1, cutoff: float = 0.6) -> str:
    """Suggest the closest names for an unknown one.

    Args:
        given: The unknown name.
        known: Known names.
        count: Largest number of suggestions.
        cutoff: Smallest similarity of a suggestion, from 0 to 1.

    Returns:
        The end of a message, " Did you mean 'x'?"; empty if no name is similar.
    """
    near = difflib.get_close_matches(given, list(known), n=count, cutoff=cutoff)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""


def first_line(error: BaseException) -> str:
    """First line of an exception's message without the full stop, or its type's name, as part of a sentence."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    return line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]} ..."


_LONGEST_LINE = 400


def shown(value: object, most: int = 80) -> str:
    """Shortened repr of a value, for messages."""
    text = repr(value[: 2 * most] if isinstance(value, str | bytes | list | tuple) else value)
    return text if len(text) <= most else f"{text[:most]}..."


def check_utf8(name: str, path: str) -> None:
    """Raise `InputError` if the path of a checkpoint or data folder, given as argument `name`, isn't UTF-8."""
    if as_utf8(path) != path:
        raise InputError(f"{name}={path} isn't UTF-8, which TensorFlow and Orbax need: rename it or give another.")
