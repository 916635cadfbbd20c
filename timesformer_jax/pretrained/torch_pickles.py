"""Load PyTorch's pickled files as data, and find the entry that holds the model."""

import argparse
import functools
import pathlib
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from timesformer_jax.errors import InputError, did_you_mean
from timesformer_jax.pretrained.file_checks import broken, check_regular
from timesformer_jax.pretrained.tensor_names import choose_one


@functools.cache
def plain_values() -> tuple[Any, ...]:
    """Return entries for PyTorch's allow-list: harmless types in published files besides tensors and Python's own types.

    These are argparse's `Namespace`, NumPy's numbers and arrays of numbers, and paths, which become pure paths. Types whose
    values aren't read, such as mmengine's logs and dates, become empty objects. Containers become plain ones, which are all
    that PyTorch's unpickler fills.
    """
    from numpy._core.multiarray import _reconstruct, scalar  # pyright: ignore[reportAttributeAccessIssue]

    number_types = [np.dtype(code) for code in "?bhilqBHILQefdgFDSUmM"]
    modules = ("numpy.core.multiarray", "numpy._core.multiarray")  # as NumPy 1 and 2 write
    paths = (("PosixPath", pathlib.PurePosixPath), ("WindowsPath", pathlib.PureWindowsPath))
    return (
        argparse.Namespace,
        np.ndarray,
        np.dtype,
        *{type(number_type) for number_type in number_types},
        *((_reconstruct, f"{module}._reconstruct") for module in modules),
        *((scalar, f"{module}.scalar") for module in modules),
        *((_no_bytes, f"{module}.bytes") for module in ("builtins", "__builtin__")),
        *((pure, f"{module}.{prefix}{name}") for name, pure in paths for prefix in ("", "Pure") for module in PATH_MODULES),
        *((Unread, name) for name in UNREAD),
        (_empty_dict, "collections.defaultdict"),
        (_empty_list, "collections.deque"),
    )


class Unread:
    """Stand-in for an object whose values aren't read; discards its arguments and state."""

    def __new__(cls, *_: Any) -> "Unread":
        """Ignore the arguments."""
        return super().__new__(cls)

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


UNREAD = (
    "mmengine.logging.history_buffer.HistoryBuffer",
    "builtins.getattr",  # names the methods in mmengine's logs; `Unread` looks nothing up
    "torch.torch_version.TorchVersion",
    *(f"datetime.{name}" for name in ("datetime", "date", "time", "timedelta", "timezone")),
    *(f"builtins.{name}" for name in ("list", "dict", "int", "float", "str")),  # factories of a defaultdict
)
"""Types and functions in published files that become `Unread`."""


def _empty_dict(*_: Any) -> dict[Any, Any]:
    return {}


def _empty_list(*_: Any) -> list[Any]:
    return []


def _no_bytes() -> bytes:
    """Replace `bytes()` in pickles of empty arrays. `bytes` itself, called with a number, would allocate that much memory."""
    return b""


PATH_MODULES = ("pathlib", "pathlib._local")
"""Modules in which different versions of Python define paths."""


def _check_globals(path: Path) -> None:
    """Raise `InputError` for `bytearray`, which PyTorch allows and which can allocate any amount: `bytearray(10**12)`."""
    check_regular(path)
    with broken(path, "PyTorch"), path.open("rb") as file:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                pickled = [name for name in archive.namelist() if name.endswith("data.pkl")]
                start = b"".join(archive.open(name).read(LARGEST_PICKLE) for name in pickled[:1])
        else:
            file.seek(0)
            start = file.read(LARGEST_PICKLE)
    if b"bytearray" in start:
        raise InputError(f"{path} is not loaded: it holds a bytearray, where only tensors and plain values are expected.")


LARGEST_PICKLE = 64 << 20
"""Number of bytes searched for globals: more than the names and shapes of any model take up."""


