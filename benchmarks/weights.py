"""Time and peak memory of loading a base model's weights, relative to the file's size.

    python benchmarks/weights.py [--rounds 3]

Writes timesformer-base with random parameters in every format that can be written (formats that need PyTorch only if it is
installed) and loads each in its own process, alternating between formats. `peak` is that of the whole process, with imports.
Linux only.
"""

import argparse
import importlib.util
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

import timesformer_jax as tsf
from timesformer_jax.modeling import parameter_shapes
from timesformer_jax.pretrained import WRITERS

TARGETS = {"huggingface": "folder", "official": "model.pyth", "mmaction2": "model.pth", "timesformer_jax": "checkpoint"}

LOAD = """
import pathlib, re, sys, time
import jax, jax.numpy as jnp
import timesformer_jax as tsf
jax.block_until_ready(jnp.zeros(3) + 1)
began = time.perf_counter()
jax.block_until_ready(tsf.load(sys.argv[1]).params)
# Not getrusage, whose peak starts from that of the parent process.
peak = int(re.search(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1]) * 1024
print(time.perf_counter() - began, peak)
"""


def write_files(folder: Path) -> dict[str, Path]:
    """Write a base model with random parameters in each format; return the paths by format."""
    model = tsf.create("timesformer-base", num_classes=400)
    draw = np.random.default_rng(0)
    params = jax.tree.map(lambda x: jax.numpy.asarray(draw.standard_normal(x.shape, np.float32)), parameter_shapes(model))
    pretrained = tsf.Pretrained(model, params, tsf.ZOO["timesformer-base-k400"].preprocess)
    needs_torch = {"official", "mmaction2"} if importlib.util.find_spec("torch") is None else set()
    paths = {kind: folder / name for kind, name in TARGETS.items() if kind not in needs_torch}
    for kind, path in paths.items():
        WRITERS[kind](pretrained, path)
    return paths


def size_of(path: Path) -> int:
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        paths = write_files(Path(folder))
        measured: dict[str, list[tuple[float, float]]] = {kind: [] for kind in paths}
        for _ in range(rounds):
            for kind, path in paths.items():
                done = subprocess.run([sys.executable, "-c", LOAD, str(path)], capture_output=True, text=True, check=True)
                seconds, peak = map(float, done.stdout.split())
                measured[kind].append((seconds, peak))
        print(f"{'kind':<18} {'MiB':>6} {'seconds':>8} {'peak MiB':>9} {'peak / file':>12}    (medians of {rounds})")
        for kind, values in measured.items():
            size, seconds, peak = size_of(paths[kind]), *(statistics.median(column) for column in zip(*values, strict=True))
            print(f"{kind:<18} {size / 2**20:>6.0f} {seconds:>8.2f} {peak / 2**20:>9.0f} {peak / size:>12.2f}")


if __name__ == "__main__":
    main()
