"""Open a weight file, detected by its content, or a Hugging Face folder: names and shapes first, values on demand."""

import contextlib
import json
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from timesformer_jax.errors import InputError
from timesformer_jax.extras import needs
from timesformer_jax.pretrained.caffe2_pickles import load_caffe2
from timesformer_jax.pretrained.file_checks import (
    EXPANSION,
    LARGEST_TEXT,
    SLACK,
    broken,
    check_names,
    check_numbers,
    check_regular,
)
from timesformer_jax.pretrained.folder_weights import folder_weights
from timesformer_jax.pretrained.integrity import check_crcs, check_seal
from timesformer_jax.pretrained.torch_pickles import FEWEST, choose_entry, load_torch, tensors_by_entry


class Tensors(NamedTuple):
    """Tensors of a file or folder."""

    shapes: dict[str, tuple[int, ...]]
    """Name -> shape."""
    take: Callable[[str], np.ndarray]
    """Reads one tensor as float32. Each tensor may be taken once, and the caller owns its memory. Thread-safe.

    Raises `InputError` if the tensor is damaged, or if its values aren't floating-point numbers.
    """
    wrapper: str | None = None
    """Entry of a PyTorch file that holds the tensors, such as "model_state"."""
    notes: Mapping[str, Any] = MappingProxyType({})
    """Other contents: the other entries of a PyTorch file, or the metadata of a safetensors file."""
    others: tuple[str, ...] = ()
    """Other entries of a PyTorch file that hold tensors by name, such as "model_ema"."""


def open_tensors(path: Path, entry: str | None = None) -> Tensors:
    """Open a weight file, detected by its content regardless of its name, or a Hugging Face folder.

    `entry` chooses among the entries of a PyTorch file.

    Raises `InputError` if the path holds no weights, and says what it holds instead.
    """
    files = folder_weights(path) if path.is_dir() else [path]
    size = sum(check_regular(file) for file in files)
    tensors = _reader(files, path)(files, entry)
    check_names(tensors.shapes, path)
    check_numbers(tensors.shapes.values(), size, path)
    return tensors


Reader = Callable[[list[Path], str | None], Tensors]
"""Function (files, entry) -> tensors."""


def open_safetensors(paths: list[Path], entry: str | None = None) -> Tensors:
    """Open one safetensors file, or the shards of one model."""
    _check_no_entry(paths[0], entry)
    safe_open = import_safetensors("Reading").safe_open
    where: dict[str, Path] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    eight_bits: dict[str, np.dtype[Any]] = {}
    notes: dict[str, Any] = {}
    for path in paths:
        _check_header(path)
        with broken(path, "safetensors"), safe_open(path, framework="numpy") as file:
            check_seal(path, file.metadata() or {})
            notes |= file.metadata() or {}
            for name in file.keys():  # noqa: SIM118  (not a dict)
                tensor = file.get_slice(name)
                where[name], shapes[name] = path, tuple(tensor.get_shape())
                if tensor.get_dtype() in _EIGHT_BITS:
                    eight_bits[name] = np.dtype(_EIGHT_BITS[tensor.get_dtype()])

    def take(name: str) -> np.ndarray:
        if name in eight_bits:
            return _take_raw(where[name], name, eight_bits[name]).astype(np.float32)
        # Reopened for every tensor, so that the mapped pages of the tensors read before don't stay in memory.
        with broken(where[name], "safetensors"), safe_open(where[name], framework="numpy") as file:
            return _as_float32(name, file.get_tensor(name))

    return Tensors(shapes, take, notes=notes)


def _take_raw(path: Path, name: str, dtype: np.dtype[Any]) -> np.ndarray:
    """Read a tensor of a number type that safetensors can't give to NumPy, which lacks it."""
    with broken(path, "safetensors"), path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        held = json.loads(file.read(length))[name]
        start, end = held["data_offsets"]
        file.seek(8 + length + start)
        return np.frombuffer(file.read(end - start), dtype).reshape(held["shape"])


def _check_header(path: Path) -> None:
    """Raise `InputError` if the header is longer than the file, or than any model's."""
    size = check_regular(path)
    with broken(path, "safetensors"), path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > min(size, LARGEST_TEXT):
        raise InputError(f"{path} ({size:,} bytes) is a broken or truncated safetensors file: a header of {length:,} bytes.")


def open_npz(paths: list[Path], entry: str | None = None) -> Tensors:
    """Open an archive of NumPy arrays, without unpickling any."""
    _check_no_entry(paths[0], entry)
    (path,) = paths
    shapes = {}
    with broken(path, ".npz"), _npz(path) as archive:
        for name in archive.files:
            with archive.zip.open(f"{name}.npy") as member:
                version = np.lib.format.read_magic(member)
                header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shapes[name] = header(member)[0]
    lock = threading.Lock()  # NumPy parses headers with Python's parser, which isn't thread-safe

    def take(name: str) -> np.ndarray:
        with broken(path, ".npz"), lock, _npz(path) as archive:
            array = archive[name]
            # NumPy reads bfloat16 as two opaque bytes.
            return _as_float32(name, array.view(jnp.bfloat16) if array.dtype == np.dtype("V2") else array)

    return Tensors(shapes, take)


