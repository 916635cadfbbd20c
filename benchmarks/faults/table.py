"""Table of a campaign's outcomes: as text, as a JSON file, and as the figures of docs/reliability.md."""

import collections
import dataclasses
import json
import os
import platform
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import result_files
from benchmarks.marks import replace_marked
from timesformer_jax.atomic_write import write_whole

ROOT = Path(__file__).resolve().parent.parent.parent
DOCUMENT = ROOT / "docs/reliability.md"
RESULTS = ROOT / "benchmarks/results/endurance"
BEGIN, END = "<!-- benchmarks/endurance.py --page writes from here -->", "<!-- to here -->"
NOT_YET = "The campaign has not been run yet."

SURVIVED, LOST, SILENT = "survived", "lost", "silently wrong"
COLUMNS = ("tried", SURVIVED, LOST, SILENT)
VERDICTS = {
    "resumed": SURVIVED,  # the same command ended with the results of an undisturbed run
    "unharmed": SURVIVED,  # what was read is what was written
    "refused": SURVIVED,  # a clear error that names the file or the reason
    "fallback": SURVIVED,  # older or partial content was used, and a warning named the damaged file
    "redone": SURVIVED,  # the work was done again
    "traceback": LOST,
    "unnamed": LOST,  # an error that names no file
    "failed": LOST,  # no success, and no clear error
    "crashed": LOST,
    "hung": LOST,
    "left behind": LOST,  # a process or an unfinished file
    "differs": SILENT,  # different results without a warning
}
"""Maps each outcome of a trial to its column."""


@dataclasses.dataclass(frozen=True)
class Trial:
    """A fault and its outcome.

    Attributes:
        section: Heading of the table's rows, such as "Bit flips".
        what: Row of the table.
        outcome: A key of `VERDICTS`.
        detail: Everything needed to reproduce a failure: seed, file, offset, message.
    """

    section: str
    what: str
    outcome: str
    detail: str = ""

    @property
    def verdict(self) -> str:
        return VERDICTS[self.outcome]


def describe_machine() -> dict[str, Any]:
    """Return the processor, cores and versions."""
    try:
        found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return {
        "processor": found[1].strip() if found else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("jax", "orbax-checkpoint", "tensorflow-cpu")},
    }


def summarize(trials: Iterable[Trial]) -> list[dict[str, Any]]:
    """Return one row per section and event, in order of their first trial."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for trial in trials:
        row = rows.setdefault(
            (trial.section, trial.what),
            {"section": trial.section, "what": trial.what, "outcomes": collections.Counter(), "faults": []},
        )
        row["outcomes"][trial.outcome] += 1
        if trial.verdict != SURVIVED:
            row["faults"].append(f"{trial.outcome}: {trial.detail}")
    for row in rows.values():
        row.update(count(row["outcomes"]))
    return list(rows.values())


def count(outcomes: Mapping[str, int]) -> dict[str, int]:
    """Return the counts of the four columns."""

    def those(verdict: str) -> int:
        return sum(number for outcome, number in outcomes.items() if VERDICTS[outcome] == verdict)

    return {"tried": sum(outcomes.values()), **{verdict: those(verdict) for verdict in COLUMNS[1:]}}


def exit_code(rows: Sequence[dict[str, Any]]) -> int:
    """Return 1 if anything was lost or wrong, or if nothing was tried; otherwise 0."""
    return int(not rows or any(row[LOST] or row[SILENT] for row in rows))


def draw_table(rows: Sequence[dict[str, Any]]) -> str:
    """Return a Markdown table with a line per row and a total per section."""
    lines = [f"| event | {' | '.join(COLUMNS)} |", "|---|" + "---|" * len(COLUMNS)]
    for section in dict.fromkeys(row["section"] for row in rows):
        its = [row for row in rows if row["section"] == section]
        total = [sum(row[column] for row in its) for column in COLUMNS]
        lines.append(f"| **{section}** | {' | '.join(f'**{number}**' for number in total)} |")
        lines += [f"| {row['what']} | {' | '.join(str(row[column]) for column in COLUMNS)} |" for row in its]
    return "\n".join(lines)


def write_record(path: Path, trials: Sequence[Trial], about: dict[str, Any]) -> dict[str, Any]:
    """Write the results file; return its content."""
    content = {
        "format": result_files.FORMAT,
        "date": time.strftime("%Y-%m-%d"),
        "machine": describe_machine(),
        **about,
        "rows": summarize(trials),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(content, indent=1) + "\n")
    return content


def read_record(path: Path) -> dict[str, Any]:
    """Return the content of a file that `write_record` wrote.

    Raises:
        ValueError: If the file is not a results file.
    """
    return result_files.read_record(path, "rows")


def render(files: Sequence[Path]) -> str:
    """Return the Markdown of all results files."""
    return "\n\n".join(_render(read_record(path)) for path in files) or NOT_YET


def _render(content: dict[str, Any]) -> str:
    machine = content["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in {"Python": machine["python"], **machine["versions"]}.items())
    conditions = (
        f"{content['date']}, {machine['cores']} cores ({machine['processor']}), {machine['system']}, {versions}; "
        f"seed {content['seed']}, {content['minutes']:.0f} minutes."
    )
    return "\n\n".join([conditions, draw_table(content["rows"]), *content.get("notes", [])])


def write_page(files: Sequence[Path], document: Path) -> Path:
    """Replace the text between the two marks of `document`.

    Raises:
        ValueError: If the document lacks the marks, or a file is not a results file.
    """
    replace_marked(document, BEGIN, END, render(files))
    return document
