"""Read Caffe2's pickled files of arrays with an unpickler that runs no code."""

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from timesformer_jax.errors import InputError
from timesformer_jax.pretrained.file_checks import broken


class PickledDtype:
    """Stand-in for `numpy.dtype` in a pickle: a number type of known size."""

    def __init__(self, code: Any, *_: Any) -> None:
        if code not in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"):
            raise pickle.UnpicklingError(f"an array of {code!r}")
        self.code = str(code)
        self.order = "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = ">" if state[1] == ">" else "<"

    @property
    def dtype(self) -> np.dtype[Any]:
        """The number type."""
        return np.dtype(self.order + self.code)


class PickledArray:
    """Stand-in for `numpy.ndarray` in a pickle; allocates only what the file holds."""

    value: np.ndarray

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        data = data.encode("latin1") if isinstance(data, str) else data  # Python 2 wrote bytes as str
        value = np.frombuffer(data, dtype.dtype)
        self.value = value.reshape(shape, order="F" if fortran else "C")


def _reconstruct(*_: Any) -> PickledArray:
    return PickledArray()


def _scalar(dtype: PickledDtype, data: Any) -> Any:
    return np.frombuffer(data.encode("latin1") if isinstance(data, str) else data, dtype.dtype)[0]


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in {encoding}")
    return text.encode("latin1")


_NUMPY = [f"numpy.{core}.multiarray" for core in ("core", "_core")]
ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "dtype"): PickledDtype,
    ("numpy", "ndarray"): PickledArray,
    ("_codecs", "encode"): _encode,
    **{(module, "_reconstruct"): _reconstruct for module in _NUMPY},
    **{(module, "scalar"): _scalar for module in _NUMPY},
}
"""Maps the globals that a file may name to what they become."""


class _ForbiddenError(Exception):
    """A global outside `ALLOWED`."""


# Python's implementation, not the C one, which allocates a table as large as any index in the file.
class _Unpickler(pickle._Unpickler):  # pyright: ignore[reportAttributeAccessIssue]
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise _ForbiddenError(f"{module}.{name}")
        return ALLOWED[module, name]


def load_caffe2(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a Caffe2 file by name.

    Raises `InputError` if the file is broken, holds no arrays, or holds anything but arrays and plain values.
    """
    with broken(path, "Caffe2"):
        data = path.read_bytes()
        try:
            loaded = _Unpickler(io.BytesIO(data), encoding="latin1").load()
        except _ForbiddenError as error:
            raise InputError(
                f"{path} is not loaded, because that could run code: it holds {error}, where only arrays and plain values are "
                "expected."
            ) from error
    blobs = loaded.get("blobs", loaded) if isinstance(loaded, Mapping) else {}
    arrays = blobs.items() if isinstance(blobs, Mapping) else ()
    found = {name: array.value for name, array in arrays if isinstance(name, str) and hasattr(array, "value")}
    if not found:
        raise InputError(f"{path} holds no weights: it is a pickle without the arrays by name, `blobs`, of a Caffe2 file.")
    return found
