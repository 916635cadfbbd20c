"""Devices of a target, which are compiled for and need not be there."""

from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import topologies

from timesformer_jax.errors import InputError, first_line
from timesformer_jax.planning.gpus import target_config
from timesformer_jax.planning.targets import TPUS, Target


def target_devices(target: Target) -> Sequence[Any]:
    """Devices of a target, for a mesh.

    TPUs and GPUs need the process that `timesformer_jax.planning.environment` describes.

    Raises:
        InputError: If the compiler has no such topology.
    """
    if target.platform == "local":
        return jax.devices()
    try:
        return topologies.get_topology_desc(platform=target.platform, **_arguments(target)).devices
    except jax.errors.JaxRuntimeError as error:
        raise InputError(f"plan.target={target.name}: the compiler has no such topology ({first_line(error)}).") from error


def _arguments(target: Target) -> dict[str, Any]:
    if target.platform == "cuda":
        return {"topology_name": target.name, "target_config": target_config(target.chip), "topology": target.topology}
    arguments: dict[str, Any] = {"topology_name": target.topology}
    if TPUS[target.chip][0] == 2:  # a device is a chip with both TensorCores
        arguments["chip_config_name"] = "megacore"
    sides = [int(side) for side in target.topology.partition(":")[2].split("x")]
    if target.num_chips < 4:  # less than the 2 x 2 chips of a machine
        arguments["chips_per_host_bounds"] = [*sides, 1, 1][:3]
    return arguments
