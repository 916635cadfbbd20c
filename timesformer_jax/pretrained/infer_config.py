"""Infer the model and the preprocessing of weights from parameter shapes and configurations."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from timesformer_jax.errors import InputError, shown
from timesformer_jax.modeling import TimeSformer
from timesformer_jax.modeling.checks import pair
from timesformer_jax.pretrained.file_checks import check_fields
from timesformer_jax.pretrained.load_report import Report
from timesformer_jax.pretrained.weight_formats import OWN, Format
from timesformer_jax.pretrained.zoo import ZOO, name_of, published_as
from timesformer_jax.video import Preprocess
from timesformer_jax.video.pixels import OFFICIAL_MEAN

HEADS = {
    **{192: 3, 256: 4, 384: 6, 512: 8, 640: 10, 768: 12, 896: 14},
    **{1024: 16, 1152: 16, 1280: 16, 1408: 16, 1536: 24, 1664: 16},
}
"""Maps the width of published image transformers to their number of attention heads, which PyTorch's files don't show."""


def fields_of_parameters(given: Mapping[str, np.ndarray], format: Format) -> dict[str, Any]:
    """Infer model fields from shapes: all but `num_heads` and `image_size` (see `place_positions` for the latter).

    `given` maps parameter paths to arrays in our layout, and has at least the parameters in `ESSENTIAL`.
    """
    kernel = given["patch_embed/proj/kernel"]
    dim = given["norm/scale"].shape[0]
    if kernel.shape[0] != kernel.shape[1]:
        raise InputError(f"Expected square patches, a kernel [P, P, channels, D]; got {kernel.shape}.")
    blocks = {int(match[1]) for path in given if (match := re.match(r"blocks_(\d+)/", path))}
    if max(blocks, default=0) >= 2 * max(len(blocks), 1):  # a stray block, not a few missing ones
        raise InputError(f"The file has {len(blocks)} block(s), one of which is number {max(blocks)}.")
    fields: dict[str, Any] = {
        "embed_dim": dim,
        "depth": max(blocks, default=0) + 1,
        "patch_size": kernel.shape[0],
        "num_channels": kernel.shape[2],
    }
    if "blocks_0/mlp/fc1/kernel" in given:
        fields["mlp_ratio"] = given["blocks_0/mlp/fc1/kernel"].shape[1] / dim
    if "head/kernel" in given:
        fields["num_classes"] = given["head/kernel"].shape[1]
    if not format.image:
        if "time_embed" in given:
            fields["num_frames"] = given["time_embed"].shape[1]
        if any("/temporal_" in path for path in given):
            fields["attention_type"] = "divided_space_time"
        else:
            fields["attention_type"] = "joint_space_time" if "time_embed" in given else "space_only"
    return fields


def merge_fields(*sources: tuple[str, Mapping[str, Any]], remedy: str = "") -> dict[str, Any]:
    """Merge the fields of several sources, each (name, fields).

    Raises `InputError` that lists every contradiction, followed by `remedy`, the sentence that says what to do.
    """
    merged: dict[str, tuple[str, Any]] = {}
    problems = []
    for source, fields in sources:
        for name, value in fields.items():
            if name in merged and not _same(merged[name][1], value):
                problems.append(f"{name} is {shown(merged[name][1])} by {merged[name][0]}, but {shown(value)} by {source}")
            merged.setdefault(name, (source, value))
    if problems:
        raise InputError("Conflicting fields of the model: " + "; ".join(problems) + "." + (f" {remedy}" if remedy else ""))
    return {name: value for name, (_, value) in merged.items()}


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, float) or isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-6)
    as_pair = [tuple(x) if isinstance(x, list | tuple) else x for x in (one, other)]
    pairs = [(x, x) if isinstance(x, int) and isinstance(y, tuple) else x for x, y in (as_pair, as_pair[::-1])]
    return pairs[0] == pairs[1]


def known_heads(dim: int) -> int:
    """Return the usual number of heads of models of this width; raises `InputError` if no published model has it."""
    if dim not in HEADS:
        raise InputError(
            f"The file doesn't say how many attention heads this model of width {dim} has: give num_heads=... (on the command "
            "line --num-heads, in a config model.num_heads)."
        )
    return HEADS[dim]


def published_name(format: Format, fields: Mapping[str, Any], source: str) -> str | None:
    """Name the published checkpoint with this name, or else with the same frames, size and classes; None if there is none."""
    return name_of(source) or (published_as(fields) if format is not OWN and not format.image else None)


def choose_preprocess(
    format: Format, said: Mapping[str, Any], fields: Mapping[str, Any], target: TimeSformer, source: str, report: Report
) -> Preprocess:
    """Choose the preprocessing, and note any guesses in the report.

    The mean and standard deviation are the format's. Sampling and channel order are those of the published checkpoint with the
    same name, or with the same frames, size and classes. Configurations next to the weights override both. The number of frames
    and the crop size are the target's.

    Args:
        format: Format of the weights.
        said: Entries of `Preprocess` stated in or next to the file.
        fields: Model fields that the file determines.
        target: The model to fill.
        source: The weights, as given to `load`.
        report: Receives guesses and notes.

    Raises:
        InputError: If a stated entry is invalid.
    """
    sides = pair(target.image_size)
    if sides[0] != sides[1]:
        report.notes.append(f"videos are cropped to squares: predict uses {min(sides)} x {min(sides)} pixels")
    own = {"num_frames": target.num_frames, "crop_size": min(sides)}
    values: dict[str, Any] = {"mean": format.mean, "std": format.std}
    named, name = name_of(source), published_name(format, fields, source)
    if name is not None:
        values = {**ZOO[name].preprocess.as_dict(), **values}
        if named is None and not said.keys() >= {"sampling", "channel_order"}:
            report.notes.append(
                f"videos are prepared as for {name} ({values['sampling']}, {values['channel_order']}), which has the weights' "
                "frames, size and classes: give preprocess= if that is wrong"
            )
    if format.image and "mean" not in said and (format.config or format.mean == OFFICIAL_MEAN):
        why = "from the official video models, whatever the image model was trained with"
        pixels = f"with mean {_short(format.mean)} and std {_short(format.std)}"
        report.guess("pixels", pixels, "from most models of this kind" if format.config else why)
    if not format.image and format is not OWN and name is None:
        if "mean" not in said:
            pixels = f"with mean {_short(format.mean)} and std {_short(format.std)}"
            report.guess("pixels", pixels, "from the published models in this format")
        if not said.keys() & {"sampling", "sampling_rate"}:
            report.notes.append(
                "videos are sampled as for most published models (uniform, every "
                f"{Preprocess.sampling_rate:g} frames at 30 fps): give preprocess= if that is wrong"
            )
    if format.image and said.get("interpolation", "bilinear") != "bilinear":
        report.notes.append(f"images were resized by {said['interpolation']} interpolation, but frames are by bilinear")
    check_fields({name: value for name, value in said.items() if value is not None}, "The description of the weights")
    values |= said
    if values.get("crop_size", own["crop_size"]) != own["crop_size"]:
        values.pop("short_side", None)
    try:
        return Preprocess.from_dict({**values, **own})
    except (TypeError, ValueError) as error:
        raise InputError(f"The preprocessing in the description of the weights can't be used: {error}") from error


def _short(numbers: Sequence[float]) -> str:
    return " ".join(f"{number:.3g}" for number in dict.fromkeys(numbers))
