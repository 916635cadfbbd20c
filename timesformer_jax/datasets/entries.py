"""Listing of a data set: its videos, with their labels and splits."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence

from timesformer_jax.errors import InputError
from timesformer_jax.video.entry import Entry

__all__ = ["Entry", "Listing"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Listing:
    """A data set as its files describe it.

    Raises:
        InputError: If a name occurs twice in a split, a label is not in `label_names` or is twice in it, there are fewer than
            two classes, or `train` or `val` has no video.
    """

    label_names: tuple[str, ...]
    """Names of the labels, in the order of the classes."""
    splits: Mapping[str, Sequence[Entry]]
    """Split -> videos."""
    missing: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    """Split -> listed video that can't be used -> reason, such as a missing file."""
    several: bool = False
    """True for multi-label data, in which a video may have any number of labels instead of exactly one."""
    notes: Sequence[str] = ()
    """One line per kind of skipped file, with the number of such files."""

    def __post_init__(self) -> None:
        known = set(self.label_names)
        if len(known) < len(self.label_names):
            repeated = next(name for name, count in Counter(self.label_names).items() if count > 1)
            raise InputError(f"The label {repeated!r} is listed twice: remove one, since each label is one class.")
        if len(known) < 2:
            raise InputError(f"Expected two different labels or more, got {', '.join(self.label_names) or 'none'}.")
        for split, entries in self.splits.items():
            if not entries and split in ("train", "val"):
                missing = self.missing.get(split, {})
                example = next(iter(missing.items()), None)
                raise InputError(
                    f"None of the {len(missing)} videos listed for the split '{split}' exists ({example[0]}: {example[1]})."
                    if example
                    else f"No video is listed for the split '{split}'."
                )
            seen: dict[str, Entry] = {}
            for entry in entries:
                if entry.name in seen:
                    raise InputError(
                        f"The split '{split}' lists {entry.name} twice, as {' + '.join(seen[entry.name].labels)} and as "
                        f"{' + '.join(entry.labels)}: remove one of the two."
                    )
                seen[entry.name] = entry
                if unknown := set(entry.labels) - known:
                    raise InputError(f"{entry.name} of the split '{split}' has the unknown label {sorted(unknown)[0]!r}.")
                if not self.several and len(entry.labels) != 1:
                    raise InputError(f"{entry.name} of the split '{split}' must have one label, but has {len(entry.labels)}.")
