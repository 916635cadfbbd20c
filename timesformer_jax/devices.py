"""Describe the devices that JAX uses in one line, and explain why it doesn't use an NVIDIA GPU that is present."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from timesformer_jax.errors import InputError, first_line
from timesformer_jax.extras import install_extras

PLUGINS = {"jax-cuda12-plugin": 12, "jax-cuda13-plugin": 13}
"""Maps JAX's plugins for NVIDIA GPUs to their major version of CUDA."""
OLDEST_DRIVER = {12: "525", 13: "580"}
"""Maps a major version of CUDA to the first Linux driver that supports it."""


class Machine(NamedTuple):
    """Facts about the machine that explain why a GPU isn't used, as collected by `look`.

    Attributes:
        cores: Number of CPU cores that this process may use.
        environment: JAX_PLATFORMS and CUDA_VISIBLE_DEVICES, if set.
        driver_loaded: Whether NVIDIA's kernel driver is loaded.
        gpu_files: Whether a GPU's device file exists, so that this process may use it.
        smi: Output of nvidia-smi, errors included; None if it isn't installed.
        smi_failed: Whether nvidia-smi exited with an error.
        packages: Installed versions of jaxlib and the `PLUGINS`.
    """

    cores: int
    environment: Mapping[str, str]
    driver_loaded: bool = False
    gpu_files: bool = False
    smi: str | None = None
    smi_failed: bool = False
    packages: Mapping[str, str] = {}


def describe_devices() -> str:
    """Describe the devices in one line.

    Examples: "1 x NVIDIA H100 80GB HBM3, CUDA 12.9", "8 x TPU v5 lite", "CPU, 2 cores: no GPU or TPU found".

    Starts JAX's backend. Raises `InputError` if it can't be started on the platforms of JAX_PLATFORMS.
    """
    try:
        devices = jax.devices()
    except RuntimeError as error:
        machine = look()
        why = f" An NVIDIA GPU is present, but {reason}." if (reason := unused_gpu(machine, first_line(error))) else ""
        platforms = machine.environment.get("JAX_PLATFORMS", "")
        raise InputError(f"JAX can't start with JAX_PLATFORMS={platforms!r}: {first_line(error)}.{why}") from error
    version = str(devices[0].client.platform_version)
    text = name_devices([(device.platform, device.device_kind) for device in devices], version, look)
    return text + (f"; {jax.process_count()} processes" if jax.process_count() > 1 else "")


def print_devices() -> None:
    """Print `describe_devices` to stderr, the log of a command line."""
    print(describe_devices(), file=sys.stderr)


def name_devices(devices: Sequence[tuple[str, str]], version: str, look: Any) -> str:
    """Describe devices with these platforms and kinds in one line.

    Args:
        devices: `platform` and `device_kind` of each `jax.Device`.
        version: `platform_version` of their client.
        look: Returns the `Machine`; called only if all devices are CPUs.
    """
    if all(platform == "cpu" for platform, _ in devices):
        machine = look()
        cpu = f"CPU, {machine.cores} core{'s' * (machine.cores != 1)}"
        return cpu + (f" as {len(devices)} devices" if len(devices) > 1 else "") + _why_cpu(machine)
    counts = Counter(kind for _, kind in devices)
    found = re.search(r"cuda (\d+)", version)
    cuda = f", CUDA {int(found[1]) // 1000}.{int(found[1]) % 1000 // 10}" if found else ""
    return ", ".join(f"{count} x {kind}" for kind, count in counts.items()) + cuda


def _why_cpu(machine: Machine) -> str:
    for name, value in machine.environment.items():
        if (name == "JAX_PLATFORMS" and _without_gpu(value)) or (name == "CUDA_VISIBLE_DEVICES" and _hides_all(value)):
            return f" ({name}={value!r})"  # on purpose
    if reason := unused_gpu(machine, _cuda_error()):
        return f": an NVIDIA GPU is present, but {reason}"
    return ": no GPU or TPU found"


def unused_gpu(machine: Machine, error: str) -> str | None:
    """Explain why JAX doesn't use this machine's NVIDIA GPU, with the remedy; None if there is no GPU.

    Args:
        machine: Facts about the machine.
        error: JAX's error when it is asked for the GPU.
    """
    smi = machine.smi or ""
    works = machine.smi is not None and not machine.smi_failed
    if not (machine.gpu_files or machine.driver_loaded or works):
        return None
    if not machine.gpu_files and not works:
        return (
            "its device files (/dev/nvidia0) are missing: only its driver is loaded. Start a container with --gpus=all, or "
            "ask the scheduler for a GPU"
        )
    if machine.smi_failed:
        return f"its driver doesn't work (nvidia-smi: {smi.strip().splitlines()[0] if smi.strip() else 'no output'})"
    cuda = re.search(r"CUDA Version:\s*(\d+)\.(\d+)", smi)
    supported = int(cuda[1]) if cuda else max(OLDEST_DRIVER)
    install = install_extras("cuda13" if cuda and supported >= 13 else "cuda12")
    if cuda and supported < 12:
        return (
            f"its driver supports CUDA {cuda[1]}.{cuda[2]}, and JAX needs 12: update it to {OLDEST_DRIVER[12]} or newer, "
            f"then: {install}"
        )
    plugins = {name: version for name, version in machine.packages.items() if name in PLUGINS}
    if not plugins:
        return f"JAX has no CUDA plugin here. Install it: {install}"
    name, version = next(iter(plugins.items()))
    if all(PLUGINS[plugin] > supported for plugin in plugins):
        return f"its driver supports CUDA {supported}, and {name} needs CUDA {PLUGINS[name]}. Install the other one: {install}"
    jaxlib = machine.packages.get("jaxlib", "none")
    if all(_release(plugin) != _release(jaxlib) for plugin in plugins.values()):
        return f"{name} {version} doesn't match jaxlib {jaxlib}. Install matching versions: {install}"
    return f"JAX can't use it: {error}"


def look() -> Machine:
    """Collect the facts about this machine."""
    smi, failed = None, False
    if (program := shutil.which("nvidia-smi")) is not None:
        try:
            done = subprocess.run([program], capture_output=True, text=True, timeout=20, check=False)
            smi, failed = done.stdout + done.stderr, done.returncode != 0
        except (OSError, subprocess.TimeoutExpired) as error:
            smi, failed = str(error), True
    packages = {}
    for name in ("jaxlib", *PLUGINS):
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    environment = {name: os.environ[name] for name in ("JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES") if name in os.environ}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Machine(
        cores=cores,
        environment=environment,
        driver_loaded=Path("/proc/driver/nvidia/version").exists(),
        gpu_files=any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists(),  # the latter under WSL
        smi=smi,
        smi_failed=failed,
        packages=packages,
    )


def _cuda_error() -> str:
    try:
        jax.devices("cuda")
    except RuntimeError as error:
        return first_line(error)
    return "it prefers the CPU"


def _without_gpu(platforms: str) -> bool:
    return bool(platforms) and not {"cuda", "gpu"} & set(platforms.split(","))


def _hides_all(visible: str) -> bool:
    return visible.strip() in ("", "-1", "NoDevFiles", "void", "none")


def _release(version: str) -> str:
    """Release part of a version, which JAX compares: 0.10.2 of 0.10.2.post1."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    return found[0] if found else version
