"""Work between the host and the model: augmentation on the device, and copies of batches."""

import importlib.util
from functools import partial
from typing import Any

import jax

from benchmarks.accelerator.sizes import Size
from benchmarks.accelerator.timing import Measurement, Skipped, time_calls
from benchmarks.accelerator.whole_model import MEAN, STD, TrainingBench, make_model
from timesformer_jax.video import normalize

AUGMENTATIONS: dict[str, dict[str, Any]] = {
    "RandAugment and erasing": {"flip": "on", "rand_augment": (4, 7.0), "erase": 0.25},
    "crop and flip": {"flip": "on"},
}
"""Maps each name to fields of `PixelOptions`: those of the modern recipe (`configs/recipes.py`) and of the paper's."""


def augmentation_measurements(size: Size) -> list[Measurement]:
    """Return the measurements of a training step with and without each augmentation."""
    return [Measurement(name, partial(augmentation, size, name), later=i > 0) for i, name in enumerate(AUGMENTATIONS)]


def copy_measurements(size: Size) -> list[Measurement]:
    """Return the measurement of the overlap between copies and steps."""
    return [Measurement("host to device", partial(copies, size))]


def augmentation(size: Size, name: str, results: dict[str, Any]) -> dict[str, Any]:
    """Measure the share of a training step that an augmentation takes."""
    if importlib.util.find_spec("dm_pix") is None:
        raise Skipped("dm-pix is not installed: pip install dm-pix")
    from timesformer_jax.augment import PixelOptions, prepare_training

    options = PixelOptions(**{"flip": "off", "mean": MEAN, "std": STD, **AUGMENTATIONS[name]})
    model = make_model(size, None, {"scan_layers": True})
    plain = TrainingBench(model, size.batch_size, lambda key, batch: normalize(batch["video"], mean=MEAN, std=STD))
    changed = TrainingBench(model, size.batch_size, partial(prepare_training, options=options))
    without = time_calls(plain.step, size.timing_seconds)["seconds"]
    with_it = time_calls(changed.step, size.timing_seconds)["seconds"]
    return {"step_seconds": without, "augmented_step_seconds": with_it, "share_of_step": 1 - without / with_it}


def copies(size: Size, results: dict[str, Any]) -> dict[str, Any]:
    """Time a step alone, a copy alone, and both.

    `share_hidden` is 1 if the copy is hidden completely, and 0 if the step waits for it.
    """
    model = make_model(size, None, {"scan_layers": True})
    bench = TrainingBench(model, size.batch_size, lambda key, batch: normalize(batch["video"], mean=MEAN, std=STD))
    megabytes = sum(x.nbytes for x in jax.tree.leaves(bench.copy())) / 1e6
    step, copy, both = (
        time_calls(call, size.timing_seconds)["seconds"] for call in (bench.step, bench.copy, bench.step_from_host)
    )
    return {
        "megabytes": megabytes,
        "copy_gigabytes_per_second": megabytes / copy / 1e3,
        "step_seconds": step,
        "copy_seconds": copy,
        "step_and_copy_seconds": both,
        "share_hidden": (step + copy - both) / min(step, copy),
    }
