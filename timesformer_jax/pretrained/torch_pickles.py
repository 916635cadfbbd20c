"""PyTorch's pickled files as data: what may stand in them, and which of their entries holds the model."""

import argparse
import functools
import pathlib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from timesformer_jax.errors import InputError, did_you_mean
from timesformer_jax.pretrained.file_checks import broken, check_regular
from timesformer_jax.pretrained.tensor_names import choose_one


@functools.cache
def plain_values() -> tuple[Any, ...]:
    """Types besides tensors and Python's own that published files have and that run no code, as PyTorch's allow-list takes
    them: argparse's `Namespace`, NumPy's numbers and arrays of numbers, paths (as such that touch no file)."""
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
    )


def _no_bytes() -> bytes:
    """What an empty array holds. `bytes` itself would take a number and fill as much memory."""
    return b""


PATH_MODULES = ("pathlib", "pathlib._local")
"""Where Python's versions have their paths."""


def _check_globals(path: Path) -> None:
    """Raises `InputError` for what PyTorch's allow-list has and takes any amount of memory: `bytearray(10**12)`."""
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
"""Bytes that are searched for globals: more than names and shapes of any model take."""


def load_torch(torch: Any, path: Path) -> Any:
    """What a file holds; `InputError` if it is broken, or if loading it could run code."""
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
            unsafe = reason.partition("GLOBAL ")[2].partition(" ")[0] or "an object that is no tensor"
            raise InputError(
                f"{path} is not loaded, because that could run code: it holds {unsafe}, where only tensors and plain values "
                "are expected. If you trust it, save its state_dict anew with torch.save, or as .safetensors."
            ) from error


WRAPPERS = ("model_state", "state_dict", "model", "module")
"""Where published PyTorch files keep their tensors, if not at the top."""

FEWEST = 4
"""Tensors that an entry has if it may be a model: as many as every model has whatever its depth."""

_DEEPEST = 3


def tensors_by_entry(loaded: Any) -> dict[str, dict[str, Any]]:
    """Keys that lead to tensors by name, joined with dots ("" for the file itself) -> those tensors."""
    entries: dict[str, dict[str, Any]] = {}
    seen = set()

    def visit(value: Any, place: tuple[str, ...]) -> None:
        if not isinstance(value, Mapping) or (len(place) > 1 and id(value) in seen):
            return
        seen.add(id(value))
        named = {key: inner for key, inner in value.items() if isinstance(key, str)}
        tensors = {key: inner for key, inner in named.items() if hasattr(inner, "detach")}
        if tensors:
            entries[".".join(place)] = tensors
        if len(place) < _DEEPEST:
            for key, inner in named.items():
                visit(inner, (*place, key))

    visit(loaded, ())
    return entries


def choose_entry(path: Path, loaded: Any, entries: Mapping[str, Mapping[str, Any]], wanted: str | None) -> str:
    """The entry that was asked for, or the model's; raises `InputError` if there is none, or no telling which."""
    listed = ", ".join(name or "the file itself" for name in list(entries)[:8]) + (", ..." if len(entries) > 8 else "")
    if wanted is not None:
        inside = [name for name in entries if name == wanted or name.startswith(f"{wanted}.")]
        if wanted in entries or len(inside) == 1:
            return wanted if wanted in entries else inside[0]
        raise InputError(
            f"{path} has no entry {wanted!r} of tensors by name, but {listed or 'none at all'}.{did_you_mean(wanted, entries)}"
        )
    for wrapper in WRAPPERS:
        if wrapper in entries:
            return wrapper
    likely = [name for name in entries if len(entries[name]) >= FEWEST]
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
