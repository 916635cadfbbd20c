"""From a file's tensors to our parameters by path: which kind it is, and each tensor to its place."""

import functools
import re
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from timesformer_jax.errors import InputError
from timesformer_jax.modeling import TimeSformer, flatten_params, parameter_shapes
from timesformer_jax.pretrained.formats import Tensors
from timesformer_jax.pretrained.kinds import KINDS, Kind, Row, normalise, template

ESSENTIAL = ("cls_token", "norm/scale", "patch_embed/proj/kernel", "pos_embed")
"""Parameters that every kind has and that tell the model's size."""


class Recognised(NamedTuple):
    """A file's names, sorted out by one kind's rows."""

    kind: Kind
    places: dict[str, tuple[Row, str]]
    """Their name -> its row, and our path."""
    ignored: list[str]
    unknown: dict[str, tuple[int, ...]]
    """Names that no row has, and their shapes."""


def recognise(tensors: Tensors, source: str, kind_name: str | None = None) -> Recognised:
    """The kind most of whose rows the file has, or the one that was asked for, a key of `KINDS`.

    An official space-only model has the same tensors as an image transformer of timm: what tells them apart is the prefix
    `model.` or the key `model_state`, which only video models have.

    Raises `InputError` where no kind has the tensors that every model has.
    """
    candidates = [kind_name] if kind_name else list(KINDS)
    sorted_out = {name: _sort_out(tensors, KINDS[name]) for name in candidates}
    best = max(sorted_out, key=lambda name: len(sorted_out[name].places))  # of equal ones the first
    if best == "official" and kind_name is None and _is_image(tensors, sorted_out[best], sorted_out["timm"]):
        best = "timm"
    found = sorted_out[best]
    missing = set(ESSENTIAL) - {path for _, path in found.places.values()}
    if missing:
        known = "; ".join(kind.title for kind in KINDS.values())
        names = ", ".join(sorted(tensors.shapes)[:6]) or "none"
        raise InputError(
            f"{source} is of no known kind ({known}). The nearest is {found.kind.title}, but nothing in the file is its "
            f"{', '.join(sorted(missing))}. Its tensors: {names}{', ...' if len(tensors.shapes) > 6 else ''}."
        )
    return found


def _sort_out(tensors: Tensors, kind: Kind) -> Recognised:
    rows = {row.theirs: row for row in kind.rows}
    found = Recognised(kind, {}, [], {})
    for name in tensors.shapes:
        normalised = normalise(kind, name)
        general, block = template(normalised)
        if general in rows:
            found.places[name] = rows[general], rows[general].ours.replace("{i}", block)
        elif re.fullmatch(kind.ignored, normalised):
            found.ignored.append(name)
        else:
            found.unknown[name] = tensors.shapes[name]
    return found


def _is_image(tensors: Tensors, official: Recognised, timm: Recognised) -> bool:
    video = tensors.wrapper == "model_state" or any(re.match(r"(module\.)?model\.", name) for name in tensors.shapes)
    return len(official.places) == len(timm.places) and not video


def count_heads(tensors: Tensors, found: Recognised) -> int | None:
    """Attention heads, where a tensor's shape tells them: `[D, heads, head_dim]`, as the JAX files have it."""
    for name, (row, _) in found.places.items():
        if row.ours.endswith("qkv/kernel") and len(tensors.shapes[name]) == 3:
            return tensors.shapes[name][1]
    return None


def width(tensors: Tensors, found: Recognised) -> int:
    """The embedding's dimension."""
    return next(tensors.shapes[name][-1] for name, (row, _) in found.places.items() if row.ours == "norm/scale")


def translate(tensors: Tensors, found: Recognised, num_heads: int) -> tuple[dict[str, np.ndarray], list[str]]:
    """Our path -> array in our layout, and what went wrong on the way. Takes the tensors out of the file one by one."""
    ranks = _ranks()

    def read(name: str) -> np.ndarray | str:
        """The array, or why there is none."""
        row, _ = found.places[name]
        shape = tensors.shapes[name]
        expected = row.layout.ranks or (ranks[row.ours] - (row.part is not None),)
        if 0 in shape or len(shape) not in expected:
            return f"{name}: expected {' or '.join(map(str, expected))} axes with something in them, got {shape}"
        try:
            return np.ascontiguousarray(row.layout.read(tensors.take(name), num_heads))
        except InputError:
            raise
        except ValueError:
            return f"{name} {shape}: can't be split over {num_heads} heads"

    given: dict[str, np.ndarray] = {}
    parts: dict[str, dict[int, np.ndarray]] = {}
    problems, origins = [], {}
    with ThreadPoolExecutor(3) as pool:  # most of the time goes into transposing, which needs no interpreter
        arrays = pool.map(read, found.places)
        for (name, (row, path)), array in zip(found.places.items(), arrays, strict=True):
            first = origins.setdefault((path, row.part), name)
            if isinstance(array, str):
                problems.append(array)
            elif first != name:
                problems.append(f"{name}: the same parameter as {first}")
            elif row.part is None:
                given[path] = array
            else:
                parts.setdefault(path, {})[row.part] = array
    for path, some in parts.items():
        if len(some) < 3 or len({array.shape for array in some.values()}) > 1:
            shapes = ", ".join(str(some[part].shape) if part in some else "missing" for part in range(3))
            problems.append(f"{path}: query, key and value don't belong together ({shapes})")
        else:
            given[path] = np.stack([some.pop(part) for part in range(3)], axis=-3)
    return given, problems


@functools.cache
def _ranks() -> dict[str, int]:
    """Parameter, with `{i}` for its block's number -> how many axes it has."""
    model = TimeSformer(num_classes=1, embed_dim=2, depth=1, num_heads=1, pre_norm=True)
    return {template(path)[0]: len(leaf.shape) for path, leaf in flatten_params(parameter_shapes(model)).items()}
