"""Escape untrusted text, such as names of files and labels, for terminals, logs, CSV, HTML and JSON.

Names may contain bytes that aren't UTF-8 (lone surrogates in Python), line breaks, terminal escape sequences, or marks that
reverse the text after them. They are stored unchanged and escaped on output.
"""

import codecs
import io
import json
import logging
import os
import re
import sys
from typing import Any

_SURROGATES = re.compile("[\ud800-\udfff]")
# Control characters of ASCII and Latin-1, line and paragraph separators, and marks that change the direction of text.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_UNSAFE_BUT_NEWLINES = re.compile(_UNSAFE.pattern.replace("\x00-\x1f", "\x00-\x09\x0b-\x1f"))
_SHORT = {"\t": r"\t", "\n": r"\n", "\r": r"\r"}


def printable(text: Any, *, newlines: bool = False) -> str:
    r"""Escape control characters of `str(text)`: `\n`, `\x1b`, `\u202e`, and `\xe9` for a byte that isn't UTF-8.

    Printable text stays the same, backslashes included. With `newlines`, line feeds are kept, for text of several lines.
    """
    return (_UNSAFE_BUT_NEWLINES if newlines else _UNSAFE).sub(_escaped, str(text))


def as_utf8(name: Any) -> str:
    r"""Make `str(name)` encodable as UTF-8: a byte that isn't UTF-8 becomes `\xe9`; everything else stays the same."""
    return _SURROGATES.sub(_escaped, str(name))


def _escaped(match: re.Match[str]) -> str:
    character = match[0]
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that Python couldn't decode
        code -= 0xDC00
    return _SHORT.get(character) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")


def to_json(value: Any, *, encoding: str = "utf-8", indent: int | None = None) -> str:
    r"""Encode as JSON that is safe to print: letters of all scripts stay readable, control characters become `\u202e`.

    Loading the JSON restores the same text. If `encoding` isn't UTF-8, everything but ASCII is escaped.
    """
    is_utf8 = codecs.lookup(encoding).name == "utf-8"
    text = json.dumps(value, ensure_ascii=not is_utf8, indent=indent)
    return _UNSAFE_BUT_NEWLINES.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def escape_unencodable() -> None:
    """Make stdout and stderr escape characters that their encoding lacks, instead of raising an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def stdout_encoding() -> str:
    """The encoding of stdout."""
    return getattr(sys.stdout, "encoding", None) or "utf-8"


class PrintableArguments(logging.Filter):
    """Logging filter that makes strings, paths and exceptions among a record's arguments printable.

    A multi-line argument, such as a table, keeps its lines if it ends the format on a separate line ("...:\\n%s").
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Always True."""
        if isinstance(record.args, tuple) and record.args:
            *first, last = (_printable_argument(argument) for argument in record.args)
            if str(record.msg).endswith("\n%s"):
                last = printable(record.args[-1], newlines=True)
            record.args = (*first, last)
        return True


def _printable_argument(argument: Any) -> Any:
    return printable(argument) if isinstance(argument, str | os.PathLike | BaseException) else argument
