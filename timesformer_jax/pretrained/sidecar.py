"""Configuration files next to weights: reading those of each format, and merging their contents."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from timesformer_jax.errors import shown
from timesformer_jax.pretrained.config_entries import Stated
from timesformer_jax.pretrained.file_checks import read_json
from timesformer_jax.pretrained.huggingface_config import (
    fields_of_config,
    is_huggingface,
    labels_of_config,
    objective_of_config,
)
from timesformer_jax.pretrained.infer_config import merge_fields
from timesformer_jax.pretrained.open_clip_config import is_open_clip, read_open_clip
from timesformer_jax.pretrained.timm_config import is_timm, read_timm
from timesformer_jax.pretrained.weight_formats import FORMATS, Format


class Reader(NamedTuple):
    """Reader of one library's configuration."""

    file: str
    """Name of the file."""
    recognises: Callable[[Mapping[str, Any]], bool]
    """Returns True for configurations of this library."""
    read: Callable[[Mapping[str, Any], int], Stated]
    """Maps (configuration, width of the model) to its contents."""


def _read_huggingface(config: Mapping[str, Any], width: int) -> Stated:
    return Stated(fields_of_config(config), {}, labels_of_config(config), objective=objective_of_config(config))


HUGGINGFACE = Reader("config.json", is_huggingface, _read_huggingface)
HUGGINGFACE_CLIP = Reader("config.json", lambda config: "clip" in str(config.get("model_type")), _read_huggingface)
OPEN_CLIP = Reader("open_clip_config.json", is_open_clip, read_open_clip)
TIMM = Reader("config.json", is_timm, read_timm)

READERS: tuple[tuple[str, tuple[Reader, ...]], ...] = (
    ("huggingface_clip", (HUGGINGFACE, OPEN_CLIP)),
    ("huggingface.*", (HUGGINGFACE,)),
    ("clip", (OPEN_CLIP, HUGGINGFACE_CLIP)),
    ("timm.*clip.*", (OPEN_CLIP, TIMM)),
    ("timm.*", (TIMM,)),
)
"""Maps patterns of keys of `FORMATS` to the configurations read next to such weights; the first takes precedence."""

CONSTANTS = ("activation", "layer_norm_epsilon", "num_heads")
"""Model fields that can't be inferred from any tensor."""


def read_sidecars(path: Path, format: Format, width: int) -> tuple[Stated, list[str]]:
    """Read the configurations in a folder of weights, or next to a file, and return their contents and notes for the report.

    Raises `InputError` for entries of the wrong type, and for configurations that contradict each other.
    """
    name = next((name for name, each in FORMATS.items() if each is format), "")
    readers = next((readers for pattern, readers in READERS if re.fullmatch(pattern, name)), ())
    found: list[tuple[str, Stated]] = []
    notes: list[str] = []
    for reader in readers:
        config = read_json_next_to(path, reader.file)
        if not config:
            continue
        if reader.recognises(config):
            found.append((reader.file, reader.read(config, width)))
        else:
            model = config.get("model_type") or config.get("architecture")
            described = f"describes another model, {shown(model)}," if model else "is another program's"
            notes.append(f"{reader.file} next to the weights {described} and isn't read")
    return _merged(found, notes), notes


def _merged(found: list[tuple[str, Stated]], notes: list[str]) -> Stated:
    constants: dict[str, tuple[str, Any]] = {}
    fields: list[tuple[str, dict[str, Any]]] = []
    for source, stated in found:
        agreed = dict(stated.fields)
        for name in CONSTANTS:
            first, value = constants.setdefault(name, (source, agreed[name])) if name in agreed else (source, None)
            if first != source and value != agreed.get(name):
                notes.append(f"{name} is {value!r} by {first}, which takes precedence, and {agreed.pop(name)!r} by {source}")
        fields.append((source, agreed))
    reverse = [stated for _, stated in reversed(found)]
    return Stated(
        merge_fields(*fields),
        {name: value for stated in reverse for name, value in stated.preprocess.items()},
        next((stated.labels for _, stated in found if stated.labels), None),
        next((stated.pooled for _, stated in found if stated.pooled), None),
        next((stated.objective for _, stated in found if stated.objective), None),
    )


def read_json_next_to(path: Path, name: str) -> dict[str, Any]:
    """Read the JSON file of this name in a folder, or next to a file of weights; empty if there is none."""
    file = (path if path.is_dir() else path.parent) / name
    return read_json(file) if file.exists() else {}
