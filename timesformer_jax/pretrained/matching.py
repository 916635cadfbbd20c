"""Detect the format of a file's tensors, and translate each tensor to a parameter of the model."""

import functools
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from timesformer_jax.errors import InputError
from timesformer_jax.modeling import TimeSformer, flatten_params, parameter_shapes
from timesformer_jax.pretrained.file_notes import notes_of_ours
from timesformer_jax.pretrained.model_families import find_refused, refuse
from timesformer_jax.pretrained.tensor_files import Tensors
from timesformer_jax.pretrained.tensor_names import (
    BOOKKEEPING,
    choose_one,
    collapse_blocks,
    possible_prefixes,
    prefix_of,
    strip_prefix,
    template,
    without_wrappers,
)
from timesformer_jax.pretrained.weight_formats import FORMATS, Format, normalise
from timesformer_jax.pretrained.weight_rows import LINEAR, Row

ESSENTIAL = ("cls_token", "norm/scale", "patch_embed/proj/kernel", "pos_embed")
"""Parameters that every format has and that determine the model's size."""


class Recognised(NamedTuple):
    """Tensor names of a file, matched to the rows of one format."""

    format: Format
    """The format."""
    places: dict[str, tuple[Row, str]]
    """Name in the file -> (row, path of our parameter)."""
    ignored: dict[str, str]
    """Names that aren't part of the model -> the reason."""
    unknown: dict[str, tuple[int, ...]]
    """Names that match no row -> their shapes."""
    short: dict[str, str]
    """Name -> the name without its prefix and without wrapper components."""
    notes: list[str]
    """Conclusions that may be wrong."""
    allowed: frozenset[str] = frozenset()
    """Names that match a pattern in the caller's `allow`."""

    @property
    def complete(self) -> bool:
        """True if the file has the tensors that every model has."""
        return {path for _, path in self.places.values()} >= set(ESSENTIAL)

    @property
    def scales(self) -> list[str]:
        """The names of the LayerScale tensors, with the blocks' merged (`{0..11}`)."""
        return collapse_blocks(self.short[name] for name, (row, _) in self.places.items() if row.ours.endswith("/gamma"))

    @property
    def token(self) -> str:
        """The name of the CLS token, which distinguishes the models of a file."""
        return next((name for name, (row, _) in self.places.items() if row.ours == "cls_token"), "")


def recognise(
    tensors: Tensors, source: str, format_name: str | None = None, prefix: str | None = None, allow: Sequence[str] = ()
) -> Recognised:
    """Detect the format: the one with the most rows that match tensors of the file, unless a format is given.

    An official space-only model has the same tensors as an image transformer of timm. They are distinguished by other contents
    of the file: the key `model_state` or the configuration that the official trainer writes, or this project's notes. Prefixes
    don't distinguish them.

    Args:
        tensors: Tensors of the file.
        source: The weights, for errors.
        format_name: A key of `FORMATS`, to skip the detection.
        prefix: Prefix of the tensors to read; the others are ignored. By default detected from the names, per format.
        allow: Patterns of tensor names that opt in to features which are refused otherwise (see `REFUSED`).

    Returns:
        The names of the file, matched to the rows of the format.

    Raises:
        InputError: If TimeSformer doesn't compute the model, if no format matches all `ESSENTIAL` parameters, or if the file
            holds several models and their names don't decide which to load.
    """
    names = {name: without_wrappers(name) for name in tensors.shapes}
    if prefix is not None:
        names, outside = _only(names, prefix, source)
    tried = {
        each: [
            _sort_out(tensors, names, FORMATS[each], start, allow) for start in possible_prefixes(names.values(), FORMATS[each])
        ]
        for each in ([format_name] if format_name else FORMATS)
    }
    sorted_out = {each: max(some, key=_fitness) for each, some in tried.items()}  # the shortest prefix wins ties
    best = max(sorted_out, key=lambda each: _fitness(sorted_out[each]))  # the first format wins ties
    tie = best == "official" and format_name is None and _fitness(sorted_out[best]) == _fitness(sorted_out["timm"])
    if tie and not _is_video(tensors):
        best = "timm"
        sorted_out[best].notes.append(SAME_TENSORS)
    found = sorted_out[best]
    if found.complete and prefix is None:
        found = _only_one_model(source, tried[best], found)
    _check_features(tensors, source, found)
    if not found.complete:
        raise InputError(_no_format(tensors, source, found))
    if prefix is not None:
        found.ignored.update(dict.fromkeys(outside, f"not under the prefix {prefix}"))
    return found


SAME_TENSORS = (
    "an official space-only TimeSformer has the same tensors as an image transformer: give format='official' if this is one "
    "(on the command line --checkpoint-format=official)"
)


