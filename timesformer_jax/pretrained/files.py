"""What a path holds, by its content: a file of tensors, or a Hugging Face folder with what stands beside them."""

import functools
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from timesformer_jax.errors import InputError
from timesformer_jax.pretrained.file_checks import check_names, check_numbers, check_regular, parse_json, read_text
from timesformer_jax.pretrained.tensor_files import Tensors, open_safetensors, open_torch, open_zip


def open_tensors(path: Path, entry: str | None = None) -> Tensors:
    """Opens a file by its content (the name doesn't matter), or a Hugging Face folder.

    `entry`: the one of a PyTorch file's entries to take.

    Raises `InputError` with what it is instead.
    """
    files = _folder_weights(path) if path.is_dir() else [path]
    size = sum(check_regular(file) for file in files)
    tensors = _reader(files, path)(files, entry)
    check_names(tensors.shapes, path)
    check_numbers(tensors.shapes.values(), size, path)
    return tensors


Reader = Callable[[list[Path], str | None], Tensors]


def _reader(files: list[Path], path: Path) -> Reader:
    """What reads the files: in a folder by their suffix, alone by their content."""
    if path.is_dir():
        return open_safetensors if files[0].suffix == ".safetensors" else open_torch
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise InputError(f"Can't read {path}: {error.strerror}.") from error
    for recognises, reader in READERS:
        if recognises(start):
            return reader
    raise InputError(
        f"{path} holds no weights: {_looks_like(start)}. Expected a PyTorch file (.pyth, .pth, .pt, .bin), a .safetensors or "
        ".npz file, a Hugging Face folder, or a run of this project."
    )


READERS: tuple[tuple[Callable[[bytes], bool], Reader], ...] = (
    (lambda start: start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 1 << 30, open_safetensors),
    (lambda start: start.startswith(b"PK"), open_zip),
    (lambda start: start.startswith(b"\x80"), open_torch),  # PyTorch's files before 1.6, or any pickle
)
"""How a file begins -> how it is read."""


def _looks_like(start: bytes) -> str:
    if not start:
        return "it is empty"
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, not the file itself (run `git lfs pull`)"
    if start.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html")):
        return "it is a web page; download the file itself"
    return f"it begins with {start[:12]!r}"


WEIGHTS = ("model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors", "open_clip_pytorch_model.bin")
"""Names of a folder's file of weights, the first that is there counts; the latter two are OpenCLIP's."""


def _folder_weights(path: Path) -> list[Path]:
    """A Hugging Face folder's files of weights."""
    for name in WEIGHTS:
        if (path / name).exists():
            return [path / name]
        index = path / f"{name}.index.json"
        if index.exists():
            return _parts(index)
    variants = _variants(path)
    if len(variants) == 1:
        return next(iter(variants.values()))()
    if variants:
        raise InputError(
            f"The folder {path} holds the variants {', '.join(sorted(variants))} of its weights and no other: give the path "
            "of one of the files."
        )
    inside = ", ".join(sorted(entry.name for entry in path.iterdir())[:8]) or "nothing"
    raise InputError(f"The folder {path} holds no weights (expected model.safetensors, or a run's checkpoints), but {inside}.")


VARIANTS: tuple[tuple[str, Callable[[Path], list[Path]]], ...] = (
    (r"model\.(\w+)\.safetensors", lambda file: [file]),
    (r"model\.safetensors\.index\.(\w+)\.json", lambda index: _parts(index)),
    (r"pytorch_model\.(\w+)\.bin", lambda file: [file]),
    (r"pytorch_model\.bin\.index\.(\w+)\.json", lambda index: _parts(index)),
)
"""Files that transformers writes with `variant="fp16"` -> the files of weights; of one variant the first counts."""


def _variants(path: Path) -> dict[str, Callable[[], list[Path]]]:
    """Variant, such as "fp16" -> what gives its files."""
    found: dict[str, Callable[[], list[Path]]] = {}
    for pattern, files in VARIANTS:
        for entry in sorted(path.iterdir()):
            if match := re.fullmatch(pattern, entry.name):
                found.setdefault(match[1], functools.partial(files, entry))
    return found


def _parts(index: Path) -> list[Path]:
    """The files that an index names, all in its folder."""
    places = read_json(index).get("weight_map")
    names = sorted(set(places.values())) if isinstance(places, Mapping) and all(map(_is_name, places.values())) else []
    if not names:
        raise InputError(f"{index} should have a weight_map from tensors to files beside it.")
    missing = [name for name in names if not (index.parent / name).exists()]
    if missing:
        raise InputError(f"The folder {index.parent} lacks {', '.join(missing)}: download it again.")
    return [index.parent / name for name in names]


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value == Path(value).name


def read_beside(path: Path, name: str) -> dict[str, Any]:
    """A JSON file of a Hugging Face folder, or beside a file of weights; empty where there is none."""
    file = (path if path.is_dir() else path.parent) / name
    return read_json(file) if file.exists() else {}


def read_json(path: Path) -> dict[str, Any]:
    """The object that a file of JSON holds."""
    value = parse_json(read_text(path), path)
    if not isinstance(value, dict):
        raise InputError(f"{path} should hold a JSON object, got {type(value).__name__}.")
    return value
