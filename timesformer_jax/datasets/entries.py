"""What a data set's own files say: which videos there are, with which labels, in which split."""

import dataclasses
from collections.abc import Mapping, Sequence

from timesformer_jax.errors import InputError
from timesformer_jax.video.entry import Entry

__all__ = ["Entry", "Listing"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Listing:
    """A data set as its files describe it.

    `label_names` in the order of the classes; `splits`: name -> entries; `missing`: split -> video that is listed and isn't
    there -> why. `several`: whether a video may have any number of labels, instead of exactly one. `notes`: a line for each
    kind of file that was found next to the videos and is skipped, with the number of such files.

    Raises `InputError` for names that occur twice in a split, labels that `label_names` lacks, fewer than two classes, and
    a `train` or `val` without a video.
    """

    label_names: tuple[str, ...]
    splits: Mapping[str, Sequence[Entry]]
    missing: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    several: bool = False
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        known = set(self.label_names)
        if len(known) < max(len(self.label_names), 2):
            raise InputError(f"Expected two different labels or more, got {', '.join(self.label_names) or 'none'}.")
        for split, entries in self.splits.items():
            if not entries and split in ("train", "val"):
                missing = self.missing.get(split, {})
                example = next(iter(missing.items()), None)
                raise InputError(
                    f"None of the {len(missing)} videos listed for the split '{split}' is there ({example[0]}: {example[1]})."
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
                    raise InputError(f"{entry.name} of the split '{split}' must have one label, it has {len(entry.labels)}.")
