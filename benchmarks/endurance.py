"""Kill runs, damage their files and fill their disks, and check that nothing is lost or silently wrong.

    python benchmarks/endurance.py --output=FILE.json           everything: 100 kills, 30 bit flips in each kind of file, ...
    python benchmarks/endurance.py --short                      a subset in three minutes with fixed seeds, as CI runs it
    python benchmarks/endurance.py --only=flips --flips=100     selected sections
    python benchmarks/endurance.py --page                       writes the figures of docs/reliability.md

Runs are `main.py` on a tiny model and small videos. After each disturbance, the same command must end with the results of an
undisturbed run, bit for bit, and leave no process and no unfinished file behind. A damaged file must either be read as it was
written or be refused with a clear error that names it. Prints a table. The exit code is 1 if anything was lost or wrong. Linux
only; full and read-only disks need root. Without it, a file size limit replaces full disks, and read-only disks are skipped.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # replaces this file's folder

from benchmarks.faults import table  # noqa: E402
from benchmarks.faults.table import Trial  # noqa: E402

SHORT = {"only": "flips,growth,kills", "seed": 0, "minutes": 3.0, "kills": 9, "flips": 2, "others": 1, "checkpoints": 40}
"""Arguments that `--short` sets."""
PROGRESS_SECONDS = 20
"""Seconds between progress lines."""


class Campaign:
    """The sections of the benchmark on one world.

    Args:
        folder: Folder for everything that the campaign writes.
        given: Parsed command line.
    """

    def __init__(self, folder: Path, given: argparse.Namespace):
        from benchmarks.faults.world import World

        self.given = given
        self.world = World(folder)
        self.notes: list[str] = []
        self._end = time.monotonic() + 60 * given.minutes

    def stop(self) -> bool:
        """Return whether time is up."""
        return time.monotonic() > self._end

    def kills(self) -> Iterator[Trial]:
        from benchmarks.faults.kills import kill

        yield from kill(self.world, count=self.given.kills, seed=self.given.seed, stop=self.stop)

    def flips(self) -> Iterator[Trial]:
        from benchmarks.faults.damage import damage_kinds
        from benchmarks.faults.kinds import KINDS
        from benchmarks.faults.world import build_files

        build_files(self.world)
        absent = [kind.name for kind in KINDS if not kind.find(self.world.folder / kind.folder)]
        if absent:
            self.notes.append(f"Kinds of files that were not found: {', '.join(absent)}.")
        counts = {"flips": self.given.flips, "others": self.given.others}
        flipped = set()
        for trial in damage_kinds(KINDS, self.world.folder, self.given.seed, **counts, stop=self.stop):
            flipped.add(trial.what)
            yield trial
        if late := [kind.name for kind in KINDS if kind.name not in {*flipped, *absent}]:
            self.notes.append(f"Time was up before: {', '.join(late)}.")

    def limits(self) -> Iterator[Trial]:
        from benchmarks.faults import limits

        yield from limits.protect_workdirs(self.world)
        yield from limits.limit_descriptors(self.world)
        yield from limits.fill_disks(self.world, count=self.given.disks, seed=self.given.seed, stop=self.stop)

    def growth(self) -> Iterator[Trial]:
        from benchmarks.faults.limits import watch_growth

        yield from watch_growth(self.world, self.given.checkpoints, self.notes)

    def together(self) -> Iterator[Trial]:
        from benchmarks.faults.together import kill_peers, run_twice

        yield from run_twice(self.world, stop=self.stop)
        yield from kill_peers(self.world, count=self.given.peers, seed=self.given.seed, stop=self.stop)


SECTIONS: dict[str, Callable[[Campaign], Iterator[Trial]]] = {
    "flips": Campaign.flips,
    "growth": Campaign.growth,
    "kills": Campaign.kills,
    "limits": Campaign.limits,
    "together": Campaign.together,
}


def main(arguments: list[str] | None = None) -> int:
    """Run the campaign or draw its page; return the exit code."""
    given = parse(arguments)
    if given.page is not None:
        files = given.page or sorted(table.RESULTS.glob("*.json"))
        try:
            print(f"Wrote {table.write_page(files, given.document)}.")
        except ValueError as error:
            print(f"Error: {error}", file=sys.stderr)
            return 1
        return 0
    wanted = given.only.split(",") if given.only else list(SECTIONS)
    if unknown := [name for name in wanted if name not in SECTIONS]:
        print(f"Error: --only={given.only}: no section {unknown[0]}; choose from {', '.join(SECTIONS)}.", file=sys.stderr)
        return 1
    if sys.platform != "linux":
        print("Error: the campaign needs Linux.", file=sys.stderr)
        return 1
    return run(wanted, given)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="seed of every random choice (default: 0)")
    parser.add_argument("--minutes", type=float, default=60.0, help="start no new trial after this time (default: 60)")
    parser.add_argument("--kills", type=int, default=100, help="SIGKILLs and SIGTERMs over all jobs (default: 100)")
    parser.add_argument("--flips", type=int, default=30, help="bit flips in each kind of file (default: 30)")
    parser.add_argument(
        "--others", type=int, default=4, help="truncations, zeroed blocks and missing files of each kind (default: 4)"
    )
    parser.add_argument("--disks", type=int, default=3, help="full disks for each job (default: 3)")
    parser.add_argument("--peers", type=int, default=2, help="runs on two processes, one of which is killed (default: 2)")
    parser.add_argument(
        "--checkpoints", type=int, default=200, help="checkpoints of the run that is watched for leaks (default: 200)"
    )
    parser.add_argument("--only", metavar="SECTION,...", help=f"sections to run, of {', '.join(SECTIONS)} (default: all)")
    parser.add_argument("--short", action="store_true", help="three minutes with fixed seeds, as CI runs it")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="file for the table and every fault")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="work in this new folder, and keep it")
    parser.add_argument(
        "--page",
        type=Path,
        nargs="*",
        metavar="FILE.json",
        help="draw these results (default: all of benchmarks/results/endurance)",
    )
    parser.add_argument("--document", type=Path, default=table.DOCUMENT, help="page that --page updates")
    given = parser.parse_args(arguments)
    if given.short:
        vars(given).update(SHORT)
    return given


def run(wanted: list[str], given: argparse.Namespace) -> int:
    """Run the sections and print the table; return the exit code."""
    folder = given.keep or Path(tempfile.mkdtemp(prefix="endurance-"))
    began = time.monotonic()
    trials: list[Trial] = []
    try:
        campaign = begin(folder, given)
        for name in wanted:
            if campaign.stop():
                campaign.notes.append(f"Time was up before the section {name}.")
                continue
            shown = time.monotonic()
            print(f"{(shown - began) / 60:.1f} min: {name}", flush=True)
            for trial in SECTIONS[name](campaign):
                trials.append(trial)
                if trial.verdict != table.SURVIVED:
                    print(f"{trial.section}, {trial.what}: {trial.outcome}: {trial.detail}", flush=True)
                if time.monotonic() - shown > PROGRESS_SECONDS:
                    shown = time.monotonic()
                    print(f"{(shown - began) / 60:.1f} min: {name}, {len(trials)} trials: {trial.what}", flush=True)
            print(f"{(time.monotonic() - began) / 60:.1f} min: {name} done, {len(trials)} trials", flush=True)
    finally:
        if not given.keep:
            shutil.rmtree(folder, ignore_errors=True)
    minutes = (time.monotonic() - began) / 60
    rows = table.summarize(trials)
    if given.output:
        about = {"seed": given.seed, "minutes": round(minutes, 1), "sections": wanted, "notes": campaign.notes}
        table.write_record(given.output, trials, about)
    print("\n".join([table.draw_table(rows), *campaign.notes, f"{minutes:.1f} minutes."]))
    return table.exit_code(rows)


def begin(folder: Path, given: argparse.Namespace) -> Campaign:
    """Import everything that runs need, and make the undisturbed run."""
    world = folder.resolve() / "world"
    # Before JAX is imported. Runs share compiled programs, and leftover temporary files end up in a folder that is checked.
    os.environ |= {
        "JAX_COMPILATION_CACHE_DIR": str(folder.resolve() / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "TMPDIR": str(world / "tmp"),
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    from benchmarks.faults.running import preload
    from benchmarks.faults.world import build

    preload()
    build(world)
    return Campaign(world, given)


if __name__ == "__main__":
    sys.exit(main())
