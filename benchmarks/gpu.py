"""Speed and memory of TimeSformer on an accelerator, measured in nine minutes.

python benchmarks/gpu.py --output=benchmarks/results/h100.json      measures everything, most informative first
python benchmarks/gpu.py --output=FILE.json --only=card,attention   measures selected sections
python benchmarks/gpu.py --output=FILE.json --size=tiny --minutes=1 tries out the script on any machine
python benchmarks/gpu.py --page                                     writes the tables of docs/performance.md

Requires jax, flax, optax and this repository. Augmentation also needs dm-pix; the comparison needs torch and transformers. Each
result is written as soon as it is known, so an interrupted run keeps what it has measured. A measurement that fails, hangs or
runs out of memory is recorded with its message, and the run continues.
"""

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # replaces this file's folder

from benchmarks.accelerator.compiling import SUSPENDED, TIMING_FRACTION, Compilers  # noqa: E402
from benchmarks.accelerator.page import RESULTS, write_page  # noqa: E402
from benchmarks.accelerator.record import Record  # noqa: E402
from benchmarks.accelerator.running import Run, Task, Worker  # noqa: E402
from benchmarks.accelerator.sizes import SIZES, Size  # noqa: E402


def main(arguments: list[str] | None = None) -> int:
    """Measure or draw the page; return the exit code."""
    given = parse(arguments)
    if given.page is not None:
        files = given.page or sorted(RESULTS.glob("*.json"))
        try:
            print(f"Wrote {write_page(files, given.document)}.")
        except ValueError as error:
            print(f"Error: {error}", file=sys.stderr)
            return 1
        return 0
    from benchmarks.accelerator.sections import SECTIONS  # imports JAX, which drawing doesn't need

    if given.worker:
        from benchmarks.accelerator.working import work

        work(size=given.size, output=given.output, compile_only=given.worker == "compile")
        return 0
    wanted = given.only.split(",") if given.only else list(SECTIONS)
    if unknown := [name for name in wanted if name not in SECTIONS]:
        print(f"Error: --only={given.only}: no section {unknown[0]}; choose from {', '.join(SECTIONS)}.", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end as on Ctrl-C
    return measure([name for name in SECTIONS if name in wanted], given)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    job = parser.add_mutually_exclusive_group(required=True)
    job.add_argument("--output", type=Path, metavar="FILE.json", help="results file, replaced if it exists")
    job.add_argument(
        "--page", type=Path, nargs="*", metavar="FILE.json", help="draw these results (default: all of benchmarks/results)"
    )
    parser.add_argument("--minutes", type=float, default=9.0, help="time limit of the whole run (default: 9)")
    parser.add_argument("--only", metavar="SECTION,...", help="sections to run (default: all)")
    parser.add_argument("--size", choices=SIZES, default="base", help="size of the model and the batches (default: base)")
    parser.add_argument("--trace", type=Path, metavar="FOLDER", help="keep the profiler's trace in this folder")
    parser.add_argument("--document", type=Path, default=ROOT / "docs/performance.md", help="page that --page updates")
    parser.add_argument(
        "--compilers",
        type=int,
        default=min((os.cpu_count() or 1) // 3, 5),
        help="processes that compile ahead (default: %(default)s)",
    )
    parser.add_argument("--worker", choices=("time", "compile"), help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def measure(wanted: list[str], given: argparse.Namespace) -> int:
    """Run the sections, most informative measurements first; return the exit code."""
    from benchmarks.accelerator.profile import TRACE_FOLDER
    from benchmarks.accelerator.sections import SECTIONS

    size = SIZES[given.size]
    given.output.parent.mkdir(parents=True, exist_ok=True)
    record = Record(given.output, {"size": given.size, "about": size.about, "minutes": given.minutes, "sections": wanted})
    record.write()
    options = [f"--size={given.size}", f"--output={given.output}"]

    def start(role: str, environment: Mapping[str, str]) -> Worker:
        return Worker([sys.executable, str(ROOT / "benchmarks/gpu.py"), *options, f"--worker={role}"], environment)

    run = Run(record, minutes=given.minutes, start=partial(start, "time"))
    if given.trace:
        os.environ[TRACE_FOLDER] = str(given.trace.resolve())
    groups = plan(wanted, size)
    ahead = [(task, environment) for tasks, environment in groups for task in tasks if SECTIONS[task.section].compiles]
    with tempfile.TemporaryDirectory() as folder:
        defaults = {
            "JAX_COMPILATION_CACHE_DIR": f"{folder}/cache",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "XLA_PYTHON_CLIENT_MEM_FRACTION": TIMING_FRACTION if given.compilers else "0.92",
            SUSPENDED: f"{folder}/compilers.json",
            **size.environment,
        }
        for name, value in defaults.items():
            os.environ.setdefault(name, value)
        compilers = Compilers(partial(start, "compile"), ahead, processes=given.compilers, groups_file=os.environ[SUSPENDED])
        try:
            with compilers:
                for tasks, environment in groups:
                    run.measure(tasks, environment, compilers)
        except KeyboardInterrupt:
            print(f"Interrupted. {given.output} has what was measured so far.", file=sys.stderr)
            return 130
    record.about["finished"] = True
    record.write()
    failed: list[Any] = [entry for entry in record.entries if "failure" in entry]
    print(f"{len(record.entries) - len(failed)} of {len(record.entries)} measurements have a result: {given.output}")
    return 0


def plan(wanted: list[str], size: Size) -> list[tuple[list[Task], Mapping[str, str]]]:
    """Return tasks in order, grouped by environment.

    Neighbouring sections with the same environment form one group, since starting a worker takes time.
    """
    from benchmarks.accelerator.sections import SECTIONS

    batches: list[tuple[list[Task], Mapping[str, str]]] = []
    for later in (False, True):
        for name in wanted:
            section = SECTIONS[name]
            tasks = [Task(name, each.name, each.limit) for each in section.measurements(size) if each.later == later]
            if batches and batches[-1][1] == section.environment:
                batches[-1][0].extend(tasks)
            elif tasks:
                batches.append((tasks, section.environment))
    return batches


if __name__ == "__main__":
    sys.exit(main())
