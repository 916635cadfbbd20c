"""Compare recipes for few videos with probes of frozen features; writes docs/small_data.md.

python benchmarks/small_data.py --clips=FOLDER               runs what isn't finished, then draws the page
python benchmarks/small_data.py --clips=FOLDER --rows small --tasks motion  runs selected rows and columns of the table
python benchmarks/small_data.py --only-page                  draws the page from the existing results

FOLDER has real clips, one sub-folder per label. The pretrained models are trained first, in about 4 minutes on 2 CPU cores. A
row takes about a minute per task and seed. Every training is a job of main.py.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).parent.parent)  # replaces this file's folder, whose files hide packages

import numpy as np  # noqa: E402

from benchmarks.few_videos.page import PAGE, RESULTS, render  # noqa: E402
from benchmarks.few_videos.tasks import PRETRAINING, RECIPES, SEEDS, TASKS, pretraining_flags, task_flags  # noqa: E402
from timesformer_jax.atomic_write import write_whole  # noqa: E402
from timesformer_jax.features import FeatureSet, read_features  # noqa: E402

ROOT = Path(__file__).parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, help="folder of real clips, one sub-folder per label")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "small_data", help="folder for videos, models and logs")
    parser.add_argument("--rows", nargs="+", choices=list(RECIPES), default=list(RECIPES), help="rows of the table to run")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS), help="columns of the table to run")
    parser.add_argument("--only-page", action="store_true", help="draw the page without running anything")
    given = parser.parse_args()
    if not given.only_page:
        if given.clips is None:
            parser.error("give --clips=FOLDER, or --only-page")
        run(given.folder.resolve(), given.clips.resolve(), given.rows, given.tasks)
    write_whole(PAGE, render(json.loads(RESULTS.read_text())).encode())


def run(folder: Path, real: Path, rows: list[str], tasks: list[str]) -> None:
    """Run the cells that RESULTS lacks, and write the file after each."""
    for name in PRETRAINING:
        if not (folder / name / "results.json").exists():
            launch(pretraining_flags(name, folder), folder / f"{name}.log")
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for task in tasks:
        for recipe in rows:
            for seed in SEEDS:
                cell = f"{recipe} {task} {seed}"
                if cell in found:
                    continue
                log = folder / "runs" / f"{task}-{recipe}-{seed}.log"
                seconds = launch(task_flags(task, recipe, seed, folder=folder, real=real), log)
                found[cell] = {**figures(recipe, log.with_suffix("")), "seconds": round(seconds)}
                RESULTS.parent.mkdir(parents=True, exist_ok=True)
                write_whole(RESULTS, (json.dumps(found, indent=1) + "\n").encode())
                print(cell, found[cell], flush=True)


def launch(flags: list[str], log: Path) -> float:
    """Run main.py to its end; return the seconds that it took."""
    log.parent.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    with log.open("w") as file:
        command = [sys.executable, "main.py", *flags]
        if subprocess.run(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, check=False).returncode:
            sys.exit(f"main.py failed; its log, {log}, ends with: {log.read_text().splitlines()[-1]}")
    return time.perf_counter() - began


def figures(recipe: str, workdir: Path) -> dict[str, Any]:
    """Return top-1 accuracy and the numbers of validation videos and training steps."""
    mode = RECIPES[recipe].mode
    if mode == "features":
        train, val = (read_features(workdir / "features" / split) for split in ("train", "val"))
        hits = nearest_centroid(train, val) == val.labels
        return {"top1": float(hits.mean()), "num_videos": len(hits), "steps": 0}
    if mode == "probe":
        found = json.loads((workdir / "probe.json").read_text())
        return {"top1": found["best"]["top1"], "num_videos": found["num_videos"], "steps": found["steps"]}
    found = json.loads((workdir / "results.json").read_text())
    return {"top1": found["top1"], "num_videos": found["num_videos"], "steps": found["step"]}


def nearest_centroid(train: FeatureSet, val: FeatureSet) -> np.ndarray:
    """Predict the label whose training videos' mean is nearest by cosine similarity."""
    vectors = [features.vectors() for features in (train, val)]
    known, asked = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in vectors)
    means = np.stack([known[train.labels == label].mean(axis=0) for label in range(len(train.label_names or ()))])
    return (asked @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T).argmax(axis=1)


if __name__ == "__main__":
    main()
