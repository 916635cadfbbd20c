"""One cell after the other, each a job of main.py in a process of its own; what it found is a file."""

import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timesformer_jax as tsf
from benchmarks.miniature.experiments import IMAGE_MODEL, Cell, Size, all_cells, image_cell
from timesformer_jax.cost import count_multiply_adds, count_parameters
from timesformer_jax.evaluation import write_whole
from timesformer_jax.modeling import complete_description

ROOT = Path(__file__).parent.parent.parent
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "tensorflow-cpu", "tensorflow", "scikit-learn")
KEPT = ("top1", "top5", "intervals", "by_num_clips", "num_videos", "num_clips", "num_crops", "average", "step")
"""Of a run's results.json."""
LAST_LINES = 5
"""Of a failed run's log, for the one who waits."""

Result = dict[str, Any]


def fields_of(cell: Cell, size: Size) -> tuple[str, dict[str, Any]]:
    """The config file of a cell, and its fields that differ from it."""
    fields = {**size.common, **dict(cell.changes), "seed": cell.seed}
    return fields.pop("config", size.configs[cell.task]), fields


def workdir_of(cell: Cell, size: Size, workdirs: Path) -> Path:
    """Named by all that decides on its training. What differs in the test alone is one training, tested once more."""
    config, fields = fields_of(cell, size)
    trained = {field: value for field, value in sorted(fields.items()) if not field.startswith("eval.")}
    digest = hashlib.blake2b(json.dumps([config, trained]).encode(), digest_size=4).hexdigest()
    return workdirs / f"{cell.task}-{digest}"


def flags_of(cell: Cell, size: Size, *, places: Mapping[str, Mapping[str, str]], workdirs: Path) -> list[str]:
    """What main.py is called with. `places`: task -> field -> path, what differs from machine to machine."""
    config, fields = fields_of(cell, size)
    if cell.needs_image_model:
        image_model = str(workdir_of(image_cell(size, cell.seed), size, workdirs))
        fields = {field: image_model if value == IMAGE_MODEL else value for field, value in fields.items()}
    given = {**fields, **places.get(cell.task, {})}
    return [
        f"--config={config}",
        f"--workdir={workdir_of(cell, size, workdirs)}",
        *(f"--config.{field}={value}" for field, value in given.items()),
    ]


def read_result(cell: Cell, size: Size, results: Path) -> Result | None:
    """What a finished cell found; None where there is nothing, or it was run with other fields than the tables have now."""
    try:
        result = json.loads((results / f"{cell.name}.json").read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        path = results / f"{cell.name}.json"
        raise tsf.InputError(f"{path} is no JSON ({error}): delete it, and the same command writes it again.") from error
    config, fields = fields_of(cell, size)
    return result if (result["config"], result["fields"]) == (config, json.loads(json.dumps(fields))) else None


def run_cells(
    size: Size,
    *,
    results: Path,
    workdirs: Path,
    places: Mapping[str, Mapping[str, str]],
    say: Any = print,
) -> int:
    """Runs what isn't finished yet, and how many that were.

    Raises `InputError` where one fails.
    """
    cells = all_cells(size)
    open_cells = [cell for cell in cells if read_result(cell, size, results) is None]
    # What begins with an image model needs its checkpoint, which isn't among the results.
    missing = {image_cell(size, cell.seed) for cell in open_cells if cell.needs_image_model}
    gone = [cell for cell in missing if not _has_checkpoint(cell, size, results, workdirs)]
    to_run = [cell for cell in cells if cell in open_cells or cell in gone]
    say(f"{len(cells) - len(to_run)} of {len(cells)} trainings are finished.")
    for number, cell in enumerate(to_run, 1):
        began = time.perf_counter()
        result = run_cell(cell, size, results=results, workdirs=workdirs, places=places)
        seconds = time.perf_counter() - began
        say(f"{number}/{len(to_run)} {cell.name}: top-1 {100 * result['results']['top1']:.1f} % in {seconds:.0f} s")
    return len(to_run)


def _has_checkpoint(cell: Cell, size: Size, results: Path, workdirs: Path) -> bool:
    """Whether the checkpoint of a cell's result is still there, and not just one on the way to it."""
    result = read_result(cell, size, results)
    return result is not None and (workdir_of(cell, size, workdirs) / "checkpoints" / str(result["results"]["step"])).is_dir()


def run_cell(cell: Cell, size: Size, *, results: Path, workdirs: Path, places: Mapping[str, Mapping[str, str]]) -> Result:
    """Trains and tests it, and writes its result. One that was interrupted goes on from its checkpoint, if it had one.

    Raises `InputError` with the last lines of its log where it fails.
    """
    config, fields = fields_of(cell, size)
    workdirs.mkdir(parents=True, exist_ok=True)
    results.mkdir(parents=True, exist_ok=True)
    log = workdirs / f"{cell.name}.log"
    began, started = time.perf_counter(), datetime.datetime.now(datetime.UTC)
    command = [sys.executable, "main.py", *flags_of(cell, size, places=places, workdirs=workdirs)]
    found = workdir_of(cell, size, workdirs) / "results.json"
    found.unlink(missing_ok=True)  # of another test of the same training
    with log.open("w") as file:
        done = subprocess.run(command, cwd=ROOT, env=_environment(size), stdout=file, stderr=subprocess.STDOUT, check=False)
    if done.returncode or not found.is_file():
        last = "\n".join(log.read_text().splitlines()[-LAST_LINES:])
        raise tsf.InputError(
            f"The run of {cell.name} ended with exit code {done.returncode}; its log, {log}, ends with:\n{last}"
        )
    told = json.loads(found.read_text())
    model = tsf.TimeSformer(**complete_description(told["model"]))
    result = {
        "name": cell.name,
        "task": cell.task,
        "seed": cell.seed,
        "config": config,
        "fields": fields,
        "results": {name: told[name] for name in KEPT if name in told},
        "parameters": count_parameters(model),
        "multiply_adds": count_multiply_adds(model),
        "seconds": round(time.perf_counter() - began),
        "started": started.isoformat(timespec="seconds"),
        **surroundings(),
    }
    write_whole(results / f"{cell.name}.json", json.dumps(result, indent=2) + "\n")
    return result


def _environment(size: Size) -> dict[str, str]:
    if size.cpu_devices is None:
        return dict(os.environ)
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={size.cpu_devices}"
    return {**os.environ, "XLA_FLAGS": flags.strip()}


def surroundings() -> dict[str, Any]:
    """What besides its fields a result may depend on."""
    return {
        "commit": _git("rev-parse", "--short", "HEAD") + ("+" if _git("status", "--porcelain", "--untracked-files=no") else ""),
        "versions": {"python": platform.python_version(), **{name: found for name in PACKAGES if (found := _version(name))}},
        "processor": _processor(),
    }


def _version(name: str) -> str | None:
    """None if a package isn't installed: TensorFlow has another name on each platform."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str:
    command: Sequence[str] = ["git", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.machine()
