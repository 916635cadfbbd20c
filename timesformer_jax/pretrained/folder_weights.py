"""Find the weight files of a Hugging Face or OpenCLIP folder: a whole file, the shards of an index, or a variant."""

import functools
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from timesformer_jax.errors import InputError
from timesformer_jax.pretrained.file_checks import read_json

WEIGHTS = ("model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors", "open_clip_pytorch_model.bin")
"""Names of a folder's weight file, in order of precedence; the last two are OpenCLIP's."""


def folder_weights(path: Path) -> list[Path]:
    """Return the weight files of a Hugging Face folder."""
    for name in WEIGHTS:
        if (path / name).exists():
            return [path / name]
        index = path / f"{name}.index.json"
        if index.exists():
            return _shards(index)
    variants = _variants(path)
    if len(variants) == 1:
        return next(iter(variants.values()))()
    if variants:
        raise InputError(
            f"The folder {path} only holds the variants {', '.join(sorted(variants))} of its weights: give the path of one of "
            "the files."
        )
    inside = ", ".join(sorted(entry.name for entry in path.iterdir())[:8]) or "nothing"
    raise InputError(f"The folder {path} holds no weights (expected model.safetensors, or a run's checkpoints), but {inside}.")


VARIANTS: tuple[tuple[str, Callable[[Path], list[Path]]], ...] = (
    (r"model\.(\w+)\.safetensors", lambda file: [file]),
    (r"model\.safetensors\.index\.(\w+)\.json", lambda index: _shards(index)),
    (r"pytorch_model\.(\w+)\.bin", lambda file: [file]),
    (r"pytorch_model\.bin\.index\.(\w+)\.json", lambda index: _shards(index)),
)
"""Maps files that transformers writes with `variant="fp16"` to the weight files, in order of precedence for each variant."""


def _variants(path: Path) -> dict[str, Callable[[], list[Path]]]:
    """Map each variant in a folder, such as "fp16", to a function that returns its files."""
    found: dict[str, Callable[[], list[Path]]] = {}
    for pattern, files in VARIANTS:
        for entry in sorted(path.iterdir()):
            if match := re.fullmatch(pattern, entry.name):
                found.setdefault(match[1], functools.partial(files, entry))
    return found


def _shards(index: Path) -> list[Path]:
    """Return the files that an index lists, all in the index's folder."""
    places = read_json(index).get("weight_map")
    names = sorted(set(places.values())) if isinstance(places, Mapping) and all(map(_is_name, places.values())) else []
    if not names:
        raise InputError(f"{index} should have a weight_map from tensors to files in its folder.")
    missing = [name for name in names if not (index.parent / name).exists()]
    if missing:
        raise InputError(f"The folder {index.parent} lacks {', '.join(missing)}: download it again.")
    return [index.parent / name for name in names]


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value == Path(value).name
