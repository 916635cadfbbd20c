"""How a video must be prepared for weights that were read: as they say, or as the published ones of the same shape."""

from collections.abc import Mapping, Sequence
from typing import Any

from timesformer_jax.errors import InputError
from timesformer_jax.modeling import TimeSformer
from timesformer_jax.modeling.checks import pair
from timesformer_jax.pretrained.file_checks import check_fields
from timesformer_jax.pretrained.load_report import Report
from timesformer_jax.pretrained.weight_formats import OWN, Kind
from timesformer_jax.pretrained.zoo import ZOO, name_of, published_as
from timesformer_jax.video import Preprocess
from timesformer_jax.video.pixels import OFFICIAL_MEAN


def published_name(kind: Kind, fields: Mapping[str, Any], source: str) -> str | None:
    """The published checkpoint that weights are prepared as: the one of this name, or of the same frames, size and classes."""
    return name_of(source) or (published_as(fields) if kind is not OWN and not kind.image else None)


def choose_preprocess(
    kind: Kind, said: Mapping[str, Any], fields: Mapping[str, Any], target: TimeSformer, source: str, report: Report
) -> Preprocess:
    """The kind's pixels, the published checkpoint's frames and channels (by name, or by the file's own `fields`), and above
    both what stands beside the weights (`said`); frames and size are the target's.

    Raises `InputError` for values that can't be.
    """
    sides = pair(target.image_size)
    if sides[0] != sides[1]:
        report.notes.append(f"videos are cut square: predict uses {min(sides)} x {min(sides)} pixels")
    own = {"num_frames": target.num_frames, "crop_size": min(sides)}
    values: dict[str, Any] = {"mean": kind.mean, "std": kind.std}
    named, name = name_of(source), published_name(kind, fields, source)
    if name is not None:
        values = {**ZOO[name].preprocess.as_dict(), **values}
        if named is None and not said.keys() >= {"sampling", "channel_order"}:
            report.notes.append(
                f"videos are prepared as for {name} ({values['sampling']}, {values['channel_order']}), by the weights' frames, "
                "size and classes: give preprocess= if they are others"
            )
    if kind.image and "mean" not in said and (kind.config or kind.mean == OFFICIAL_MEAN):
        why = "as the official video models have it, whatever the image model was trained with"
        pixels = f"with mean {_short(kind.mean)} and std {_short(kind.std)}"
        report.guess("pixels", pixels, "as most such models have it" if kind.config else why)
    if kind.image and said.get("interpolation", "bilinear") != "bilinear":
        report.notes.append(f"images were resized by {said['interpolation']} interpolation, frames are by bilinear")
    check_fields({name: value for name, value in said.items() if value is not None}, "What stands beside the weights")
    values |= said
    if values.get("crop_size", own["crop_size"]) != own["crop_size"]:
        values.pop("short_side", None)
    try:
        return Preprocess.from_dict({**values, **own})
    except (TypeError, ValueError) as error:
        raise InputError(f"What stands beside the weights of how videos are prepared can't be used: {error}") from error


def _short(numbers: Sequence[float]) -> str:
    return " ".join(f"{number:.3g}" for number in dict.fromkeys(numbers))
