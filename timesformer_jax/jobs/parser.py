"""Parser of the command `timesformer`, with one-line errors, suggestions for misspelled names, and defaults in the help."""

import argparse
import os
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from timesformer_jax.errors import did_you_mean
from timesformer_jax.printable import printable

PATHS = ("FILE", "FOLDER", "PATH", "VIDEO", "SOURCE", "TARGET", "FEATURES")
"""Metavars of arguments that are paths."""


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` that reports usage errors in one line, with exit code 2.

    Flags can't be abbreviated, so that new flags never change the meaning of a command. A ~ at the beginning of a path is the
    user's home; shells leave the one in `--output=~/clips` as it is.
    """

    def __init__(self, **options: Any):
        self.known: list[str] = []
        """Visible flags, for suggestions."""
        self._accepted: set[str] = set()
        super().__init__(**options, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter)

    def add_argument(self, *names: str, **options: Any) -> argparse.Action:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Add an argument as `ArgumentParser` does, and append its default to `help` unless `help` mentions it."""
        if options.get("type") in (int, float) and "choices" not in options:
            options.setdefault("metavar", "N")
        if options.get("metavar") in PATHS:
            kind = options.get("type", str)
            options["type"] = lambda text: kind(os.path.expanduser(text))
        default, text = options.get("default"), options.get("help")
        if isinstance(text, str) and text != argparse.SUPPRESS:
            is_value = isinstance(default, int | float | str | list) and not isinstance(default, bool) and default != []
            if is_value and default != argparse.SUPPRESS and "default" not in text:
                shown = " ".join(map(str, default)) if isinstance(default, list) else default
                options["help"] = f"{text} (default: {shown})"
            self.known += [name for name in names if name.startswith("--")]
        self._accepted.update(name for name in names if name.startswith("-"))
        return super().add_argument(*names, **options)

    def check_spelling(self, arguments: Sequence[str]) -> None:
        """Exit with an error if a flag doesn't exist; argparse would first complain about missing required flags."""
        for argument in arguments:
            name = argument.partition("=")[0]
            if name == "--":
                return
            if name.startswith("--") and name not in self._accepted:
                self.error(f"there is no flag {name}.{did_you_mean(name, self.known).replace(chr(39), '')}")
            if re.match(r"-[^-\d.]", name) and name not in self._accepted:
                self.error(f"there is no flag {argument}; a file whose name begins with - is given as ./{argument}")

    def error(self, message: str) -> NoReturn:
        """Print the message as one line, and exit with code 2."""
        ending = "" if message.endswith((".", "?")) else "."
        self.exit(2, f"Error: {printable(message)}{ending} See `{self.prog} --help`.\n")
