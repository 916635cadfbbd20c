"""What other image models compute, rewritten as parameters that TimeSformer has: the outputs stay the same."""

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
"""What `translate` calls a LayerScale: it scales the output of the layer before the slash."""


POOLED_NORM = "fc_norm, which normalises the mean of the patches, is the last LayerNorm here: up to it the tokens are exact"


class Rewritten(NamedTuple):
    """What was rewritten."""

    folded: dict[str, str]
    """Parameter -> what was folded into it."""
    zeros: tuple[str, ...]
    """Parameters that the file doesn't have and that are zero."""
    image_size: Any
    """Pixels that the position embedding is for; None if it doesn't show."""
    pooled: str | None
    """What the file's classifier reads, if that isn't the class token; the classifier is then ignored."""
    problems: list[str]
    notes: list[str]


def rewrite(
    given: dict[str, np.ndarray], found: Recognised, source: str, said_size: Any, wanted_size: Any, *, numbers: bool
) -> Rewritten:
    """Rewrite `given` (our path -> array) and `found` in place.

    `said_size` and `wanted_size`: the image size that accompanies the tensors, and the one that the caller wants. With
    `numbers=False` the arrays only have the right shapes.
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

    Returns the parameters that changed, and what went wrong: a scale of another size, or one that some blocks lack.
    """
    scales = {match[1]: given.pop(path) for path in list(given) if (match := re.fullmatch(GAMMA, path))}
    if not scales:
        return {}, []
    blocks = sorted({path.partition("/")[0] for path in given if path.startswith("blocks_")})
    expected = [f"{block}/{layer}" for block in blocks for layer in ("attn/proj", "mlp/fc2")]
    problems = [
        f"{path}/gamma: no LayerScale in the file, and other layers have one" for path in expected if path not in scales
    ]
    folded = {}
    for layer, scale in scales.items():
        for path in (f"{layer}/kernel", f"{layer}/bias"):
            if path not in given:
                continue  # an error in itself
            if given[path].shape[-1:] != scale.shape:
                problems.append(f"{layer}/gamma: expected {given[path].shape[-1:]}, got {scale.shape}")
                break
            if numbers:
                given[path] = given[path] * scale
            folded[path] = "LayerScale multiplied in"
    return folded, problems


def _missing_biases(given: Mapping[str, np.ndarray], format: Format) -> tuple[str, ...]:
    """The biases of queries, keys and values, if an image model has none in any block: they are zero."""
    biases = [path.removesuffix("kernel") + "bias" for path in given if path.endswith("/attn/qkv/kernel")]
    return tuple(biases) if format.image and not any(path in given for path in biases) else ()


def _drop_distillation(given: dict[str, np.ndarray], found: Recognised) -> None:
    """Drop the position of a distillation token, the second, and the token's classifier; the caller asked for it."""
    token = any(re.fullmatch(DISTILLATION_TOKEN, found.short[name]) for name in found.unknown)
    if token and given["pos_embed"].shape[1] > 1:
        given["pos_embed"] = np.delete(given["pos_embed"], 1, axis=1)
    for name in [name for name in found.unknown if re.fullmatch(DISTILLED_HEAD, found.short[name])]:
        del found.unknown[name]
        found.ignored[name] = "the classifier of the distillation token"


def place_positions(
    given: dict[str, np.ndarray], format: Format, source: str, said_size: Any, wanted_size: Any
) -> tuple[Any, list[str]]:
    """The image size that the position embedding is for, and notes; a CLS without a position gets one of zero.

    `[1, 1 + h w, D]` has a position for the CLS, `[1, h w, D]` has none. A square number of either tells which, unless
    `wanted_size` fits the other reading.

    Raises:
      InputError: if both readings fit, or none.
    """
    rows, patch = given["pos_embed"].shape[1], given["patch_embed/proj/kernel"].shape[0]
    certain = not format.image or any(row.layout is PATCH_POSITIONS for row in format.rows)  # the CLS has the first row
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
            notes.append(f"the positions are taken for those of {image_size} x {image_size} pixels, and resized")
    elif wanted is not None:
        image_size, reading = wanted_size, wanted
    else:
        return None, notes
    if reading == "with":
        return image_size, notes
    given["pos_embed"] = np.pad(given["pos_embed"], ((0, 0), (1, 0), (0, 0)))
    return image_size, [*notes, "the CLS has no position in the file, which is a position of zero"]


def _fits(image_size: Any, patch: int, rows: int, *, certain: bool) -> str | None:
    """How so many rows are the positions of an image of that size: "with" the CLS's, "without", or not at all."""
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
    """What the file's classifier reads, if that isn't the CLS alone; it is then taken out, and a fresh one needed."""
    spoiled = {name: reason for name in found.short for pattern, reason in OTHER_CLASSIFIERS if _is_head(found, name, pattern)}
    if not spoiled:
        return None
    names = ", ".join(collapse_blocks(found.short[name] for name in spoiled)[:3])
    pooled = f"{found.format.pooled or next(iter(spoiled.values()))} ({names})"
    for name, (row, path) in found.places.items():
        if row.ours.startswith("head/") and given.pop(path, None) is not None:
            found.ignored[name] = f"it classifies by {pooled}"
    for name in spoiled:
        if found.unknown.pop(name, None) is not None:
            found.ignored[name] = "of a classifier that can't be kept"
    return pooled


def _is_head(found: Recognised, name: str, pattern: str) -> bool:
    other = name in found.unknown or (name in found.places and found.places[name][0].ours.startswith("norm/"))
    return other and re.fullmatch(pattern, found.short[name]) is not None
