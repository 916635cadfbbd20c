"""Explain out-of-memory errors: required and available memory, and what to change."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax

from timesformer_jax.errors import InputError
from timesformer_jax.training.chips import device_memory

REMEDIES = {
    "model": "set train.accumulation=2, 4, ... (micro-batches) or model.remat=full (about 1.3 times the time); "
    "model.dtype=bfloat16 and mesh.fsdp=-1 with mesh.data=1 help too",
    "cnn": "set cnn.dtype=bfloat16, or train.accumulation=2, 4, ... (micro-batches, each with its own statistics of BatchNorm)",
}
"""Maps the section of a model's fields to what lowers the memory of its training."""


@contextlib.contextmanager
def out_of_memory_told(compiled: Callable[[], Any], remedies: str = REMEDIES["model"]) -> Iterator[None]:
    """Turn XLA's out-of-memory errors into one `InputError`.

    Args:
        compiled: Returns the compiled step, or None if it isn't compiled yet.
        remedies: What to do besides lowering the batch size.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        text = str(error)
        if "RESOURCE_EXHAUSTED" not in text and not isinstance(error, MemoryError):
            raise
        step, memory = compiled(), device_memory()
        analysis = step.memory_analysis() if hasattr(step, "memory_analysis") else None
        needs = (
            f"The step needs {(analysis.argument_size_in_bytes + analysis.temp_size_in_bytes) / 2**30:.1f} GiB on each device"
            if analysis is not None
            else next((line.strip().rstrip(".") for line in text.splitlines() if "RESOURCE_EXHAUSTED" in line), "Out of memory")
        )
        has = f", which has {memory[1]:.1f} GiB" if memory else ""
        raise InputError(f"{needs}{has}: too much. Lower train.batch_size, or {remedies}.") from error
