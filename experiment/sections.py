"""Errors of library code, whose arguments are spelled as fields of the config."""

import contextlib
import re
from collections.abc import Iterator
from typing import Any

from timesformer_jax.errors import InputError


@contextlib.contextmanager
def arguments_of(config: Any, section: str) -> Iterator[None]:
    """Name arguments in an `InputError` by the section that they come from: `area must be` becomes `clips.area must be`."""
    try:
        yield
    except InputError as error:
        names = "|".join(map(re.escape, config[section]))
        argument = rf"(?<![\w./'-])({names})(?==| (?:must|is|has|and)\b)"
        raise InputError(re.sub(argument, rf"{section}.\1", str(error))) from error
