"""Read back the curves that training wrote for TensorBoard."""

import logging
import struct
from typing import Any

from etils import epath

from timesformer_jax.datasets.tfrecords import FOOTER_BYTES, HEADER_BYTES, header_of, masked_crc
from timesformer_jax.evaluation.figures import Curve

log = logging.getLogger("timesformer_jax")

PANELS: dict[str, dict[str, str]] = {
    "loss": {"training": "train/loss", "validation": "val/loss"},
    "top-1": {"training": "train/top1", "validation": "val/top1"},
    "learning rate": {"training": "train/learning_rate"},
    "gradient norm": {"training": "train/grad_norm"},
    "clips a second": {"training": "train/clips_per_second"},
    "share of time waiting for data": {"training": "train/waiting_for_data"},
}
"""Maps a panel's title to its lines, by name, and their TensorBoard tags."""


def read_curves(workdir: str) -> dict[str, dict[str, Curve]]:
    """Read the available curves of a workdir; empty if nothing was trained there.

    If a step was trained twice, because the run resumed from an earlier checkpoint, the last time counts. Damaged files are
    reported by a warning and read up to the damage.

    Returns:
        Steps and values by panel and line, as in `PANELS`.
    """
    from tensorboard.backend.event_processing.event_accumulator import TENSORS, EventAccumulator
    from tensorboard.util import tensor_util

    for path in sorted(epath.Path(workdir).glob("*tfevents*")):
        if (place := find_damage(path.read_bytes())) is not None:
            log.warning("%s is damaged at byte %d: the curves lack its figures from there on.", path, place)
    events: Any = EventAccumulator(workdir, size_guidance={TENSORS: 0})  # 0: keep all
    events.Reload()
    there = set(events.Tags()[TENSORS])

    def curve(tag: str) -> Curve:
        last = {event.step: float(tensor_util.make_ndarray(event.tensor_proto)) for event in events.Tensors(tag)}
        return sorted(last), [last[step] for step in sorted(last)]

    panels = {title: {name: curve(tag) for name, tag in lines.items() if tag in there} for title, lines in PANELS.items()}
    return {title: lines for title, lines in panels.items() if lines}


def find_damage(content: bytes) -> int | None:
    """Offset of the first damaged record of an event file; None if there is none.

    An unfinished record is not damage: a killed run leaves one.
    """
    place = 0
    while place + HEADER_BYTES <= len(content):
        header = content[place : place + HEADER_BYTES]
        (length,) = struct.unpack("<Q", header[:8])
        if header != header_of(length):
            return place
        begin, end = place + HEADER_BYTES, place + HEADER_BYTES + length
        if end + FOOTER_BYTES > len(content):
            return None
        if content[end : end + FOOTER_BYTES] != struct.pack("<I", masked_crc(content[begin:end])):
            return place
        place = end + FOOTER_BYTES
    return None
