"""The systems that the paper compares with (Table 2): a view of their test, a whole test, and a training step."""

from functools import partial
from typing import Any

import jax.numpy as jnp

import timesformer_jax as tsf
from benchmarks.accelerator.sizes import Size
from benchmarks.accelerator.timing import Measurement
from benchmarks.accelerator.whole_model import time_forward, time_training
from timesformer_jax.cost import SYSTEMS


def measurements(size: Size) -> list[Measurement]:
    """Return the measurements of each of the size's systems."""
    found = []
    for name in size.systems:
        found.append(Measurement(f"{name}, test", partial(_test, size, name)))
        found.append(Measurement(f"{name}, training", partial(_training, size, name), limit=110))
    return found


def _test(size: Size, name: str, results: dict[str, Any]) -> dict[str, Any]:
    """Time a batch of views, of the size that tests use; a video's test is as many as `SYSTEMS` says."""
    side, views = SYSTEMS[name]
    model = _model(size, name)
    if "image_size" in size.systems[name]:
        side = model.image_size
    figures = time_forward(model, size.batch_size, size.timing_seconds, results, side)
    return {**figures, "views": views, "video_seconds": views / figures["clips_per_second"]}


def _training(size: Size, name: str, results: dict[str, Any]) -> dict[str, Any]:
    return time_training(_model(size, name), size.batch_size, size.timing_seconds, results)


def _model(size: Size, name: str) -> Any:
    return tsf.create(name, num_classes=size.model["num_classes"], dtype=jnp.bfloat16, **size.systems[name])
