"""The system's errors, as they come out of this and other libraries, named for what they are."""

import errno
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

from timesformer_jax.errors import InputError, first_line
from timesformer_jax.printable import printable

MORE_SPACE = "free some space and start the same command again"
"""After these the same command goes on."""

NAMES: dict[int, tuple[str, str]] = {
    errno.ENOSPC: ("the disk is full", MORE_SPACE),
    errno.EDQUOT: ("the quota on this disk is used up", MORE_SPACE),
    errno.EFBIG: ("the file would be larger than files may be here", "raise the limit (ulimit -f), or use another disk"),
    errno.EMFILE: (
        "this process has as many files open as it may",
        "raise the limit (ulimit -n) and start the same command again",
    ),
    errno.ENFILE: ("the system has as many files open as it can", "end other programs and start the same command again"),
    errno.EACCES: ("permission is denied", "change the permissions, or choose another folder"),
    errno.EPERM: ("the operation is not permitted", "change the permissions, or choose another folder"),
    errno.EROFS: ("the file system is read-only", "choose another folder"),
    errno.EIO: ("the disk reports an input/output error", "check the disk and its connection"),
    errno.ESTALE: ("the network file system lost the file", "check that it is mounted, and start the same command again"),
    errno.ENAMETOOLONG: ("the name is too long", "choose a shorter one"),
    errno.ENOTDIR: ("a part of the path is a file", "choose another folder"),
}
"""Number of a system's error -> what it is, and what to do about it."""

LOST_PEER = (
    "another process is gone or hangs",
    "look at its log for the reason, and start the same command again on every machine",
)
PEER_ERRORS = ("JaxRuntimeError", "TimeoutError")
PEER_WORDS = ("DEADLINE_EXCEEDED", "barrier", "heartbeat", "coordination service", "Connection closed by peer", "Gloo")
"""Types of JAX's and Orbax's errors about processes that don't answer, and words in their messages."""


class Named(NamedTuple):
    """An error in words."""

    what: str
    """What it is, as part of a sentence."""
    remedy: str
    """What to do about it, as part of a sentence."""


def name_os_error(error: BaseException) -> Named | None:
    """The system's error that an exception, or one that it was raised from, is about; None if there is none.

    TensorStore and Orbax pass the system's error on as text inside exceptions of other types.
    """
    chain = list(_chain(error))
    for one in chain:
        if isinstance(one, OSError) and one.errno in NAMES:
            return Named(*NAMES[one.errno])
    texts = [str(one) for one in chain]
    for number in sorted(NAMES, key=lambda number: -len(os.strerror(number))):  # one text begins with another
        if any(os.strerror(number) in text for text in texts):
            return Named(*NAMES[number])
    if any(type(one).__name__ in PEER_ERRORS and any(word in str(one) for word in PEER_WORDS) for one in chain):
        return Named(*LOST_PEER)
    return None


def job_failed(error: BaseException, job: str) -> str | None:
    """The sentence with which a job ends after a system's error; None for all other exceptions."""
    if not isinstance(error, OSError):
        return None
    if isinstance(error, ReadError):
        return str(error)
    return None if name_os_error(error) is None else sentence(error, f"{job} failed")


def sentence(error: BaseException, doing: str) -> str:
    """What went wrong while `doing` something ("Can't write FILE"), and what to do about it."""
    named = name_os_error(error)
    if named is None:
        return f"{doing}: {getattr(error, 'strerror', None) or first_line(error)}."
    return f"{doing}: {named.what}; {named.remedy}."


class ReadError(OSError):
    """A failed read that says nothing about the file.

    No `InputError`, since jobs over many files would skip this one and continue.
    """

    def __str__(self) -> str:
        return sentence(OSError(self.errno, self.strerror), f"Can't read {printable(self.filename)}")


NOT_THE_FILES = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT, errno.EIO}
    | {errno.ESTALE, errno.ENOTCONN, errno.ENODEV, errno.ETIMEDOUT}
)
"""Numbers of errors by which the process, the machine or the disk can't read any file now."""


def raise_if_not_the_files(error: BaseException, path: Any) -> None:
    """Raise a `ReadError` for an exception about `path` whose `errno` is in `NOT_THE_FILES`."""
    number = getattr(error, "errno", None)
    if number in NOT_THE_FILES:
        raise ReadError(number, os.strerror(number), os.fspath(path)) from error


class WriteError(InputError, OSError):
    """Raised if a file can't be written: one sentence that says why; an `OSError` for callers that can do without the file.

    Args:
        path: The file.
        error: The system's error.
    """

    def __init__(self, path: Any, error: OSError):
        super().__init__(sentence(error, f"Can't write {path}"))
        self.errno, self.strerror = error.errno, error.strerror

    def __str__(self) -> str:
        return printable(str(self.args[0]))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An exception, those in a group, and those that they were raised from."""
    seen: set[int] = set()
    rest: list[BaseException | None] = [error]
    while rest:
        one = rest.pop(0)
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        rest += [*(one.exceptions if isinstance(one, BaseExceptionGroup) else ()), one.__cause__, one.__context__]
