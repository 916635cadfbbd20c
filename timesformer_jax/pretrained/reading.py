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
from timesformer_jax.pretrained.prefixes import (
    BOOKKEEPING,
    choose_one,
    possible_prefixes,
    prefix_of,
    strip_prefix,
    without_wrappers,
)

ESSENTIAL = ("cls_token", "norm/scale", "patch_embed/proj/kernel", "pos_embed")
"""Parameters that every kind has and that tell the model's size."""


class Recognised(NamedTuple):
    """A file's names, sorted out by one kind's rows."""

    kind: Kind
    places: dict[str, tuple[Row, str]]
    """Their name -> its row, and our path."""
    ignored: dict[str, str]
    """Names without a part in the model -> why."""
    unknown: dict[str, tuple[int, ...]]
    """Names that no row has, and their shapes."""
    short: dict[str, str]
    """Name -> the name without its prefix and what wrappers add."""

    @property
    def complete(self) -> bool:
        """Whether the file has the tensors that every model has."""
        return {path for _, path in self.places.values()} >= set(ESSENTIAL)

    @property
    def token(self) -> str:
        """The name of the CLS token, which tells one model of a file from another."""
        return next((name for name, (row, _) in self.places.items() if row.ours == "cls_token"), "")


def recognise(tensors: Tensors, source: str, kind_name: str | None = None, prefix: str | None = None) -> Recognised:
    """The kind most of whose rows the file has, or the one that was asked for, a key of `KINDS`.

    `prefix`: what names must begin with; the others are ignored. By default it follows from the names, for each kind.

    An official space-only model has the same tensors as an image transformer of timm: what tells them apart is the prefix
    `model.` or the key `model_state`, which only video models have.

    Raises `InputError` where no kind has the tensors that every model has, and for several models among which the names leave
    a choice.
    """
    names = {name: without_wrappers(name) for name in tensors.shapes}
    if prefix is not None:
        names, outside = _only(names, prefix, source)
    tried = {
        kind: [_sort_out(tensors, names, KINDS[kind], start) for start in possible_prefixes(names.values(), KINDS[kind])]
        for kind in ([kind_name] if kind_name else KINDS)
    }
    sorted_out = {kind: max(some, key=_fitness) for kind, some in tried.items()}  # of equal ones the shortest prefix
    best = max(sorted_out, key=lambda kind: _fitness(sorted_out[kind]))  # of equal ones the first
    if best == "official" and kind_name is None and _is_image(tensors, names, sorted_out[best], sorted_out["timm"]):
        best = "timm"
    found = sorted_out[best]
    if not found.complete:
        missing = set(ESSENTIAL) - {path for _, path in found.places.values()}
        known = "; ".join(kind.title for kind in KINDS.values())
        examples = ", ".join(sorted(tensors.shapes)[:6]) or "none"
        raise InputError(
            f"{source} is of no known kind ({known}). The nearest is {found.kind.title}, but nothing in the file is its "
            f"{', '.join(sorted(missing))}. Its tensors: {examples}{', ...' if len(tensors.shapes) > 6 else ''}."
        )
    if prefix is not None:
        found.ignored.update(dict.fromkeys(outside, f"not under the prefix {prefix}"))
        return found
    return _only_one_model(source, tried[best], found)


def _fitness(found: Recognised) -> tuple[bool, int]:
    return found.complete, len(found.places)


def _only(names: dict[str, str], prefix: str, source: str) -> tuple[dict[str, str], list[str]]:
    """The names under a prefix that was given, without it, and the other ones."""
    inside = {name: short[len(prefix) :].lstrip("./") for name, short in names.items() if short.startswith(prefix)}
    if not inside:  # as the file has them, wrappers included
        inside = {name: without_wrappers(name[len(prefix) :].lstrip("./")) for name in names if name.startswith(prefix)}
    if not inside:
        starts = list(dict.fromkeys(re.match(r"[^./]*[./]?", short)[0] for short in names.values()))  # pyright: ignore[reportOptionalSubscript]
        raise InputError(
            f"No tensor of {source} has the prefix {prefix!r}; their names begin with {', '.join(starts[:8])}"
            f"{', ...' if len(starts) > 8 else ''}."
        )
    return inside, [name for name in names if name not in inside]


def _only_one_model(source: str, tried: list[Recognised], best: Recognised) -> Recognised:
    """The model that the names single out where a file has several under prefixes of their own; the others are ignored."""
    models: dict[str, Recognised] = {}
    for found in tried:
        if found.complete:
            models.setdefault(found.token, found)
    if len(models) < 2:
        return best
    by_prefix = {prefix_of(token, found.kind): found for token, found in models.items()}
    chosen = choose_one(by_prefix)
    if chosen is None:
        raise InputError(
            f"{source} holds several models, under the prefixes {', '.join(prefix or repr('') for prefix in by_prefix)}: "
            "choose one with prefix=... (on the command line --prefix)."
        )
    found = by_prefix[chosen]
    for name in list(found.unknown):
        other = next((prefix for prefix in by_prefix if prefix != chosen and name.startswith(prefix)), None)
        if other is not None:
            del found.unknown[name]
            found.ignored[name] = f"of another model in the file, which prefix={other!r} chooses"
    return found


def _sort_out(tensors: Tensors, names: dict[str, str], kind: Kind, prefix: str) -> Recognised:
    rows = {row.theirs: row for row in kind.rows}
    found = Recognised(kind, {}, {}, {}, {})
    for name, unwrapped in names.items():
        short = strip_prefix(unwrapped, prefix)
        normalised = normalise(kind, short)
        found.short[name] = min(short, normalised, key=len)
        general, block = template(normalised)
        row = rows.get(general)
        if row is not None and (unwrapped.startswith(prefix) or row.ours.startswith("head/")):
            found.places[name] = row, row.ours.replace("{i}", block)
        elif re.fullmatch(kind.ignored, normalised) or re.fullmatch(BOOKKEEPING, unwrapped):
            found.ignored[name] = "no part of the model"
        else:
            found.unknown[name] = tensors.shapes[name]
    return found


def _is_image(tensors: Tensors, names: dict[str, str], official: Recognised, timm: Recognised) -> bool:
    video = tensors.wrapper == "model_state" or any(
        re.match(r"(.*\.)?model\.(cls_token|pos_embed|blocks\.)", name) for name in names.values()
    )
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
