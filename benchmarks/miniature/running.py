"""Run cells, in memory or as jobs of main.py, each with its own results file."""

import datetime
import hashlib
import importlib.metadata
import json
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timesformer_jax as tsf
from benchmarks.miniature.code import ROOT, digest_of
from benchmarks.miniature.experiments import IMAGE_MODEL, Cell, Size, all_cells, image_cell
from benchmarks.miniature.in_memory import run_groups
from timesformer_jax.cost import count_multiply_adds, count_parameters
from timesformer_jax.evaluation import write_whole
from timesformer_jax.modeling import complete_description

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "tensorflow-cpu", "tensorflow", "scikit-learn")
KEPT = ("top1", "top5", "intervals", "by_num_clips", "num_videos", "num_clips", "num_crops", "average", "step")
"""Fields of results.json that are kept."""
LAST_LINES = 5
"""Number of log lines in the error of a failed run."""

Result = dict[str, Any]


def fields_of(cell: Cell, size: Size) -> tuple[str, dict[str, Any]]:
    """Return the config file of a cell and the fields that it changes."""
    fields = {**size.common, **dict(cell.changes), "seed": cell.seed}
    config, variant = fields.pop("config", size.configs[cell.task]), fields.pop("variant", None)
    return config if variant is None else f"{config},{variant}", fields


def config_of(cell: Cell, size: Size, workdirs: Path) -> Any:
    """Return the config of a cell, as main.py makes it from the flags."""
    config, fields = fields_of(cell, size)
    if cell.needs_image_model:
        image_model = str(workdir_of(image_cell(size, cell.seed), size, workdirs))
        fields = {field: image_model if value == IMAGE_MODEL else value for field, value in fields.items()}
    file, _, variant = config.removeprefix("configs/").partition(":")
    made = importlib.import_module(f"configs.{file.removesuffix('.py')}").get_config(*([variant] if variant else []))
    made.lock()
    with made.ignore_type():
        made.update_from_flattened_dict(fields)
    return made


def recipe_of(cell: Cell, size: Size) -> str:
    """Digest of all fields of a cell's config, with those that no flag changes."""
    config = config_of(cell, size, Path(IMAGE_MODEL)).to_json_best_effort(sort_keys=True)
    return hashlib.blake2b(config.encode(), digest_size=8).hexdigest()


def code_of(cell: Cell) -> str:
    """Digest of the code that a cell's result depends on."""
    return digest_of("variant" in dict(cell.changes))


def workdir_of(cell: Cell, size: Size, workdirs: Path) -> Path:
    """Return the workdir, named by everything that affects training.

    Cells that differ only in evaluation share one training.
    """
    config, fields = fields_of(cell, size)
    trained = {field: value for field, value in sorted(fields.items()) if not field.startswith("eval.")}
    digest = hashlib.blake2b(json.dumps([config, trained]).encode(), digest_size=4).hexdigest()
    return workdirs / f"{cell.task}-{digest}"


