"""Descriptions of NVIDIA GPUs that are not there, for XLA."""

from typing import NamedTuple

MIB, KIB = 2**20, 2**10


class Gpu(NamedTuple):
    """Figures of a GPU that XLA's compiler uses.

    Sources: NVIDIA's data sheets, and the technical specifications by compute capability in the CUDA programming guide.
    """

    name: str
    """Name of the device."""
    capability: tuple[int, int]
    """Compute capability."""
    cores: int
    """Number of streaming multiprocessors."""
    units: int
    """Number of float32 units of a multiprocessor."""
    clock: float
    """Boost clock in GHz."""
    memory: int
    """Size of the memory in bytes."""
    bandwidth: float
    """Bandwidth of the memory in GB/s."""
    cache: int
    """Size of the second-level cache in bytes."""
    shared: int
    """Shared memory of a multiprocessor in bytes; a block can use 1 KiB less."""
    threads: int
    """Number of threads that a multiprocessor holds."""


GPUS: dict[str, Gpu] = {
    "h100": Gpu("NVIDIA H100 80GB HBM3", (9, 0), 132, 128, 1.98, 81_008 * MIB, 3352.32, 50 * MIB, 228 * KIB, 2048),
    "a100-40gb": Gpu("NVIDIA A100-SXM4-40GB", (8, 0), 108, 64, 1.41, 40_339 * MIB, 1555.2, 40 * MIB, 164 * KIB, 2048),
    "l4": Gpu("NVIDIA L4", (8, 9), 58, 128, 2.04, 22_578 * MIB, 300.1, 48 * MIB, 100 * KIB, 1536),
}
"""Maps a chip of `timesformer_jax.planning.targets.CHIPS` to its description."""


def target_config(chip: str) -> str:
    """XLA's description of a GPU: a `GpuTargetConfigProto` as text."""
    gpu = GPUS[chip]
    major, minor = gpu.capability
    device = {
        "threads_per_block_limit": 1024,
        "threads_per_warp": 32,
        "shared_memory_per_block": 48 * KIB,
        "shared_memory_per_core": gpu.shared,
        "threads_per_core_limit": gpu.threads,
        "core_count": gpu.cores,
        "fpus_per_core": gpu.units,
        "block_dim_limit_x": 2**31 - 1,
        "block_dim_limit_y": 2**16 - 1,
        "block_dim_limit_z": 2**16 - 1,
        "memory_bandwidth": round(gpu.bandwidth * 1e9),
        "l2_cache_size": gpu.cache,
        "clock_rate_ghz": gpu.clock,
        "device_memory_size": gpu.memory,
        "shared_memory_per_block_optin": gpu.shared - KIB,
        "registers_per_core_limit": 2**16,
        "registers_per_block_limit": 2**16,
    }
    figures = " ".join(f"{name}: {value}" for name, value in device.items())
    return (
        f"gpu_device_info {{ {figures} cuda_compute_capability {{ major: {major} minor: {minor} }} }} "
        'platform_name: "CUDA" dnn_version_info { major: 9 minor: 8 } runtime_version { major: 12 minor: 9 } '
        f'device_description_str: "{gpu.name}"'
    )
