"""Description of the card, and its peak speed and bandwidth in practice."""

import importlib.metadata
import os
import platform
import subprocess
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp

from benchmarks.accelerator.sizes import Size
from benchmarks.accelerator.timing import Measurement, time_calls
from timesformer_jax.training.chips import peak_teraflops

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "dm-pix")
PLUGINS = (
    "jax-cuda12-plugin",
    "jax-cuda13-plugin",
    "nvidia-cudnn-cu12",
    "nvidia-cudnn-cu13",
    "nvidia-cublas-cu12",
    "nvidia-cublas",
)


SETTINGS = ("NVIDIA_TF32_OVERRIDE", "XLA_PYTHON_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_PREALLOCATE", "CUDA_VISIBLE_DEVICES")
"""Environment variables that affect speed or memory."""


def measurements(size: Size) -> list[Measurement]:
    """Return the description of the device, then the reference measurements."""
    return [
        Measurement("device", lambda results: describe(), limit=60),
        Measurement("matrix product, bfloat16", partial(matrix_product, size, "bfloat16", "default")),
        Measurement("memory copy", partial(memory_copy, size)),
        Measurement(
            "matrix product, float32, default precision", partial(matrix_product, size, "float32", "default"), later=True
        ),
        Measurement(
            "matrix product, float32, highest precision", partial(matrix_product, size, "float32", "highest"), later=True
        ),
    ]


def describe() -> dict[str, Any]:
    """Describe name, driver, memory, versions, and settings that affect speed."""
    device, config = jax.devices()[0], cast(Any, jax.config)
    stats = device.memory_stats() or {}
    limit = stats.get("bytes_limit")
    return {
        "kind": device.device_kind,
        "platform": device.platform,
        "devices": jax.device_count(),
        "data_sheet_teraflops": peak_teraflops(device.device_kind),
        "usable_gib": limit / 2**30 if limit else None,
        "nvidia_smi": _nvidia_smi(),
        "cpu_cores": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "versions": {name: version for name in (*PACKAGES, *PLUGINS) if (version := _version(name))},
        "platform_version": getattr(device.client, "platform_version", None),
        "settings": {
            "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
            "jax_default_matmul_precision": str(config.jax_default_matmul_precision),
            "compilation cache": bool(config.jax_compilation_cache_dir),
            **{name: value for name in SETTINGS if (value := os.environ.get(name)) is not None},
        },
    }


def matrix_product(size: Size, dtype: str, precision: str, results: dict[str, Any]) -> dict[str, Any]:
    """Time a square matrix product of random numbers, since zeros would run faster."""
    n = size.matrix
    a, b = (jax.random.normal(jax.random.key(i), (n, n), dtype) for i in range(2))
    product = jax.jit(lambda a, b: jnp.matmul(a, b, precision=precision))
    timed = time_calls(lambda: product(a, b), size.timing_seconds)
    return {"n": n, **timed, "teraflops": 2 * n**3 / timed["seconds"] / 1e12}


def memory_copy(size: Size, results: dict[str, Any]) -> dict[str, Any]:
    """Time reading and writing an array once; both count towards the bandwidth."""
    x = jax.random.normal(jax.random.key(0), (size.copy_mib, 2**18))  # MiB of float32
    double = jax.jit(lambda x: 2 * x)
    timed = time_calls(lambda: double(x), size.timing_seconds)
    return {"mib": size.copy_mib, **timed, "gigabytes_per_second": 2 * x.nbytes / timed["seconds"] / 1e9}


def _nvidia_smi() -> str | None:
    query = "name,driver_version,memory.total,clocks.max.sm,power.limit"
    try:
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"], capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
