"""Old names of public functions and classes, kept for one release."""

import importlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any


def renamed(module: str, names: Mapping[str, str], otherwise: Callable[[str], Any] | None = None) -> Callable[[str], Any]:
    """Make the `__getattr__` of a module with renamed attributes.

    Args:
        module: `__name__` of the module.
        names: Maps old names to new ones, in this module or, with dots, in another. Reading an old name issues a
            `DeprecationWarning`.
        otherwise: `__getattr__` for all other names; by default they raise `AttributeError`.
    """

    def get(name: str) -> Any:
        if name in names:
            place, _, new = names[name].rpartition(".")
            place = place or module
            warnings.warn(f"{module}.{name} is now {place}.{new}.", DeprecationWarning, stacklevel=2)
            return getattr(importlib.import_module(place), new)
        if otherwise is not None:
            return otherwise(name)
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return get
