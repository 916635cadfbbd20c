"""Which videos are for validation, where nobody has said so: the same on every machine."""

import hashlib
import os
from collections.abc import Collection

from timesformer_jax.errors import InputError


def val_share(names: Collection[str], fraction: float) -> set[str]:
    """About `fraction` of a label's videos, those with the smallest hash: a new video moves at most one other.

    At least one if there are two, and never all.
    """
    check_fraction(fraction)
    count = min(max(round(fraction * len(names)), 1), max(len(names) - 1, 0))
    return set(sorted(names, key=_digest)[:count])


def check_fraction(fraction: float) -> None:
    """Raises `InputError` where a share would be none or all."""
    if not 0 < fraction < 1:
        raise InputError(f"val_fraction must be above 0 and below 1, got {fraction}.")


def _digest(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()