def load_torch(torch: Any, path: Path) -> Any:
    """Load a PyTorch file; raises `InputError` if it is broken, or if loading it could run code."""
    _check_globals(path)
    with broken(path, "PyTorch"):
        try:
            with torch.serialization.safe_globals(list(plain_values())):
                return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            reason = str(error)
            if (
                "Unsupported global" not in reason
                and "Unsupported class" not in reason
                and "weights_only" not in reason.lower()
            ):
                raise
            unsafe = reason.partition("GLOBAL ")[2].partition(" ")[0] or "an object that isn't a tensor"
            raise InputError(
                f"{path} is not loaded, because that could run code: it holds {unsafe}, where only tensors and plain values "
                "are expected. If you trust it, save its state_dict again with torch.save, or as .safetensors."
            ) from error


WRAPPERS = ("model_state", "state_dict", "model", "module")
"""Entries of published PyTorch files that hold the tensors, if the top level doesn't."""

FEWEST = 4
"""Minimum number of tensors of an entry that may be a model: the number that every model has, whatever its depth."""

_DEEPEST = 3
"""Maximum depth at which tensors are searched."""


def tensors_by_entry(loaded: Any) -> dict[str, dict[str, Any]]:
    """Map each entry that holds tensors by name, a path of keys joined by dots ("" for the top level), to its tensors.

    NumPy arrays count as tensors only in a file without PyTorch's, since others hold them as logs and random states.
    """
    return _entries_of(loaded, lambda value: hasattr(value, "detach")) or _entries_of(loaded, _is_array)


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray)


def _entries_of(loaded: Any, is_tensor: Callable[[Any], bool]) -> dict[str, dict[str, Any]]:
    entries: dict[str, dict[str, Any]] = {}
    seen = set()

    def visit(value: Any, place: tuple[str, ...]) -> None:
        if not isinstance(value, Mapping) or (len(place) > 1 and id(value) in seen):
            return
        seen.add(id(value))
        named = {key: inner for key, inner in value.items() if isinstance(key, str)}
        tensors = {key: inner for key, inner in named.items() if is_tensor(inner)}
        if tensors:
            entries[".".join(place)] = tensors
        if len(place) < _DEEPEST:
            for key, inner in named.items():
                visit(inner, (*place, key))

    visit(loaded, ())
    return entries


def choose_entry(path: Path, loaded: Any, entries: Mapping[str, Mapping[str, Any]], wanted: str | None) -> str:
    """Choose the requested entry, or else the model's.

    Args:
        path: The file, for errors.
        loaded: Its contents.
        entries: Entries that hold tensors by name.
        wanted: The requested entry, or a parent that leads to only one; None to detect the model's.

    Raises:
        InputError: If there is no such entry, or if the choice is ambiguous.
    """
    listed = ", ".join(name or "the file itself" for name in list(entries)[:8]) + (", ..." if len(entries) > 8 else "")
    if wanted is not None:
        inside = [name for name in entries if name == wanted or name.startswith(f"{wanted}.")]
        if wanted in entries or len(inside) == 1:
            return wanted if wanted in entries else inside[0]
        raise InputError(
            f"{path} has no entry {wanted!r} of tensors by name, but {listed or 'none at all'}.{did_you_mean(wanted, entries)}"
        )
    likely = [name for name in entries if len(entries[name]) >= FEWEST]
    for wrapper in WRAPPERS:
        if wrapper in (likely or entries):
            return wrapper
    if "" in entries and (len(entries) == 1 or "" in likely):
        return ""
    chosen = choose_one(likely or entries)
    if chosen is not None:
        return chosen
    if entries:
        raise InputError(
            f"{path} has several entries of tensors by name: {listed}. Choose one with entry=... (on the "
            "command line --entry, in a config init_from_entry)."
        )
    keys = list(loaded) if isinstance(loaded, Mapping) else []
    shown = ", ".join(map(str, keys[:6])) + (", ..." if len(keys) > 6 else "")
    got = f"a {type(loaded).__name__}" + (f" of {shown}" if shown else "")
    raise InputError(f"{path} holds no tensors by name, at the top or under {', '.join(WRAPPERS)}: it is {got}.")
