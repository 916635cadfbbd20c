"""The parser of the command `timesformer`: errors are one line, unknown names are suggested, defaults are in the help."""

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from timesformer_jax.errors import did_you_mean
from timesformer_jax.printable import printable


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` whose usage errors end in one line and exit code 2.

    Flags are never abbreviated, so that a new one can't change what a command means.
    """

    def __init__(self, **options: Any):
        self.known: list[str] = []
        """The flags, without hidden ones."""
        self._accepted: set[str] = set()
        super().__init__(**options, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter)

    def add_argument(self, *names: str, **options: Any) -> argparse.Action:  # pyright: ignore[reportIncompatibleMethodOverride]
        """As the method that it overrides; a default that isn't in `help` is added there."""
        if options.get("type") in (int, float) and "choices" not in options:
            options.setdefault("metavar", "N")
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
        """End with an error for a flag that doesn't exist; argparse would first ask for the required ones."""
        for argument in arguments:
            name = argument.partition("=")[0]
            if name == "--":
                return
            if name.startswith("--") and name not in self._accepted:
                self.error(f"there is no flag {name}.{did_you_mean(name, self.known).replace(chr(39), '')}")

    def error(self, message: str) -> NoReturn:
        """End with the message as one line, and exit code 2."""
        ending = "" if message.endswith((".", "?")) else "."
        self.exit(2, f"Error: {printable(message)}{ending} See `{self.prog} --help`.\n")
