"""Find labels that differ only in case, spaces or Unicode form, and are probably meant to be one."""

import unicodedata
from collections.abc import Iterable

from timesformer_jax.video.finding import show

DIFFERENCE = "only in case, spaces or Unicode form"


def describe_alike(labels: Iterable[str]) -> tuple[str, ...]:
    """Return a note that names labels that are alike, or no note if there are none."""
    groups: dict[str, list[str]] = {}
    for label in dict.fromkeys(labels):
        groups.setdefault(_folded(label), []).append(label)
    found = [" = ".join(map(visible, group)) for group in groups.values() if len(group) > 1]
    return (f"Labels that differ {DIFFERENCE}: {len(found)} ({show(found, len(found))}).",) if found else ()


def find_alike(label: str, known: Iterable[str]) -> str | None:
    """Return the first of the known labels that is like an unknown one, or None."""
    folded = _folded(label)
    return next((other for other in known if _folded(other) == folded), None)


def visible(label: str) -> str:
    """Quote a label such that it looks unlike every other label; escapes are used only where print would hide a difference."""
    return repr(label) if unicodedata.is_normalized("NFKC", label) else ascii(label)


def _folded(label: str) -> str:
    if label.isascii():  # most are, and a data set may have 20,000 of them
        return " ".join(label.casefold().split())
    shown = "".join(character for character in label if unicodedata.category(character) != "Cf")
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", shown).casefold())
    return " ".join(folded.split())
