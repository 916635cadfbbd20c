"""Figure 3: cost of joint and divided attention, by arithmetic and by XLA's count for the compiled program."""

import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import timesformer_jax as tsf
from benchmarks.miniature.experiments import Size
from benchmarks.miniature.running import surroundings
from timesformer_jax.cost import count_multiply_adds
from timesformer_jax.evaluation import write_whole

SCHEMES = ("joint_space_time", "divided_space_time")
PAPER = {
    "joint_space_time": {(8, 224): 0.180, (16, 224): 0.450, (32, 224): 1.262, (64, 224): 3.974, (96, 224): 8.136}
    | {(8, 336): 0.531, (8, 448): 1.262, (8, 560): 2.609},
    "divided_space_time": {(8, 224): 0.196, (16, 224): 0.392, (32, 224): 0.786, (64, 224): 1.579, (96, 224): 2.380}
    | {(8, 336): 0.456, (8, 448): 0.850, (8, 560): 1.408},
}
"""10^12 multiply-adds per view of the base model with 400 classes, by the formula that reproduces the "TFLOPs" of the paper's
Tables 2 and 5 exactly. The paper prints no numbers for Figure 3."""

FILE = "cost.json"


def points(size: Size) -> list[tuple[int, int]]:
    """Return (frames, pixels): all numbers of frames at the first size, then all sizes with the first number of frames."""
    return list(
        dict.fromkeys(
            [
                *((frames, size.cost_sizes[0]) for frames in size.cost_frames),
                *((size.cost_frames[0], pixels) for pixels in size.cost_sizes),
            ]
        )
    )


def compiled_multiply_adds(model: tsf.TimeSformer) -> float:
    """Return half of XLA's FLOP count for all features of one clip, without running or allocating anything."""
    side = model.image_size
    video = jax.ShapeDtypeStruct((1, model.num_frames, side, side, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), video)
    # All features: for logits alone, the last block computes less than the formula counts.
    features: Any = jax.jit(lambda variables, video: model.apply(variables, video, method="features"))
    return features.lower(variables, video).compile().cost_analysis()["flops"] / 2


def read_costs(size: Size, results: Path) -> dict[str, Any] | None:
    """Read the counts for this size; None if there are none, or only for other points."""
    try:
        costs = json.loads((results / FILE).read_text())
    except FileNotFoundError:
        return None
    asked = {"model": size.cost_model, "points": [list(point) for point in points(size)]}
    return costs if {name: costs[name] for name in asked} == asked else None


def count_costs(size: Size, results: Path) -> None:
    """Write `cost.json` with both counts of each scheme at each point."""
    lines, began = [], time.perf_counter()
    for frames, pixels in points(size):
        for scheme in SCHEMES:
            # Unrolled, since XLA counts the body of a loop once.
            fields = {"attention_type": scheme, "num_frames": frames, "image_size": pixels, "scan_layers": False}
            model = tsf.create(size.cost_model, num_classes=400, **fields)
            counts = {"multiply_adds": count_multiply_adds(model), "compiled": compiled_multiply_adds(model)}
            lines.append({"attention_type": scheme, "num_frames": frames, "image_size": pixels, **counts})
    costs = {"model": size.cost_model, "points": [list(point) for point in points(size)], "lines": lines}
    costs |= {"seconds": round(time.perf_counter() - began), **surroundings()}
    results.mkdir(parents=True, exist_ok=True)
    write_whole(results / FILE, json.dumps(costs, indent=2) + "\n")
