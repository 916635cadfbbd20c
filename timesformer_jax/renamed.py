"""Old names of public functions and classes, kept for one release."""

import importlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any


def renamed(module: str, names: Mapping[str, str], otherwise: Callable[[str], Any] | None = None) -> Callable[[str], Any]:
    """Make the `__getattr__` of a module whose names have changed.

    Args:
        module: The module's `__name__`.
        names: Old name to new name; reading an old one warns with `DeprecationWarning`.
        otherwise: The module's `__getattr__` for all other names; by default they raise `AttributeError`.
    """

    def get(name: str) -> Any:
        if name in names:
            warnings.warn(f"{module}.{name} is now {module}.{names[name]}.", DeprecationWarning, stacklevel=2)
            return getattr(importlib.import_module(module), names[name])
        if otherwise is not None:
            return otherwise(name)
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return get
