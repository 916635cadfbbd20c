"""What training wrote for TensorBoard, read back."""

from typing import Any

from timesformer_jax.evaluation.figures import Curve

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

    A step that was trained twice, since a run went on from an earlier checkpoint, counts once: as it was the last time.
    """
    from tensorboard.backend.event_processing.event_accumulator import TENSORS, EventAccumulator
    from tensorboard.util import tensor_util

    events: Any = EventAccumulator(workdir, size_guidance={TENSORS: 0})  # 0: all of them
    events.Reload()
    there = set(events.Tags()[TENSORS])

    def curve(tag: str) -> Curve:
        last = {event.step: float(tensor_util.make_ndarray(event.tensor_proto)) for event in events.Tensors(tag)}
        return sorted(last), [last[step] for step in sorted(last)]

    panels = {title: {name: curve(tag) for name, tag in lines.items() if tag in there} for title, lines in PANELS.items()}
    return {title: lines for title, lines in panels.items() if lines}
