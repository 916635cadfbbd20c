"""Rewrite features of other image models as parameters that TimeSformer has, without changing the outputs."""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from timesformer_jax.errors import InputError
from timesformer_jax.modeling.checks import pair
from timesformer_jax.pretrained.matching import Recognised
from timesformer_jax.pretrained.model_families import DISTILLATION_TOKEN, DISTILLED_HEAD, OTHER_CLASSIFIERS
from timesformer_jax.pretrained.tensor_names import collapse_blocks
from timesformer_jax.pretrained.weight_formats import Format
from timesformer_jax.pretrained.weight_rows import PATCH_POSITIONS

GAMMA = r"(blocks_\d+/(?:attn/proj|mlp/fc2))/gamma"
"""Pattern of the paths that `translate` gives to LayerScale factors, each of which scales the output of the layer in its
path."""


OTHER_TASK = OTHER_CLASSIFIERS[-1][1]
"""Input of heads that may accompany the classifier without being part of it."""

POOLED_NORM = "fc_norm, which normalises the mean of the patches, becomes the last LayerNorm: tokens are exact up to it"


class Rewritten(NamedTuple):
    """Changes made by `rewrite`, and what it found."""

    folded: dict[str, str]
    """Maps parameters to the factor that was folded into them."""
    zeros: tuple[str, ...]
    """Parameters that the file lacks and that are zero."""
    image_size: Any
    """Image size in pixels of the position embedding; None if unknown."""
    pooled: str | None
    """Input of the file's classifier, if it isn't the class token; such a classifier is ignored."""
    problems: list[str]
    """Errors, to be raised together with everything else that doesn't fit."""
    notes: list[str]
    """Notes for the report."""


def rewrite(
    given: dict[str, np.ndarray], found: Recognised, source: str, said_size: Any, wanted_size: Any, *, numbers: bool
) -> Rewritten:
    """Rewrite `given` and `found` in place.

    Args:
        given: Parameter path -> array in our layout.
        found: Tensor names of the file.
        source: The weights, for errors.
        said_size: Image size stated in or next to the file; None if unknown.
        wanted_size: Image size that the caller wants; None if not given.
        numbers: False if the arrays only have the right shapes.

    Returns:
        The changes, problems and notes.

    Raises:
        InputError: If the grid of the position embedding is ambiguous.
    """
    folded, problems = fold_scales(given, numbers=numbers)
    zeros = _missing_biases(given, found.format)
    _drop_distillation(given, found)
    image_size, notes = place_positions(given, found.format, source, said_size, wanted_size)
    pooled = _drop_classifier(given, found)
    if pooled is not None:
        notes.append(f"the image model classifies by {pooled}, this model by the class token")
    if any(row.ours.startswith("norm/") and "fc_norm" in found.short[name] for name, (row, _) in found.places.items()):
        notes.append(POOLED_NORM)
    return Rewritten(folded, zeros, image_size, pooled, problems, notes)


def fold_scales(given: dict[str, np.ndarray], *, numbers: bool) -> tuple[dict[str, str], list[str]]:
    """Multiply every LayerScale into the layer before it: (x W + b) * g = x (W * g) + b * g.

    Returns the changed parameters, and the problems: scales of the wrong size, and scales that only some blocks have.
    """
    scales = {match[1]: given.pop(path) for path in list(given) if (match := re.fullmatch(GAMMA, path))}
    if not scales:
        return {}, []
    blocks = sorted({path.partition("/")[0] for path in given if path.startswith("blocks_")})
    expected = [f"{block}/{layer}" for block in blocks for layer in ("attn/proj", "mlp/fc2")]
    problems = [
        f"{path}/gamma: no LayerScale in the file, but other layers have one" for path in expected if path not in scales
    ]
    folded = {}
    for layer, scale in scales.items():
        for path in (f"{layer}/kernel", f"{layer}/bias"):
            if path not in given:
                continue  # `fit` reports the missing parameter
            if given[path].shape[-1:] != scale.shape:
                problems.append(f"{layer}/gamma: expected {given[path].shape[-1:]}, got {scale.shape}")
                break
            if numbers:
                given[path] = given[path] * scale
            folded[path] = "LayerScale multiplied in"
    return folded, problems


def _missing_biases(given: Mapping[str, np.ndarray], format: Format) -> tuple[str, ...]:
    """Return the paths of the biases of queries, keys and values if no block of an image model has any: they are zero."""
    biases = [path.removesuffix("kernel") + "bias" for path in given if path.endswith("/attn/qkv/kernel")]
    return tuple(biases) if format.image and not any(path in given for path in biases) else ()


def _drop_distillation(given: dict[str, np.ndarray], found: Recognised) -> None:
    """Drop the position of a distillation token (the second position) and its classifier, as the caller allowed."""
    token = any(re.fullmatch(DISTILLATION_TOKEN, found.short[name]) for name in found.unknown)
    if token and given["pos_embed"].shape[1] > 1:
        given["pos_embed"] = np.delete(given["pos_embed"], 1, axis=1)
    for name in [name for name in found.unknown if re.fullmatch(DISTILLED_HEAD, found.short[name])]:
        del found.unknown[name]
        found.ignored[name] = "the classifier of the distillation token"


