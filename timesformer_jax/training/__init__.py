"""Training on batches from any input pipeline: mesh, optimizer, step, loop, checkpoints."""

import importlib
from typing import TYPE_CHECKING, Any

from timesformer_jax.preemption import Preempted
from timesformer_jax.renamed import renamed
from timesformer_jax.training.distributed import start_distributed
from timesformer_jax.training.mesh import (
    batch_sharding,
    batch_shards,
    batch_share,
    local_batch_size,
    make_mesh,
    replicated,
    to_devices,
)
from timesformer_jax.training.objective import OBJECTIVES, make_targets
from timesformer_jax.training.optimizer import OPTIMIZERS, Optimizer, frozen_paths, make_optimizer
from timesformer_jax.training.probe import (
    ProbeState,
    Rates,
    init_probe_state,
    make_probe_optimizer,
    make_probe_score_fn,
    make_probe_step,
    probe_rates,
)
from timesformer_jax.training.probe_heads import PROBES, AttentiveProbe, LinearProbe, make_probe, read_probe, write_probe
from timesformer_jax.training.schedules import SCHEDULES
from timesformer_jax.training.sharding import (
    SHARDING_RULES,
    check_mesh,
    describe_mesh,
    sharding_of,
    sharding_table,
    weight_sharding,
)
from timesformer_jax.training.step import TrainState, init_state, make_train_step, state_shapes

if TYPE_CHECKING:
    from timesformer_jax.training.checkpoints import Checkpoints, check_description
    from timesformer_jax.training.loop import Plan, train

LAZY = {"Checkpoints": "checkpoints", "check_description": "checkpoints", "Plan": "loop", "train": "loop"}
"""Maps a name to the module that defines it, imported on first use.

These modules need Orbax, etils and tqdm; the others only JAX, Flax and Optax.
"""

__all__ = [
    "OBJECTIVES",
    "OPTIMIZERS",
    "PROBES",
    "SCHEDULES",
    "SHARDING_RULES",
    "AttentiveProbe",
    "Checkpoints",
    "LinearProbe",
    "Optimizer",
    "Plan",
    "Preempted",
    "ProbeState",
    "Rates",
    "TrainState",
    "batch_sharding",
    "batch_shards",
    "batch_share",
    "check_description",
    "check_mesh",
    "describe_mesh",
    "frozen_paths",
    "init_probe_state",
    "init_state",
    "local_batch_size",
    "make_mesh",
    "make_optimizer",
    "make_probe",
    "make_probe_optimizer",
    "make_probe_score_fn",
    "make_probe_step",
    "make_targets",
    "make_train_step",
    "probe_rates",
    "read_probe",
    "replicated",
    "sharding_of",
    "sharding_table",
    "start_distributed",
    "state_shapes",
    "to_devices",
    "train",
    "weight_sharding",
    "write_probe",
]


def _load(name: str) -> Any:
    if name not in LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{LAZY[name]}"), name)


__getattr__ = renamed(
    __name__,
    {
        "PLACEMENT": "SHARDING_RULES",
        "place": "sharding_of",
        "placement_table": "sharding_table",
        "split_batch": "batch_sharding",
    },
    otherwise=_load,
)
