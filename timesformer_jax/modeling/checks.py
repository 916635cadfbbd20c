"""Checks of a model's fields and input, each of which raises `InputError` with the value and the remedy."""

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

from timesformer_jax.checks import check_choice
from timesformer_jax.errors import InputError
from timesformer_jax.modeling.implementations import IMPLEMENTATIONS
from timesformer_jax.modeling.schemes import SCHEMES


def pair(size: int | Sequence[int]) -> tuple[int, int]:
    """Return (height, width) of a size given as one number or as a pair."""
    sides = (size, size) if isinstance(size, Integral) else size
    if not isinstance(sides, Sequence) or len(sides) != 2 or not all(isinstance(side, Integral) for side in sides):
        raise InputError(f"image_size must be an int or (height, width), in pixels, got {size!r}.")
    return int(sides[0]), int(sides[1])


def check_patches(name: str, height: int, width: int, patch_size: int) -> None:
    """Check that a size is a whole number of patches.

    Args:
        name: Name of the size in the error message.
        height: Height in pixels.
        width: Width in pixels.
        patch_size: Side of the patches in pixels.

    Raises:
        InputError: If height or width is not a positive multiple of `patch_size`.
    """
    if height < patch_size or width < patch_size or height % patch_size or width % patch_size:
        smaller = max(patch_size, min(height, width) // patch_size * patch_size)
        raise InputError(
            f"{name} {height} x {width} is not a whole number of {patch_size} x {patch_size} patches: use multiples of "
            f"patch_size={patch_size}, for example {smaller} or {smaller + patch_size}."
        )


def check_implementations(given: Any, attention_type: str, attention_dropout_rate: float) -> None:
    """Check `attention_implementation`.

    Raises `InputError` unless it is a key of `IMPLEMENTATIONS`, or a mapping from steps of the scheme to keys, and supports
    dropout of attention weights if that is enabled.
    """
    if not isinstance(given, str | Mapping):
        raise InputError(f"attention_implementation must be a name or map attention steps to names, got {given!r}.")
    for step, implementation in given.items() if isinstance(given, Mapping) else [(None, given)]:
        if step is not None:
            check_choice("A key of attention_implementation", step, SCHEMES[attention_type].steps)
        check_choice("attention_implementation", implementation, IMPLEMENTATIONS)
        if attention_dropout_rate > 0 and implementation not in ("auto", "xla"):
            raise InputError(
                f"attention_dropout_rate needs attention_implementation 'auto' or 'xla', got {implementation!r}: use one of "
                "them, or attention_dropout_rate=0."
            )
