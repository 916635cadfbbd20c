"""Lists of a data set's missing and unreadable videos, which are skipped, and of damaged ones, which are used.

TFDS's metadata hold the counts and a few examples. The full lists, which can have a million names, are in `left_out.json.gz`
and are read on demand. Older versions kept the full lists in the metadata.
"""

import dataclasses
import gzip
import itertools
import json
import zlib
from collections.abc import Mapping
from typing import Any

from etils import epath

from timesformer_jax.atomic_write import write_whole
from timesformer_jax.errors import first_line
from timesformer_jax.state_files import reading, refuse

FILE = "left_out.json.gz"
EXAMPLES = 10


@dataclasses.dataclass
class LeftOut:
    """Full lists of skipped and damaged videos.

    Attributes:
        videos: Maps each split to a dict from the name of a skipped video to the reason.
        damaged: Maps the name of each damaged video that is used to its number of damaged places.
    """

    videos: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
    damaged: dict[str, int] = dataclasses.field(default_factory=dict)


def write_left_out(folder: Any, found: LeftOut) -> dict[str, Any]:
    """Write the full lists; returns their summary for the metadata."""
    text = json.dumps(dataclasses.asdict(found), ensure_ascii=False)
    write_whole(epath.Path(folder) / FILE, gzip.compress(text.encode(), compresslevel=5, mtime=0))
    return {
        "left_out": {split: _first(videos) for split, videos in found.videos.items()},
        "num_left_out": {split: len(videos) for split, videos in found.videos.items()},
        "damaged": _first(found.damaged),
        "num_damaged": len(found.damaged),
    }


def _first(videos: Mapping[str, Any]) -> dict[str, Any]:
    return dict(itertools.islice(videos.items(), EXAMPLES))


def read_left_out(folder: Any, metadata: Mapping[str, Any]) -> LeftOut:
    """Read the full lists."""
    if "num_left_out" not in metadata:  # from an older version
        videos = {split: dict(names) for split, names in metadata.get("left_out", {}).items()}
        return LeftOut(videos, dict(metadata.get("damaged", {})))
    path = epath.Path(folder) / FILE
    with reading(path):
        content = path.read_bytes() if path.exists() else b""
    try:
        return LeftOut(**json.loads(gzip.decompress(content)))
    except (EOFError, ValueError, TypeError, OSError, zlib.error) as error:
        refuse(path, first_line(error), f"delete {folder} to prepare the data again", error)