def flags_of(cell: Cell, size: Size, *, places: Mapping[str, Mapping[str, str]], workdirs: Path) -> list[str]:
    """Return the flags of main.py; `places` maps each task to config fields with machine-dependent paths."""
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
    """Read the result of a cell; None if there is none, or if it was run with a config other than the current one.

    Raises:
        InputError: If the file is not valid JSON.
    """
    try:
        result = json.loads((results / f"{cell.name}.json").read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        path = results / f"{cell.name}.json"
        raise tsf.InputError(f"{path} is not valid JSON ({error}): delete it and repeat the command.") from error
    config, fields = fields_of(cell, size)
    known = [result.get(name) for name in ("config", "fields", "recipe")]
    return result if known == [config, json.loads(json.dumps(fields)), recipe_of(cell, size)] else None


def is_current(cell: Cell, size: Size, results: Path) -> bool:
    """Return whether a cell has a result of its current config and code."""
    result = read_result(cell, size, results)
    return result is not None and result.get("code") == code_of(cell)


def run_cells(
    size: Size,
    *,
    results: Path,
    workdirs: Path,
    places: Mapping[str, Mapping[str, str]],
    say: Any = print,
    workers: int = 1,
) -> int:
    """Run the cells that aren't finished, or were run with another config or other code.

    Args:
        size: Size of the experiments.
        results: Folder of the results files.
        workdirs: Folder of the workdirs and logs.
        places: Maps each task to config fields with machine-dependent paths.
        say: Receives progress lines.
        workers: Number of processes if cells are trained in memory.

    Returns:
        The number of trainings that were run.

    Raises:
        InputError: If a training fails.
    """
    cells = all_cells(size)
    open_cells = [cell for cell in cells if not is_current(cell, size, results)]
    # Cells that start from an image model need its checkpoint, which isn't part of the results.
    missing = {image_cell(size, cell.seed) for cell in open_cells if cell.needs_image_model}
    gone = [cell for cell in missing if not _has_checkpoint(cell, size, results, workdirs)]
    to_run = [cell for cell in cells if cell in open_cells or cell in gone]
    outdated = sum(read_result(cell, size, results) is not None for cell in open_cells)
    again = f", {outdated} are run again because the code has changed" if outdated else ""
    say(f"{len(cells) - len(to_run)} of {len(cells)} trainings are finished{again}.")
    if size.in_memory:
        run_groups(to_run, size, results=results, workdirs=workdirs, say=say, workers=workers)
        return len(to_run)
    for number, cell in enumerate(to_run, 1):
        began = time.perf_counter()
        result = run_cell(cell, size, results=results, workdirs=workdirs, places=places)
        seconds = time.perf_counter() - began
        say(f"{number}/{len(to_run)} {cell.name}: top-1 {100 * result['results']['top1']:.1f} % in {seconds:.0f} s")
    return len(to_run)


def _has_checkpoint(cell: Cell, size: Size, results: Path, workdirs: Path) -> bool:
    """Return whether the final checkpoint of a cell's result still exists, not just an earlier one."""
    result = read_result(cell, size, results)
    return result is not None and (workdir_of(cell, size, workdirs) / "checkpoints" / str(result["results"]["step"])).is_dir()


def run_cell(cell: Cell, size: Size, *, results: Path, workdirs: Path, places: Mapping[str, Mapping[str, str]]) -> Result:
    """Train and evaluate a cell and write its result; an interrupted one resumes from its checkpoint, if any.

    Raises:
        InputError: If the run fails, with the last lines of its log.
    """
    workdirs.mkdir(parents=True, exist_ok=True)
    results.mkdir(parents=True, exist_ok=True)
    log = workdirs / f"{cell.name}.log"
    began, started = time.perf_counter(), datetime.datetime.now(datetime.UTC)
    command = [sys.executable, "main.py", *flags_of(cell, size, places=places, workdirs=workdirs)]
    found = workdir_of(cell, size, workdirs) / "results.json"
    found.unlink(missing_ok=True)  # from another evaluation of the same training
    with log.open("w") as file:
        done = subprocess.run(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, check=False)
    if done.returncode or not found.is_file():
        last = "\n".join(log.read_text().splitlines()[-LAST_LINES:])
        raise tsf.InputError(
            f"The run of {cell.name} ended with exit code {done.returncode}; its log, {log}, ends with:\n{last}"
        )
    recorded = json.loads(found.read_text())
    return _write(
        cell,
        size,
        results,
        model=tsf.TimeSformer(**complete_description(recorded["model"])),
        found={name: recorded[name] for name in KEPT if name in recorded},
        seconds=time.perf_counter() - began,
        started=started,
    )


def train_cell(cell: Cell, size: Size, *, results: Path, workdirs: Path) -> Result:
    """Train and evaluate a cell in this process, and write its result; an image model also writes a checkpoint."""
    from benchmarks.miniature import trainings  # loads TensorFlow

    began, started = time.process_time(), datetime.datetime.now(datetime.UTC)
    config = trainings.complete(config_of(cell, size, workdirs))
    state = trainings.train(config)
    found = trainings.evaluate(config, state)
    if cell.changes == image_cell(size, cell.seed).changes:
        trainings.write_checkpoint(config, state, workdir_of(cell, size, workdirs))
    return _write(
        cell,
        size,
        results,
        model=trainings.program_of(config).model,
        found={name: found[name] for name in KEPT if name in found},
        seconds=time.process_time() - began,
        started=started,
    )


def _write(
    cell: Cell, size: Size, results: Path, *, model: Any, found: dict[str, Any], seconds: float, started: datetime.datetime
) -> Result:
    config, fields = fields_of(cell, size)
    result = {
        "name": cell.name,
        "task": cell.task,
        "seed": cell.seed,
        "config": config,
        "fields": fields,
        "recipe": recipe_of(cell, size),
        "code": code_of(cell),
        "results": found,
        "parameters": count_parameters(model),
        "multiply_adds": count_multiply_adds(model),
        "seconds": round(seconds),
        "started": started.isoformat(timespec="seconds"),
        **surroundings(),
    }
    results.mkdir(parents=True, exist_ok=True)
    write_whole(results / f"{cell.name}.json", json.dumps(result, indent=2) + "\n")
    return result


def surroundings() -> dict[str, Any]:
    """Return the commit, versions and processor, on which a result may depend besides its fields."""
    return {
        "commit": _git("rev-parse", "--short", "HEAD") + ("+" if _git("status", "--porcelain", "--untracked-files=no") else ""),
        "versions": {"python": platform.python_version(), **{name: found for name in PACKAGES if (found := _version(name))}},
        "processor": _processor(),
    }


def _version(name: str) -> str | None:
    """Return the version of a package; None if it isn't installed, since TensorFlow's name depends on the platform."""
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
