"""Repeat the paper's experiments at a size that two CPU cores finish in 3.5 hours; writes docs/paper_in_miniature.md.

python benchmarks/paper_in_miniature.py                        runs what isn't finished, then draws the page
python benchmarks/paper_in_miniature.py --folder=runs/again    runs everything anew and draws runs/again/results.md
python benchmarks/paper_in_miniature.py --only-page            draws the page from the existing results
python benchmarks/paper_in_miniature.py --quick                short runs of the main kinds, in runs/paper_in_miniature_quick
python benchmarks/paper_in_miniature.py --full --k400=FOLDER --ssv2=FOLDER   the paper's own data sets and recipes

Trainings of moving digits run in memory, one thread each, --workers of them at a time. A finished training isn't repeated
unless its config or the code that it depends on has changed, and Ctrl-C loses only the trainings in progress, about a minute
each. To continue on another machine, copy the results into benchmarks/results/paper_in_miniature. With --full, every training
is a job of main.py, and an interrupted one resumes from its checkpoint if it has written one.
"""

import argparse
import shutil
import sys
import time
from pathlib import Path

sys.path[0] = str(Path(__file__).parent.parent)  # replaces this file's folder, whose files hide packages

from benchmarks.miniature.costs import FILE as COST_FILE  # noqa: E402
from benchmarks.miniature.costs import count_costs, read_costs  # noqa: E402
from benchmarks.miniature.experiments import Size, all_cells  # noqa: E402
from benchmarks.miniature.page import write_page  # noqa: E402
from benchmarks.miniature.running import ROOT, run_cells  # noqa: E402
from benchmarks.miniature.sizes import SIZES  # noqa: E402
from timesformer_jax.errors import InputError  # noqa: E402

DOCS = ROOT / "docs"
UNFINISHED = ROOT / "benchmarks" / "results" / "paper_in_miniature"
"""Results of some trainings, committed for another machine to build on until all are finished and the page has them."""


def main(arguments: list[str] | None = None) -> int:
    """Run the trainings and draw the page; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", dest="size", action="store_const", const="quick", default="miniature")
    size.add_argument("--full", dest="size", action="store_const", const="full")
    parser.add_argument("--k400", type=Path, metavar="FOLDER", help="folder of Kinetics-400 for --full, see docs/data.md")
    parser.add_argument("--ssv2", type=Path, metavar="FOLDER", help="folder of Something-Something v2 for --full")
    parser.add_argument("--folder", type=Path, help="checkpoints and logs (default: runs/paper_in_miniature)")
    parser.add_argument(
        "--results",
        type=Path,
        help="results (default: FOLDER/results; once all are finished, those of this size replace docs/paper_in_miniature)",
    )
    parser.add_argument("--workers", type=int, default=2, help="trainings at a time, one core each (default: 2)")
    parser.add_argument("--only-page", action="store_true", help="draw the page without running anything")
    given = parser.parse_args(arguments)
    try:
        run(given)
    except InputError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted. Repeat the command to resume.", file=sys.stderr)
        return 130
    return 0


def run(given: argparse.Namespace) -> None:
    """Run what isn't finished and draw the page.

    Raises:
        InputError: If --full lacks a data set, or a training fails.
    """
    size = SIZES[given.size]
    miniature = given.size == "miniature"
    default = "paper_in_miniature" if miniature else f"paper_in_miniature_{given.size}"
    folder = (given.folder or ROOT / "runs" / default).resolve()
    results, published = folder / "results", None
    if given.results is not None:
        results = given.results.resolve()
    elif miniature and given.folder is None:
        published = DOCS / "paper_in_miniature"
    if given.size == "full":
        for name in ("k400", "ssv2"):
            if getattr(given, name) is None and not given.only_page:
                raise InputError(f"--full trains on the paper's data sets: give --{name}=FOLDER.")
        roots = {"spatial": given.k400, "temporal": given.ssv2}
        places = {task: {"data.root": str(root.resolve())} for task, root in roots.items() if root is not None}
    else:
        places = {task: {"data.data_dir": str(folder / "data")} for task in size.configs}
    if not given.only_page:
        began = time.perf_counter()
        if published is not None:
            begin_with(UNFINISHED, results)
            begin_with(published, results)
        ran = run_cells(size, results=results, workdirs=folder, places=places, say=say, workers=given.workers)
        if read_costs(size, results) is None:
            count_costs(size, results)
        say(f"{ran} trainings in {(time.perf_counter() - began) / 60:.1f} minutes.")
        if published is not None:
            publish(size, results, published)
    say(f"See {write_page(size, published or results)}.")


def begin_with(finished: Path, results: Path) -> None:
    """Copy the finished results that `results` lacks, since a training that hasn't changed isn't repeated."""
    results.mkdir(parents=True, exist_ok=True)
    for path in finished.glob("*.json"):
        if not (results / path.name).exists():
            shutil.copy(path, results)


def publish(size: Size, results: Path, published: Path) -> None:
    """Replace the results of the page, once all are finished, and remove the unfinished ones."""
    for path in published.glob("*.json"):
        path.unlink()
    published.mkdir(parents=True, exist_ok=True)
    for name in (*(cell.name for cell in all_cells(size)), Path(COST_FILE).stem):
        shutil.copy(results / f"{name}.json", published)
    shutil.rmtree(UNFINISHED, ignore_errors=True)


def say(line: str) -> None:
    """Print a line without buffering."""
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
