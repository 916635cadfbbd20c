"""Readers of files of tensors: safetensors, NumPy's, PyTorch's. Names and shapes at once, numbers when they are asked for."""

import contextlib
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from timesformer_jax.errors import InputError
from timesformer_jax.extras import MissingPackageError
from timesformer_jax.pretrained.broken import broken
from timesformer_jax.pretrained.file_checks import EXPANSION, LARGEST_TEXT, SLACK, check_regular
from timesformer_jax.pretrained.integrity import check_crcs, check_seal
from timesformer_jax.pretrained.torch_pickles import FEWEST, choose_entry, load_torch, tensors_by_entry


class Tensors(NamedTuple):
    """What a file or folder holds."""

    shapes: dict[str, tuple[int, ...]]
    take: Callable[[str], np.ndarray]
    """Reads one tensor as float32; each may be taken once, and its memory is then the caller's. Safe in several threads.

    Raises `InputError` for a damaged one, and for one that isn't of real numbers.
    """
    wrapper: str | None = None
    """The key of a PyTorch file under which the tensors were, such as "model_state"."""
    notes: Mapping[str, Any] = MappingProxyType({})
    """What else the file says: a PyTorch file's other entries, a safetensors file's metadata."""
    others: tuple[str, ...] = ()
    """Further keys of a PyTorch file with tensors by name, such as "model_ema"."""


def open_safetensors(paths: list[Path], entry: str | None = None) -> Tensors:
    """One file, or the parts of one model."""
    _check_no_entry(paths[0], entry)
    safe_open = import_safetensors("Reading").safe_open
    where: dict[str, Path] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    notes: dict[str, Any] = {}
    for path in paths:
        _check_header(path)
        with broken(path, "safetensors"), safe_open(path, framework="numpy") as file:
            check_seal(path, file.metadata() or {})
            notes |= file.metadata() or {}
            for name in file.keys():  # noqa: SIM118  (not a dict)
                where[name], shapes[name] = path, tuple(file.get_slice(name).get_shape())

    def take(name: str) -> np.ndarray:
        # Opened anew, so that the pages that a tensor was copied from don't stay in memory with those of the others.
        with broken(where[name], "safetensors"), safe_open(where[name], framework="numpy") as file:
            return _as_float32(name, file.get_tensor(name))

    return Tensors(shapes, take, notes=notes)


def _check_header(path: Path) -> None:
    """Raises `InputError` for a header that is longer than the file, or than any model's."""
    size = check_regular(path)
    with broken(path, "safetensors"), path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > min(size, LARGEST_TEXT):
        raise InputError(f"{path} ({size:,} bytes) is a broken or truncated safetensors file: a header of {length:,} bytes.")


def open_npz(paths: list[Path], entry: str | None = None) -> Tensors:
    """NumPy's archive of arrays; none of them is unpickled."""
    _check_no_entry(paths[0], entry)
    (path,) = paths
    shapes = {}
    with broken(path, ".npz"), _npz(path) as archive:
        for name in archive.files:
            with archive.zip.open(f"{name}.npy") as member:
                version = np.lib.format.read_magic(member)
                header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shapes[name] = header(member)[0]
    lock = threading.Lock()  # NumPy parses the headers by Python's parser, which fails when threads meet in it

    def take(name: str) -> np.ndarray:
        with broken(path, ".npz"), lock, _npz(path) as archive:
            array = archive[name]
            # NumPy knows bfloat16 as two bytes without meaning.
            return _as_float32(name, array.view(jnp.bfloat16) if array.dtype == np.dtype("V2") else array)

    return Tensors(shapes, take)


@contextlib.contextmanager
def _npz(path: Path) -> Iterator[Any]:
    """The open archive. NumPy would leave a damaged file open that it opened itself."""
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        yield archive


def _check_no_entry(path: Path, entry: str | None) -> None:
    if entry is not None:
        raise InputError(
            f"{path} holds one list of tensors, without entries such as {entry!r}: prefix=... (on the command line "
            "--prefix, in a config init_from_prefix) chooses by the names of the tensors."
        )


def open_torch(paths: list[Path], entry: str | None = None) -> Tensors:
    """PyTorch's pickled files, loaded as data: one that would run code is refused."""
    torch = import_torch(f"Reading {paths[0]}")
    found: dict[str, Any] = {}
    wrapper, notes, others = None, {}, ()
    for path in paths:
        loaded = load_torch(torch, path)
        entries = tensors_by_entry(loaded)
        wrapper = choose_entry(path, loaded, entries, entry)
        found |= entries[wrapper]
        others = tuple(name for name in entries if name != wrapper and len(entries[name]) >= FEWEST)
        top = loaded if isinstance(loaded, Mapping) else {}
        notes = {k: v for k, v in top.items() if k not in (wrapper, *others) and k not in entries[wrapper]}
        check_crcs(path, notes)

    def take(name: str) -> np.ndarray:
        with broken(paths[0], "PyTorch"):
            tensor = found.pop(name).detach()
            if not tensor.is_floating_point():
                raise _not_real(name, tensor.dtype)
            return tensor.to(torch.float32).numpy()

    return Tensors({name: tuple(tensor.shape) for name, tensor in found.items()}, take, wrapper or None, notes, others)


def open_zip(paths: list[Path], entry: str | None = None) -> Tensors:
    """NumPy's and PyTorch's files are both zip archives."""
    with broken(paths[0], "PyTorch or .npz"), zipfile.ZipFile(paths[0]) as archive:
        names = archive.namelist()
        unpacked = sum(member.file_size for member in archive.infolist())
    size = check_regular(paths[0])
    if unpacked > EXPANSION * size + SLACK:
        raise InputError(f"{paths[0]} claims to unpack from {size:,} to {unpacked:,} bytes: that is no archive of weights.")
    if names and all(name.endswith(".npy") for name in names):
        return open_npz(paths, entry)
    if any(Path(name).name == "constants.pkl" for name in names):
        raise InputError(
            f"{paths[0]} is a TorchScript program, which is code: save its state_dict() with torch.save or safetensors, or use "
            "the model's Hugging Face folder (openai/clip-vit-base-patch16, for example)."
        )
    if any(name.endswith("data.pkl") for name in names):
        return open_torch(paths, entry)
    raise InputError(f"{paths[0]} is a zip archive without weights, of {', '.join(names[:5]) or 'nothing'}.")


def import_safetensors(doing: str) -> Any:
    """The package safetensors, or a sentence that says how to get it."""
    try:
        import safetensors.numpy
    except ImportError as error:
        raise MissingPackageError("safetensors", f"{doing} .safetensors") from error
    return safetensors


def import_torch(what: str) -> Any:
    """PyTorch, or a sentence that says how to get it."""
    try:
        import torch  # pyright: ignore[reportMissingImports]  (optional)
    except ImportError as error:
        raise MissingPackageError("torch", f"{what}, a pickled file,") from error
    return torch


def _as_float32(name: str, array: np.ndarray) -> np.ndarray:
    if not (np.issubdtype(array.dtype, np.floating) or array.dtype in (jnp.bfloat16, *_EIGHT_BITS)):
        raise _not_real(name, array.dtype)
    return array.astype(np.float32, copy=False)


_EIGHT_BITS = (jnp.float8_e4m3fn, jnp.float8_e5m2)


def _not_real(name: str, dtype: Any) -> InputError:
    return InputError(f"The tensor {name} is of {dtype}: expected floating-point numbers.")
