"""Shares of a data set that several machines prepare, and locks that keep preparations from writing the same files."""

import contextlib
import dataclasses
import re
from collections.abc import Iterator
from typing import Any

from etils import epath

from timesformer_jax.errors import InputError
from timesformer_jax.run_lock import check_unlocked, locked


@dataclasses.dataclass(frozen=True)
class Share:
    """One of `count` equal shares of each split, prepared by one of several machines; `number` counts from 1."""

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str | None) -> "Share":
        """Parse "3/16" as the third of sixteen shares, and None as everything."""
        if text is None:
            return cls()
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise InputError(f"data.shard must be like '3/16', the third of sixteen shares, got {text!r}.")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @property
    def is_all(self) -> bool:
        return self.count == 1

    def of(self, total: int) -> slice:
        """Return the slice of `total` videos in this share; the shares in order are contiguous and cover all videos."""
        return slice(total * (self.number - 1) // self.count, total * self.number // self.count)

    def folder(self, folder: epath.Path) -> epath.Path:
        """Return the folder of the share's record files, below that of the whole split."""
        return folder if self.is_all else folder / f"{self.count}_shares" / f"{self.number}"


class SharePrepared(Exception):  # noqa: N818 (no error)
    """Raised after a share is prepared, since the data set isn't complete yet; the message says how to complete it."""

    def __init__(self, share: Share, folder: Any):
        super().__init__(
            f"The share {share} is prepared in {folder}. Once all {share.count} are, the same command without data.shard puts "
            "them together."
        )


@contextlib.contextmanager
def alone(data_path: Any, share: Share | None = None) -> Iterator[None]:
    """Hold the lock on the data of a folder, or on one share of them.

    Raises:
        InputError: If another process is preparing the same data or the same share; their record files would get mixed up.
    """
    share = share or Share()
    folder = epath.Path(data_path)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} can't be created: {error.strerror}.") from error
    whole = folder.parent / f".{folder.name}.lock"
    stem = f".{folder.name}.share_"
    name = whole if share.is_all else folder.parent / f"{stem}{share.number}_of_{share.count}.lock"
    doing = f"is preparing {folder}"
    with locked(name, doing if share.is_all else f"is preparing the share {share} of {folder}"):
        for other in folder.parent.glob(f"{stem}*.lock") if share.is_all else [whole]:
            check_unlocked(other, f"{doing} ({other.name})")
        yield