def place_positions(
    given: dict[str, np.ndarray], format: Format, source: str, said_size: Any, wanted_size: Any
) -> tuple[Any, list[str]]:
    """Determine the image size of the position embedding, and add a zero position for the CLS if the file has none.

    `[1, 1 + h w, D]` has a position for the CLS, `[1, h w, D]` has none. The interpretation in which the patches form a square
    is chosen, unless `wanted_size` fits the other one.

    Args:
        given: Parameter path -> array in our layout; changed in place.
        format: Format of the weights.
        source: The weights, for errors.
        said_size: Image size stated in or next to the file; None if unknown.
        wanted_size: Image size that the caller wants; None if not given.

    Returns:
        The image size (None if neither interpretation gives one) and notes for the report.

    Raises:
        InputError: If `wanted_size` fits one interpretation and a square grid the other.
    """
    rows, patch = given["pos_embed"].shape[1], given["patch_embed/proj/kernel"].shape[0]
    certain = not format.image or any(row.layout is PATCH_POSITIONS for row in format.rows)  # the first row is the CLS's
    side, side_without = math.isqrt(max(rows - 1, 0)), math.isqrt(rows)
    placed = {"with": rows > 1 and side**2 == rows - 1, "without": rows > 1 and side_without**2 == rows and not certain}
    notes: list[str] = []
    said, wanted = _fits(said_size, patch, rows, certain=certain), _fits(wanted_size, patch, rows, certain=certain)
    if said is not None:
        image_size, reading = said_size, said
    elif placed["with"] or placed["without"]:
        reading = "with" if placed["with"] else "without"
        image_size = (side if placed["with"] else side_without) * patch
        if wanted is not None and wanted != reading:
            raise InputError(_ambiguous(source, rows, image_size // patch, pair(wanted_size), patch, reading))
        if wanted is not None and pair(wanted_size) != (image_size, image_size):
            notes.append(f"the positions are assumed to be those of {image_size} x {image_size} pixels, and are resized")
    elif wanted is not None:
        image_size, reading = wanted_size, wanted
    else:
        return None, notes
    if reading == "with":
        return image_size, notes
    given["pos_embed"] = np.pad(given["pos_embed"], ((0, 0), (1, 0), (0, 0)))
    return image_size, [*notes, "the file has no position for the CLS, which gets a position of zero"]


def _fits(image_size: Any, patch: int, rows: int, *, certain: bool) -> str | None:
    """Return "with" or "without" if the positions fit the image with or without one for the CLS, else None.

    Args:
        image_size: Size of the image in pixels; None if unknown.
        patch: Side of a patch in pixels.
        rows: Number of positions.
        certain: Whether the first position is known to be the CLS's.
    """
    if image_size is None:
        return None
    height, width = pair(image_size)
    patches = (height // patch) * (width // patch)
    return "with" if rows == patches + 1 else "without" if rows == patches and not certain else None


def _ambiguous(source: str, rows: int, side: int, wanted: tuple[int, int], patch: int, reading: str) -> str:
    height, width = wanted
    square, other = f"{side} x {side} patches", f"{height // patch} x {width // patch} patches"
    cls = {"with": "and the CLS", "without": "without the CLS"}
    return (
        f"{source} has {rows} positions, which are those of {square} {cls[reading]}, or with image_size=({height}, {width}) "
        f"those of {other} {cls['without' if reading == 'with' else 'with']}: load it without image_size if they are the "
        f"former, save it with tsf.save, and load that with image_size=({height}, {width}) to resize them."
    )


def _drop_classifier(given: dict[str, np.ndarray], found: Recognised) -> str | None:
    """Remove a classifier whose input isn't the CLS alone, and return its input; None if the classifier can be kept."""
    spoiled = {
        name: reason for name in found.short for pattern, reason in OTHER_CLASSIFIERS if _spoils(found, name, pattern, reason)
    }
    if not spoiled:
        return None
    names = ", ".join(collapse_blocks(found.short[name] for name in spoiled)[:3])
    pooled = f"{found.format.pooled or next(iter(spoiled.values()))} ({names})"
    for name, (row, path) in found.places.items():
        if row.ours.startswith("head/") and given.pop(path, None) is not None:
            found.ignored[name] = f"it classifies by {pooled}"
    for name in spoiled:
        if found.unknown.pop(name, None) is not None:
            found.ignored[name] = "part of a classifier that can't be kept"
    return pooled


def _spoils(found: Recognised, name: str, pattern: str, reason: str) -> bool:
    """Return True for a tensor of another classifier, unless it is another task's, which the caller allows to ignore."""
    other = name in found.unknown or (name in found.places and found.places[name][0].ours.startswith("norm/"))
    ignored = name in found.allowed and reason == OTHER_TASK
    return other and not ignored and re.fullmatch(pattern, found.short[name]) is not None
