"""Peak throughput and memory of the devices."""

import jax

PEAKS: dict[str, float] = {
    # NVIDIA, dense bfloat16 on tensor cores (data sheets).
    "V100": 125.0,  # float16: no bfloat16
    "T4": 65.0,  # float16
    "A10": 125.0,
    "A100": 312.0,
    "L4": 121.0,
    "L40": 181.0,
    "L40S": 362.0,
    "RTX 3090": 71.0,
    "RTX 4090": 165.0,
    "H100 PCIe": 756.0,
    "H100": 989.0,
    "H200": 989.0,
    "GH200": 989.0,
    "B200": 2250.0,
    # TPU, bfloat16, one device per chip; v2 and v3 have two devices per chip.
    "TPU v2": 22.5,
    "TPU v3": 61.5,
    "TPU v4": 275.0,
    "TPU v5 lite": 197.0,
    "TPU v5e": 197.0,
    "TPU v5": 459.0,
    "TPU v5p": 459.0,
    "TPU v6 lite": 918.0,
    "TPU v6e": 918.0,
    "TPU7x": 1153.5,  # half a chip of 2307
}
"""Maps a substring of `jax.Device.device_kind` to one device's peak TFLOP/s in half precision; the longest match wins."""


def peak_teraflops(kind: str) -> float | None:
    """Peak TFLOP/s of a device of this kind; None if it isn't in `PEAKS`, such as a CPU."""
    fitting = [name for name in PEAKS if name.lower() in kind.lower()]
    return PEAKS[max(fitting, key=len)] if fitting else None


def device_memory() -> tuple[float, float] | None:
    """Peak and total memory of this process's first device in GiB; None if the device doesn't report it (CPUs)."""
    stats = jax.local_devices()[0].memory_stats()
    if not stats or "peak_bytes_in_use" not in stats:
        return None
    return stats["peak_bytes_in_use"] / 2**30, stats.get("bytes_limit", 0) / 2**30
