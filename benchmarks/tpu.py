"""Budgets of the model on a TPU that needn't be there: cycles, memory and collectives, estimated by its compiler.

python benchmarks/tpu.py                    compiles every program and compares it with benchmarks/budgets/v5e.json
python benchmarks/tpu.py --only=forward     the programs with this word in their names
python benchmarks/tpu.py --all              larger batches and longer clips as well
python benchmarks/tpu.py --attention        prints the cycles of every scheme's attention steps, with XLA and with our kernels
python benchmarks/tpu.py --write            replaces the budgets

Needs the packages of benchmarks/budgets/requirements.txt (`make tpu-budgets` installs them) on x86-64 Linux. Nothing is
measured: cycles are the compiler's estimates, good for comparing two programs for the same chip.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BUDGETS = ROOT / "benchmarks/budgets/v5e.json"
GROWTH = 1.03
"""A figure may grow by this factor."""
NOISE_MIB = 1.0
"""A collective's size may always grow by this much."""
ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
"""Lets JAX load libtpu on a machine without a TPU."""
NAMES = (
    "forward, depth 1",
    "forward, depth 2",
    "training, depth 1",
    "training, depth 2",
    "training, scan, full remat, depth 12",
    "training, data 4, depth 2",
    "training, fsdp 4, depth 2",
    "training, context 4, depth 2",
)
"""Keys of `benchmarks.budgets.programs.PROGRAMS`, which this process doesn't import."""
MORE_NAMES = ("training, scan, 16 clips", "training, scan, 1 clip of 16 x 448", "training, scan, 1 clip of 96 x 224")
"""Further keys, of programs that are compiled only on request."""
BLOCKS = 12


def main(arguments: list[str] | None = None) -> int:
    """Compile, print and compare; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="WORD", help="programs with this word in their names (default: all)")
    parser.add_argument("--write", action="store_true", help="replace the budgets of these programs")
    parser.add_argument("--all", action="store_true", help="also the programs of larger batches and longer clips")
    parser.add_argument("--attention", action="store_true", help="print the cycles of every scheme's attention steps instead")
    given = parser.parse_args(arguments)
    if given.attention:
        return print_attention()
    names = [name for name in NAMES + MORE_NAMES * given.all if given.only in name]
    if not names:
        print(f"Error: --only={given.only}: no program has this word; choose from {'; '.join(NAMES)}.", file=sys.stderr)
        return 1
    budgets: dict[str, dict[str, float]] = json.loads(BUDGETS.read_text()) if BUDGETS.exists() else {}
    found, faults = {}, []
    print(f"{'estimated by the compiler for one chip of v5e:2x2':<52} {'now':>10} {'budget':>10}")
    for name in names:
        started = time.perf_counter()
        result, log = compile_apart(name)
        faults += [f"{name}: {fault}" for fault in check(name, result.pop("all"), log)]
        found[name] = result
        budget = budgets.get(name, {})
        for figure, value in result.items():
            print(f"{name + ', ' + figure:<52} {value:>10} {budget.get(figure, '-'):>10}")
        print(f"{'':<52} {time.perf_counter() - started:>9.0f}s", flush=True)
        if not given.write:
            faults += [f"{name}: {fault}" for fault in grown(result, budget)]
    for kind in ("forward", "training"):
        print_block(kind, found, budgets)
    for fault in faults:
        print(f"Error: {fault}", file=sys.stderr)
    if given.write:
        BUDGETS.write_text(json.dumps({**budgets, **found}, indent=2) + "\n")
    elif faults:
        print("If a figure may grow, run benchmarks/tpu.py --write and commit the new budgets.", file=sys.stderr)
    return 1 if faults else 0


def compile_apart(name: str) -> tuple[dict[str, Any], str]:
    """Compile a program in a separate process; return its figures and the compiler's log."""
    lines, log = run_apart("benchmarks.budgets.programs", name)
    return json.loads(lines[-1]), log


def run_apart(module: str, *arguments: str) -> tuple[list[str], str]:
    """Run a module that imports JAX in a separate process; return the lines that it prints and the compiler's log."""
    process = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode:
        raise SystemExit(f"Error: {' '.join((module, *arguments))} doesn't compile.\n{process.stderr[-4000:]}")
    return process.stdout.splitlines(), process.stderr


def print_attention() -> int:
    """Print the cycles of every scheme's attention steps as a table in Markdown."""
    lines, _ = run_apart("benchmarks.budgets.attention")
    print("| scheme | step | groups x patches | XLA, Mcycles | our kernels | ratio |\n|---|---|---|---|---|---|")
    for row in map(json.loads, lines):
        xla, ours = row["xla"] / 1e6, row["fused_tpu"] / 1e6
        size = f"{row['groups']} x {row['tokens']}"
        print(f"| `{row['scheme']}` | {row['step']} | {size} | {xla:.2f} | {ours:.2f} | {ours / xla:.2f} |")
    return 0


def grown(result: dict[str, float], budget: dict[str, float]) -> list[str]:
    """Describe the figures that exceed their budget."""
    faults = []
    for figure, value in result.items():
        allowed = budget.get(figure, 0.0) * GROWTH
        if figure.startswith(("all-", "reduce-", "collective-")):
            allowed = max(allowed, budget.get(figure, 0.0) + NOISE_MIB)
        if value > allowed:
            faults.append(
                f"{figure} is {value}, more than {GROWTH - 1:.0%} above its budget of {budget.get(figure, 'nothing')}."
            )
    return faults


def check(name: str, found: list[dict[str, Any]], log: str) -> list[str]:
    """Describe what is wrong with the collectives of a program, whatever their budgets."""
    large = [each for each in found if each["size"] > 2**20]
    faults = []
    if "nvoluntary full rematerialization" in log:
        faults.append("the compiler gathers a whole array that it can't reshard (involuntary full rematerialization).")
    if "fsdp" in name:
        # The gradient of a temporal projection composed with temporal_fc is summed whole, since it enters those of both.
        whole, scattered = (
            sum(each["size"] for each in large if each["kind"] == kind) for kind in ("all-reduce", "reduce-scatter")
        )
        if whole > scattered / 8:
            faults.append(f"{whole / 2**20:.1f} MiB of gradients are summed on every chip instead of being scattered.")
        if wide := [each for each in large if each["kind"] == "all-gather" and each["dtypes"] != ["bf16"]]:
            # The classifier computes in float32.
            faults += ["weights are gathered in float32."] if sum(each["size"] for each in wide) > 4 * 2**20 else []
    if "context" in name:
        moves = [each for each in large if each["kind"] == "all-to-all"]
        if len(moves) != 8 or any(each["dtypes"] != ["bf16"] for each in moves):
            faults.append(f"expected 4 all-to-alls in bf16 per block, got {[each['dtypes'] for each in moves]} in 2 blocks.")
    return faults


def print_block(kind: str, found: dict[str, dict[str, float]], budgets: dict[str, dict[str, float]]) -> None:
    """Print the cycles of one block, the difference of two depths, and of all of them."""
    lines = []
    for source in (found, budgets):
        first, second = (source.get(f"{kind}, depth {depth}", {}).get("mcycles") for depth in (1, 2))
        lines.append(None if first is None or second is None else (second - first, first + (BLOCKS - 1) * (second - first)))
    if lines[0] is None:
        return
    for i, label in enumerate(("a block, mcycles", f"{BLOCKS} blocks and the rest, mcycles")):
        print(f"{kind + ', ' + label:<52} {lines[0][i]:>10.2f} {'-' if lines[1] is None else format(lines[1][i], '.2f'):>10}")


if __name__ == "__main__":
    sys.exit(main())
