"""The one exception that means "what was given can't be used", and how those of others become part of its sentence."""

import difflib
from collections.abc import Iterable

from timesformer_jax.printable import as_utf8, printable


class InputError(ValueError):
    """Bad input: the message is one sentence with what was expected, what was got and what to do.

    The command-line jobs print it without a traceback and end with exit code 1. A traceback therefore always
    means a defect of this project, never of the user's input. Control characters of names in it are escaped.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


def did_you_mean(given: str, known: Iterable[str], *, count: int = 1, cutoff: float = 0.6) -> str:
    """The end of a message about an unknown name, " Did you mean 'x'?", with the nearest `count` names; "" if none is near."""
    near = difflib.get_close_matches(given, list(known), n=count, cutoff=cutoff)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""


def first_line(error: BaseException) -> str:
    """What an exception says, as part of a sentence: its first line without the full stop, or its type's name."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    return line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]} ..."


_LONGEST_LINE = 400


def shown(value: object, most: int = 80) -> str:
    """A value as part of a sentence: its repr, shortened."""
    text = repr(value[: 2 * most] if isinstance(value, str | bytes | list | tuple) else value)
    return text if len(text) <= most else f"{text[:most]}..."


def check_utf8(name: str, path: str) -> None:
    """Raises `InputError` for a folder of checkpoints or prepared data whose path isn't UTF-8; `name` is the argument's."""
    if as_utf8(path) != path:
        raise InputError(f"{name}={path} isn't UTF-8, which TensorFlow and Orbax need: rename it or give another.")
