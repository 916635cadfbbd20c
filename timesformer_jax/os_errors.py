"""Readable messages for errors of the operating system, even if other libraries have wrapped them."""

import errno
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

from timesformer_jax.errors import InputError, first_line
from timesformer_jax.printable import printable

MORE_SPACE = "free some space and start the same command again"
"""Remedy for a full disk, after which the same command resumes."""

NAMES: dict[int, tuple[str, str]] = {
    errno.ENOSPC: ("the disk is full", MORE_SPACE),
    errno.EDQUOT: ("the quota on this disk is used up", MORE_SPACE),
    errno.EFBIG: ("the file would be larger than files may be here", "raise the limit (ulimit -f), or use another disk"),
    errno.EMFILE: (
        "this process has reached its limit of open files",
        "raise the limit (ulimit -n) and start the same command again",
    ),
    errno.ENFILE: ("the system has reached its limit of open files", "end other programs and start the same command again"),
    errno.EACCES: ("permission is denied", "change the permissions, or choose another folder"),
    errno.EPERM: ("the operation is not permitted", "change the permissions, or choose another folder"),
    errno.EROFS: ("the file system is read-only", "choose another folder"),
    errno.EIO: ("the disk reports an input/output error", "check the disk and its connection"),
    errno.ESTALE: ("the network file system lost the file", "check that it is mounted, and start the same command again"),
    errno.ENAMETOOLONG: ("the name is too long", "choose a shorter one"),
    errno.ENOTDIR: ("a component of the path is a file", "choose another folder"),
}
"""Maps an `errno` to its description and its remedy."""

LOST_PEER = (
    "another process is gone or hangs",
    "look at its log for the reason, and start the same command again on every machine",
)
PEER_ERRORS = ("JaxRuntimeError", "TimeoutError")
PEER_WORDS = ("DEADLINE_EXCEEDED", "barrier", "heartbeat", "coordination service", "Connection closed by peer", "Gloo")
"""Type names of JAX's and Orbax's errors about processes that don't respond, and words in their messages."""


class Named(NamedTuple):
    """Readable form of an error."""

    what: str
    """Description, as part of a sentence."""
    remedy: str
    """Remedy, as part of a sentence."""


def name_os_error(error: BaseException) -> Named | None:
    """Identify the system error behind an exception or its causes; None if there is none.

    TensorStore and Orbax pass system errors on as text within exceptions of other types.
    """
    chain = list(_chain(error))
    for one in chain:
        if isinstance(one, OSError) and one.errno in NAMES:
            return Named(*NAMES[one.errno])
    texts = [str(one) for one in chain]
    for number in sorted(NAMES, key=lambda number: -len(os.strerror(number))):  # some are prefixes of others
        if any(os.strerror(number) in text for text in texts):
            return Named(*NAMES[number])
    if any(type(one).__name__ in PEER_ERRORS and any(word in str(one) for word in PEER_WORDS) for one in chain):
        return Named(*LOST_PEER)
    return None


def job_failed(error: BaseException, job: str) -> str | None:
    """Message of a job that fails with a system error; None for all other exceptions."""
    if not isinstance(error, OSError):
        return None
    if isinstance(error, ReadError):
        return str(error)
    return None if name_os_error(error) is None else sentence(error, f"{job} failed")


def sentence(error: BaseException, doing: str) -> str:
    """Describe an error as one sentence with its remedy; `doing` is its beginning, such as "Can't write FILE"."""
    named = name_os_error(error)
    if named is None:
        return f"{doing}: {getattr(error, 'strerror', None) or first_line(error)}."
    return f"{doing}: {named.what}; {named.remedy}."


class ReadError(OSError):
    """A failed read that is not the fault of the file.

    This is not an `InputError`, since jobs over many files would then skip this one and continue.
    """

    def __str__(self) -> str:
        return sentence(OSError(self.errno, self.strerror), f"Can't read {printable(self.filename)}")


NOT_THE_FILES = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT, errno.EIO}
    | {errno.ESTALE, errno.ENOTCONN, errno.ENODEV, errno.ETIMEDOUT}
)
"""Values of `errno` that mean that the process, the machine or the disk currently can't read any file."""


def raise_if_not_the_files(error: BaseException, path: Any) -> None:
    """Raise `ReadError` if the `errno` of an exception about `path` is in `NOT_THE_FILES`."""
    number = getattr(error, "errno", None)
    if number in NOT_THE_FILES:
        raise ReadError(number, os.strerror(number), os.fspath(path)) from error


class WriteError(InputError, OSError):
    """Raised if a file can't be written.

    It is also an `OSError`, for callers that can do without the file.

    Args:
        path: The file.
        error: The system error.
    """

    def __init__(self, path: Any, error: OSError):
        super().__init__(sentence(error, f"Can't write {path}"))
        self.errno, self.strerror = error.errno, error.strerror

    def __str__(self) -> str:
        return printable(str(self.args[0]))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception, the members of exception groups, and their causes and contexts."""
    seen: set[int] = set()
    rest: list[BaseException | None] = [error]
    while rest:
        one = rest.pop(0)
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        rest += [*(one.exceptions if isinstance(one, BaseExceptionGroup) else ()), one.__cause__, one.__context__]