def _is_video(tensors: Tensors) -> bool:
    """Return True if other contents show that an image transformer's tensors are a space-only TimeSformer's."""
    cfg = tensors.notes.get("cfg")
    official = isinstance(cfg, str) and "TIMESFORMER" in cfg
    return tensors.wrapper == "model_state" or official or bool(notes_of_ours(tensors.notes))


_SURE = 8
"""Minimum number of matching tensors for a file to count as being in a format; fewer may match by coincidence."""


def _check_features(tensors: Tensors, source: str, found: Recognised) -> None:
    """Raise `InputError` for models that TimeSformer doesn't compute; note features that the caller allowed.

    Args:
        tensors: Tensors of the file.
        source: The weights, for errors.
        found: Tensor names, matched to the rows of the format; receives the notes.
    """
    shapes = {found.short[name]: tensors.shapes[name] for name in (*found.places, *found.unknown)}
    paths = {path for _, path in found.places.values()}
    sure = found.format.image and len(paths) >= _SURE and any(path.startswith("blocks_") for path in paths)
    missing = set(ESSENTIAL) - paths if sure else set()
    layers = {
        path: tensors.shapes[name]
        for name, (row, path) in found.places.items()
        if path in ("blocks_0/mlp/fc1/kernel", "blocks_0/mlp/fc2/kernel") and row.layout is LINEAR
    }
    mlp = (layers["blocks_0/mlp/fc1/kernel"], layers["blocks_0/mlp/fc2/kernel"]) if len(layers) == 2 else None
    allowed = [found.short[name] for name in found.allowed]
    found.notes.extend(refuse(source, find_refused(shapes, missing, mlp), allowed))


def _matches(patterns: Sequence[str], name: str, short: str) -> bool:
    return any(re.fullmatch(pattern, name) or re.fullmatch(pattern, short) for pattern in patterns)


def _no_format(tensors: Tensors, source: str, found: Recognised) -> str:
    missing = set(ESSENTIAL) - {path for _, path in found.places.values()}
    names = collapse_blocks(sorted(tensors.shapes))
    examples = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
    known = "; ".join(format.title for format in FORMATS.values())
    others = f" (the file has other entries: {', '.join(tensors.others[:8])}; choose one with entry=)" if tensors.others else ""
    return (
        f"{source} is in no known format of weights. Its tensors: {examples or 'none'}{others}. The nearest is "
        f"{found.format.title}, but nothing in the file is its {', '.join(sorted(missing))}. Known formats: {known}."
    )


def _fitness(found: Recognised) -> tuple[bool, int]:
    return found.complete, len(found.places)


def _only(names: dict[str, str], prefix: str, source: str) -> tuple[dict[str, str], list[str]]:
    """Split the names into those under the prefix, with the prefix removed, and the others."""
    inside = {name: short[len(prefix) :].lstrip("./") for name, short in names.items() if short.startswith(prefix)}
    if not inside:  # the prefix may include components that wrappers added
        inside = {name: without_wrappers(name[len(prefix) :].lstrip("./")) for name in names if name.startswith(prefix)}
    if not inside:
        starts = list(dict.fromkeys(re.match(r"[^./]*[./]?", short)[0] for short in names.values()))  # pyright: ignore[reportOptionalSubscript]
        raise InputError(
            f"No tensor of {source} has the prefix {prefix!r}; their names begin with {', '.join(starts[:8])}"
            f"{', ...' if len(starts) > 8 else ''}."
        )
    return inside, [name for name in names if name not in inside]


def _only_one_model(source: str, tried: list[Recognised], best: Recognised) -> Recognised:
    """Choose among several models under different prefixes by their names, and ignore the tensors of the others."""
    models: dict[str, Recognised] = {}
    for found in tried:
        if found.complete:
            models.setdefault(found.token, found)
    if len(models) < 2:
        return best
    by_prefix = {prefix_of(token, found.format): found for token, found in models.items()}
    chosen = choose_one(by_prefix)
    if chosen is None:
        raise InputError(
            f"{source} holds several models, under the prefixes {', '.join(prefix or repr('') for prefix in by_prefix)}: "
            "choose one with prefix=... (on the command line --prefix, in a config init_from_prefix)."
        )
    found = by_prefix[chosen]
    for name in list(found.unknown):
        other = next((prefix for prefix in by_prefix if prefix != chosen and without_wrappers(name).startswith(prefix)), None)
        if other is not None:
            del found.unknown[name]
            found.ignored[name] = f"part of another model in the file; prefix={other!r} chooses that one"
    return found