@contextlib.contextmanager
def _npz(path: Path) -> Iterator[Any]:
    """Yield the open archive. The file is opened here because NumPy would leave a damaged one open."""
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        yield archive


def _check_no_entry(path: Path, entry: str | None) -> None:
    if entry is not None:
        raise InputError(
            f"{path} holds one list of tensors, without entries such as {entry!r}: choose by the names of the tensors with "
            "prefix=... (on the command line --prefix, in a config init_from_prefix)."
        )


def open_torch(paths: list[Path], entry: str | None = None) -> Tensors:
    """Open PyTorch's pickled files as data; a file that would run code is refused."""
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
            held = found.pop(name)
            if isinstance(held, np.ndarray):
                return _as_float32(name, held)
            tensor = held.detach()
            if not tensor.is_floating_point():
                raise _not_real(name, tensor.dtype)
            return tensor.to(torch.float32).numpy()

    return Tensors({name: tuple(tensor.shape) for name, tensor in found.items()}, take, wrapper or None, notes, others)


def open_caffe2(paths: list[Path], entry: str | None = None) -> Tensors:
    """Open a pickled file of Caffe2, as in PySlowFast's model zoo, as data."""
    _check_no_entry(paths[0], entry)
    check_regular(paths[0])
    arrays = load_caffe2(paths[0])
    return Tensors({name: array.shape for name, array in arrays.items()}, lambda name: _as_float32(name, arrays[name]))


def open_zip(paths: list[Path], entry: str | None = None) -> Tensors:
    """Open a zip archive, which is either NumPy's or PyTorch's."""
    with broken(paths[0], "PyTorch or .npz"), zipfile.ZipFile(paths[0]) as archive:
        names = archive.namelist()
        unpacked = sum(member.file_size for member in archive.infolist())
    size = check_regular(paths[0])
    if unpacked > EXPANSION * size + SLACK:
        raise InputError(f"{paths[0]} claims to unpack from {size:,} to {unpacked:,} bytes: it isn't an archive of weights.")
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
    """Import safetensors; raises `MissingPackageError`, which says how to install it."""
    with needs("safetensors", f"{doing} .safetensors"):
        import safetensors.numpy
    return safetensors


def import_torch(what: str) -> Any:
    """Import PyTorch; raises `MissingPackageError`, which says how to install it."""
    with needs("torch", f"{what}, a pickled file,"):
        import torch  # pyright: ignore[reportMissingImports]  (optional)
    return torch


def _as_float32(name: str, array: np.ndarray) -> np.ndarray:
    if not (np.issubdtype(array.dtype, np.floating) or array.dtype in (jnp.bfloat16, *_EIGHT_BITS.values())):
        raise _not_real(name, array.dtype)
    return array.astype(np.float32, copy=False)


_EIGHT_BITS = {"F8_E4M3": jnp.float8_e4m3fn, "F8_E5M2": jnp.float8_e5m2}
"""Maps the names of 8-bit floating-point numbers in safetensors files to the types."""


def _not_real(name: str, dtype: Any) -> InputError:
    return InputError(f"The tensor {name} is of {dtype}: expected floating-point numbers.")


def _reader(files: list[Path], path: Path) -> Reader:
    """Choose the reader of a folder's files by their suffix, or that of a single file by its content.

    Raises `InputError` for the first file whose content isn't that of a weight file.
    """
    readers = [_reader_of(file) for file in files]
    if path.is_dir():
        return open_safetensors if files[0].suffix == ".safetensors" else open_torch
    return readers[0]


def _reader_of(path: Path) -> Reader:
    """Choose the reader of a file by its content."""
    try:
        with path.open("rb") as file:
            start = file.read(1 << 16)
    except OSError as error:
        raise InputError(f"Can't read {path}: {error.strerror}.") from error
    for recognises, reader in READERS:
        if recognises(start):
            return reader
    raise InputError(
        f"{path} holds no weights: {_looks_like(start)}. Expected a PyTorch file (.pyth, .pth, .pt, .bin), a .safetensors or "
        ".npz file, a Hugging Face folder, or a run of this project."
    )


TORCH_MAGIC = 0x1950A86A20F9469CFC6C.to_bytes(10, "little")
"""Number that PyTorch's files before 1.6 begin with, as pickled."""

READERS: tuple[tuple[Callable[[bytes], bool], Reader], ...] = (
    (lambda start: start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 1 << 30, open_safetensors),
    (lambda start: start.startswith(b"PK"), open_zip),
    (lambda start: start.startswith(b"\x80") and TORCH_MAGIC in start[:32], open_torch),  # PyTorch's files before 1.6
    (lambda start: start.startswith(b"\x80"), open_caffe2),  # any other pickle
)
"""Maps the first bytes of a file, by a predicate, to its reader."""


def _looks_like(start: bytes) -> str:
    if not start:
        return "it is empty"
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, not the file itself (run `git lfs pull`)"
    if start.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html")):
        return "it is a web page; download the file itself"
    return f"it begins with {start[:12]!r}"
