"""What training wrote for TensorBoard, read back."""

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
"""Panel -> line -> the tag that training writes it under."""


def read_curves(workdir: str) -> dict[str, dict[str, Curve]]:
    """Panel -> line -> (steps, values), of what there is; empty where the workdir has no training.

    A step that was trained twice, since a run went on from an earlier checkpoint, counts once: as it was the last time. Of a
    damaged file, which a warning names, the figures before the damage count.
    """
    from tensorboard.backend.event_processing.event_accumulator import TENSORS, EventAccumulator
    from tensorboard.util import tensor_util

    for path in sorted(epath.Path(workdir).glob("*tfevents*")):
        if (place := find_damage(path.read_bytes())) is not None:
            log.warning("%s is damaged at byte %d: the curves lack its figures from there on.", path, place)
    events: Any = EventAccumulator(workdir, size_guidance={TENSORS: 0})  # 0: all of them
    events.Reload()
    there = set(events.Tags()[TENSORS])

    def curve(tag: str) -> Curve:
        last = {event.step: float(tensor_util.make_ndarray(event.tensor_proto)) for event in events.Tensors(tag)}
        return sorted(last), [last[step] for step in sorted(last)]

    panels = {title: {name: curve(tag) for name, tag in lines.items() if tag in there} for title, lines in PANELS.items()}
    return {title: lines for title, lines in panels.items() if lines}


def find_damage(content: bytes) -> int | None:
    """Where the first damaged record of an event file begins; None if there is none.

    A record that isn't finished is no damage: a run that was killed leaves it.
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
