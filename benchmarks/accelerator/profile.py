"""Profile of a training step, aggregated by operation and by component of the model."""

import os
import re
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
from jax.profiler import ProfileData

from benchmarks.accelerator.compiling import quiet
from benchmarks.accelerator.sizes import Size
from benchmarks.accelerator.timing import Measurement, end_of_compilation
from benchmarks.accelerator.whole_model import MEAN, STD, TrainingBench, make_model
from timesformer_jax.video import normalize

STEPS = 3
TOP = 25
ENVIRONMENT = {"XLA_FLAGS": "--xla_gpu_enable_command_buffer="}
"""Disables CUDA graphs, which hide their operations from the trace."""
TRACE_FOLDER = "TIMESFORMER_GPU_TRACE"
"""Environment variable with the folder in which to keep the trace."""

PARTS: tuple[tuple[str, str], ...] = (
    ("temporal attention, projections", r"temporal_attn[^/]*/(.*/)?(qkv|proj)/|temporal_fc"),
    ("temporal attention, core", r"temporal_attn"),
    ("spatial attention, projections", r"/attn[^/]*/(.*/)?(qkv|proj)/"),
    ("spatial attention, core", r"/attn"),
    ("LayerNorm", r"norm"),
    ("MLP", r"/mlp"),
    ("patch embedding", r"patch_embed"),
    ("block: residuals, CLS, transpositions", r"blocks"),
    ("head and loss", r"/head|log_softmax|logsumexp"),
    ("optimizer, casts of parameters, the rest", r""),
)
"""Components and patterns of the source path in an operation's XLA metadata; the first match counts."""

CONTAINERS = re.compile(r"^(while|call|conditional|async|tuple)[\w-]*(\.\d+)?$")
"""Operations that only contain others, which are counted separately."""


def measurements(size: Size) -> list[Measurement]:
    """Return the measurement that traces the unrolled step."""
    return [Measurement("training step", partial(profile, size), limit=120)]


def profile(size: Size, results: dict[str, Any]) -> dict[str, Any]:
    """Trace `STEPS` training steps and summarise them."""
    model = make_model(size, None, {})
    bench = TrainingBench(model, size.batch_size, lambda key, batch: normalize(batch["video"], mean=MEAN, std=STD))
    end_of_compilation()
    jax.block_until_ready(bench.step())
    kept = os.environ.get(TRACE_FOLDER)
    folder = Path(kept or tempfile.mkdtemp())
    with quiet(), jax.profiler.trace(str(folder)):
        for _ in range(STEPS):
            bench.step()
        jax.block_until_ready(bench.metrics)
    try:
        events = list(device_events(max(folder.rglob("*.xplane.pb"), key=os.path.getmtime)))
    finally:
        if not kept:
            shutil.rmtree(folder)
    if not events:
        raise RuntimeError("The trace contains no device operations; keep it with --trace=FOLDER and inspect it.")
    return {"batch_size": size.batch_size, **summarize(events, source_paths(bench.compiled.as_text()))}


def device_events(trace: Path) -> Iterator[tuple[str, float]]:
    """Yield (operation, nanoseconds) for each execution of an operation on the device.

    On a GPU these are the kernels of its streams; on a CPU, the operations that XLA's threads ran.
    """
    planes = list(ProfileData.from_file(str(trace)).planes)
    gpu = [plane for plane in planes if "/device:GPU" in plane.name]
    for plane in gpu or planes:
        for line in plane.lines:
            if gpu and not line.name.startswith("Stream"):
                continue  # a GPU's other lines aggregate the same kernels
            for event in line.events:
                stats = dict(event.stats)
                if "hlo_op" in stats:
                    yield str(stats["hlo_op"]), float(event.duration_ns)
                elif gpu:
                    yield event.name, float(event.duration_ns)  # copies and the like


def source_paths(program: str) -> dict[str, str]:
    """Map operations to source paths such as `jit(train_step)/jvp(TimeSformer)/blocks_0/mlp/fc1/dot_general`.

    A fusion has the path of one of its operations, so sums per component are approximate.
    """
    pattern = re.compile(r"^\s*(?:ROOT )?%?([\w.-]+) = .*metadata=\{[^}]*op_name=\"([^\"]*)\"", re.MULTILINE)
    return dict(pattern.findall(program))


def summarize(events: list[tuple[str, float]], paths: dict[str, str]) -> dict[str, Any]:
    """Return milliseconds per step: in total, per component (forward and backward), and of the slowest operations."""
    operations: dict[str, float] = defaultdict(float)
    for operation, nanoseconds in events:
        if not CONTAINERS.match(operation):
            operations[operation] += nanoseconds / STEPS / 1e6
    parts = {part: {"forward_ms": 0.0, "backward_ms": 0.0} for part, _ in PARTS}
    for operation, milliseconds in operations.items():
        path = paths.get(operation, "")
        part = next(part for part, pattern in PARTS if re.search(pattern, path))
        parts[part]["backward_ms" if "transpose(" in path else "forward_ms"] += milliseconds
    most = sorted(operations.items(), key=lambda item: -item[1])[:TOP]
    return {
        "device_ms": sum(operations.values()),
        "parts": parts,
        "unnamed_ms": sum(milliseconds for operation, milliseconds in operations.items() if operation not in paths),
        "operations": [{"operation": name, "ms": ms, "source": paths.get(name, "")} for name, ms in most],
    }
