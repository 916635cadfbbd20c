"""The programs whose budgets are kept: base with 8 clips of 8 x 224 a chip, in bfloat16, compiled for a TPU v5e.

Runs in its own process, which prints the figures of one program as JSON. Imports JAX.
"""

import json
import sys
from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec

import timesformer_jax as tsf
from timesformer_jax import training
from timesformer_jax.modeling import parameter_shapes
from timesformer_jax.planning import CHIPS
from timesformer_jax.planning.collectives import transfers
from timesformer_jax.planning.hlo import Program, parse_program
from timesformer_jax.planning.step_time import estimated_cycles, kernel_cycles, kernel_flops

TOPOLOGY = "v5e:2x2"
CLIPS, CLASSES = 8, 400

SCANNED = {"scan_layers": True, "remat": "full"}
LONG = {"depth": 12, "train": True, "fields": SCANNED, "clips": 1}
PROGRAMS: dict[str, dict[str, Any]] = {
    "forward, depth 1": {"depth": 1},
    "forward, depth 2": {"depth": 2},
    "training, depth 1": {"depth": 1, "train": True},
    "training, depth 2": {"depth": 2, "train": True},
    "training, scan, full remat, depth 12": {"depth": 12, "train": True, "fields": SCANNED},
    "training, data 4, depth 2": {"depth": 2, "train": True, "mesh": {"data": 4}},
    "training, fsdp 4, depth 2": {"depth": 2, "train": True, "mesh": {"fsdp": 4}},
    "training, context 4, depth 2": {"depth": 2, "train": True, "mesh": {"context": 4}, "clips": CLIPS // 4},
    "training, scan, 16 clips": {"depth": 12, "train": True, "fields": SCANNED, "clips": 16},
    "training, scan, 1 clip of 16 x 448": {**LONG, "variant": "timesformer-hr"},
    "training, scan, 1 clip of 96 x 224": {**LONG, "variant": "timesformer-large-frames"},
}
"""Maps a program's name to the arguments of `compile_program`. Training takes a step of SGD."""


def compile_program(
    *,
    depth: int,
    train: bool = False,
    fields: Any = None,
    mesh: dict[str, int] | None = None,
    clips: int = CLIPS,
    variant: str = "timesformer-base",
) -> Any:
    """Compile one program.

    Args:
        depth: Number of blocks.
        train: Whether to compile a training step instead of a forward pass.
        fields: Further fields of the model.
        mesh: Sizes of the mesh; one chip by default.
        clips: Clips per chip.
        variant: Name of the model.
    """
    devices = topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGY).devices
    grid = training.make_mesh(devices if mesh else devices[:1], **{"data": 1, **(mesh or {})})
    model = tsf.create(variant, num_classes=CLASSES, depth=depth, dtype=jnp.bfloat16, **(fields or {}))
    count, sharding = clips * grid.size, training.batch_sharding(grid)
    shape = (count, model.num_frames, model.image_size, model.image_size, 3)
    video = jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=sharding)
    if not train:
        whole = NamedSharding(grid, PartitionSpec())
        params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), parameter_shapes(model))
        return jax.jit(lambda params, video: model.apply({"params": params}, video)).lower(params, video).compile()
    sgd = optax.sgd(0.1)
    step = training.make_train_step(model=model, optimizer=sgd, prepare=lambda key, batch: batch["video"], seed=0, mesh=grid)
    label = jax.ShapeDtypeStruct((count,), jnp.int32, sharding=sharding)
    return step.lower(training.state_shapes(model, sgd, grid), {"video": video, "label": label}).compile()


def figures(compiled: Any) -> dict[str, Any]:
    """Return the figures of a compiled program, and its collectives one by one under "all"."""
    program = parse_program(compiled.as_text())
    found = list(transfers(program))
    size: Counter[str] = Counter()
    for each in found:
        size[each.kind] += each.times * each.num_bytes
    return {
        "mcycles": round(cycles(program) / 1e6, 2),
        "temp_mib": round(compiled.memory_analysis().temp_size_in_bytes / 2**20, 1),
        **{f"{kind}_mib": round(total / 2**20, 2) for kind, total in sorted(size.items())},
        "all": [
            {"kind": each.kind, "dtypes": sorted({array.dtype for array in each.instruction.results}), "size": each.num_bytes}
            for each in found
        ],
    }


def cycles(program: Program) -> float:
    """Estimate the cycles of a program: the compiler's estimate, and ours for the kernels, for which it has none."""
    own, uncounted = kernel_flops(program)
    assert not uncounted, f"{uncounted} calls of kernels have no estimate of their FLOPs"
    return estimated_cycles(program) + kernel_cycles(own, CHIPS["v5e"])


if __name__ == "__main__":
    print(json.dumps(figures(compile_program(**PROGRAMS[sys.argv[1]]))))