def _sort_out(tensors: Tensors, names: dict[str, str], format: Format, prefix: str, allow: Sequence[str]) -> Recognised:
    rows = {row.theirs: row for row in (*format.rows, *format.scales)}
    asked = {row.theirs: row for row in format.asked_scales}
    found = Recognised(format, {}, {}, {}, {}, [])
    spelled = {name: _spell(format, unwrapped, prefix) for name, unwrapped in names.items()}
    there = {template(normalised)[0] for _, normalised in spelled.values()} if format.aliases else set()
    for name, (short, normalised) in spelled.items():
        unwrapped = names[name]
        found.short[name] = min(short, normalised, key=len)
        general, block = template(normalised)
        row = rows.get(general)
        if row is None and general in format.aliases and format.aliases[general] not in there:
            row = rows[format.aliases[general]]
        if row is None and general in asked and _matches(allow, name, found.short[name]):
            row = asked[general]
        if row is not None and (unwrapped.startswith(prefix) or row.ours.startswith("head/")):
            found.places[name] = row, row.ours.replace("{i}", block)
        elif re.fullmatch(format.ignored, normalised) or re.fullmatch(BOOKKEEPING, unwrapped):
            found.ignored[name] = "not part of the model"
        else:
            found.unknown[name] = tensors.shapes[name]
    return found._replace(allowed=frozenset(name for name in names if _matches(allow, name, found.short[name])))


def _spell(format: Format, unwrapped: str, prefix: str) -> tuple[str, str]:
    """Return a tensor's name without its prefix, and in the spelling of the format's rows."""
    short = strip_prefix(unwrapped, prefix)
    return short, normalise(format, short)


def count_heads(tensors: Tensors, found: Recognised) -> int | None:
    """Return the number of attention heads if a tensor's shape shows it: `[D, heads, head_dim]`, as in JAX files."""
    for name, (row, _) in found.places.items():
        if row.ours.endswith("qkv/kernel") and len(tensors.shapes[name]) == 3:
            return tensors.shapes[name][1]
    return None


def width(tensors: Tensors, found: Recognised) -> int:
    """Return the token width; 0 if the tensor that shows it is broken, which raises an error later."""
    (shape, *_) = (tensors.shapes[name] for name, (row, _) in found.places.items() if row.ours == "norm/scale")
    return shape[-1] if shape else 0


def translate(tensors: Tensors, found: Recognised, num_heads: int) -> tuple[dict[str, np.ndarray], list[str]]:
    """Read the tensors one by one, and return them as parameter path -> array in our layout, with a list of problems."""
    ranks = _ranks()

    def read(name: str) -> np.ndarray | str:
        """Return the array, or the problem with it."""
        row, _ = found.places[name]
        shape = tensors.shapes[name]
        expected = row.layout.ranks or (ranks[row.ours] - (row.slot is not None),)
        if 0 in shape or len(shape) not in expected:
            return f"{name}: expected {' or '.join(map(str, expected))} axes, all non-empty, got {shape}"
        try:
            return np.ascontiguousarray(row.layout.read(tensors.take(name), num_heads))
        except InputError:
            raise
        except ValueError:
            return f"{name} {shape}: can't be split over {num_heads} heads"

    given: dict[str, np.ndarray] = {}
    slots: dict[str, dict[int, np.ndarray]] = {}
    problems, origins = [], {}
    with ThreadPoolExecutor(3) as pool:  # most of the time goes into transposing, which releases the GIL
        arrays = pool.map(read, found.places)
        for (name, (row, path)), array in zip(found.places.items(), arrays, strict=True):
            first = origins.setdefault((path, row.slot), name)
            if isinstance(array, str):
                problems.append(array)
            elif first != name:
                problems.append(f"{name}: the same parameter as {first}")
            elif row.slot is None:
                given[path] = array
            else:
                slots.setdefault(path, {})[row.slot] = array
    _fill_key_biases(slots)
    for path, some in slots.items():
        if len(some) < 3 or len({array.shape for array in some.values()}) > 1:
            shapes = ", ".join(str(some[slot].shape) if slot in some else "missing" for slot in range(3))
            problems.append(f"{path}: query, key and value don't match ({shapes})")
        else:
            given[path] = np.stack([some.pop(slot) for slot in range(3)], axis=-3)
    return given, problems


def _fill_key_biases(slots: dict[str, dict[int, np.ndarray]]) -> None:
    """Fill in zero key biases if no block has one: a softmax is invariant to them, and some models omit them."""
    biases = [some for path, some in slots.items() if path.endswith("/bias")]
    if all(some.keys() == {0, 2} for some in biases):
        for some in biases:
            some[1] = np.zeros_like(some[0])


@functools.cache
def _ranks() -> dict[str, int]:
    """Map each parameter, with `{i}` for the block number, to its number of axes."""
    model = TimeSformer(num_classes=1, embed_dim=2, depth=1, num_heads=1, pre_norm=True)
    ranks = {template(path)[0]: len(leaf.shape) for path, leaf in flatten_params(parameter_shapes(model)).items()}
    return ranks | dict.fromkeys(("blocks_{i}/attn/proj/gamma", "blocks_{i}/mlp/fc2/gamma"), 1)
