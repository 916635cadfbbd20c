"""Reproducible validation split for data sets without one, equal on every machine."""

import hashlib
import os
from collections.abc import Collection

from timesformer_jax.errors import InputError


def val_share(names: Collection[str], fraction: float) -> set[str]:
    """Choose about `fraction` of a label's videos for validation: at least one of two or more, and never all.

    Videos with the smallest hashes are chosen, so that adding a video moves at most one other between the splits.
    """
    check_fraction(fraction)
    count = min(max(round(fraction * len(names)), 1), max(len(names) - 1, 0))
    return set(sorted(names, key=_digest)[:count])


def check_fraction(fraction: float) -> None:
    """Raise `InputError` unless the fraction is above 0 and below 1."""
    if not 0 < fraction < 1:
        raise InputError(f"val_fraction must be above 0 and below 1, got {fraction}.")


def _digest(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()
