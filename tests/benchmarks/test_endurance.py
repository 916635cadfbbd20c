"""benchmarks/endurance.py: detection of failures, the table, the page."""

import argparse
import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import endurance
from benchmarks.faults import table
from benchmarks.faults.damage import Damage, Kind, draw_damages, judge_all
from benchmarks.faults.table import VERDICTS, Trial
from benchmarks.faults.world import differences
from tests.runs import ROOT
from timesformer_jax.errors import InputError

log = logging.getLogger("timesformer_jax")

NUMBER = Damage("number.json", "flipped", 8 * 6)
"""7 becomes 6."""


def careless(folder: Path) -> int:
    return json.loads((folder / "number.json").read_text())["n"]


def careful(folder: Path) -> int:
    if careless(folder) != 7:
        raise InputError(f"{folder / 'number.json'} is damaged.")
    return 7


def vague(folder: Path) -> int:
    if careless(folder) != 7:
        raise InputError("A file is damaged.")
    return 7


def falls_back(folder: Path) -> int:
    if (folder / "number.json").exists() and careless(folder) == 7:
        return 7
    log.warning("%s is damaged: using the number before.", folder / "number.json")
    return 5


def falls_back_silently(folder: Path) -> int:
    return 7 if (folder / "number.json").exists() and careless(folder) == 7 else 5


def hangs(folder: Path) -> int:
    if careless(folder) != 7:
        raise TimeoutError  # as the alarm does
    return 7


def judged(tmp_path: Path, reader: Callable[[Path], Any], done: Damage = NUMBER, **options: Any) -> tuple[str, str]:
    folder = tmp_path / "world" / "files"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "number.json").write_text('{"n": 7}')
    kind = Kind("numbers", "files", ("*.json",), (reader,), **options)
    (result,) = judge_all(tmp_path / "world", [(kind, done, 0)])
    return result


def without(folder: Path) -> None:
    (folder / "number.json").unlink()


@pytest.mark.parametrize(
    ("reader", "options", "outcome"),
    [
        (careless, {}, "differs"),
        (careful, {}, "refused"),
        (vague, {}, "unnamed"),
        (hangs, {}, "hung"),
        (falls_back, {"without": without}, "fallback"),
        (falls_back_silently, {"without": without}, "differs"),
        (falls_back, {}, "differs"),  # a warning excuses no value but the older one
        (falls_back, {"editable": True}, "fallback"),
        (falls_back_silently, {"editable": True}, "differs"),
    ],
)
def test_judge_classifies_readers(tmp_path: Path, reader: Callable[[Path], Any], options: dict, outcome: str):
    found, message = judged(tmp_path, reader, **options)
    assert found == outcome, message


@pytest.mark.parametrize(
    ("done", "outcome"),
    [
        (Damage("number.json", "cut", 3), "traceback"),
        (Damage("number.json", "missing"), "traceback"),
        (Damage("number.json", "zeroed", 2), "traceback"),
        (Damage("number.json", "flipped", 8 * 5 + 3), "traceback"),  # the space turns into a bracket
    ],
)
def test_judge_reports_other_exceptions_as_tracebacks(tmp_path: Path, done: Damage, outcome: str):
    assert judged(tmp_path, careless, done)[0] == outcome
    assert (tmp_path / "world/files/number.json").read_text() == '{"n": 7}'  # only copies are damaged


def test_judge_recognises_an_unharmed_value(tmp_path: Path):
    assert judged(tmp_path, lambda folder: len((folder / "number.json").read_text()))[0] == "unharmed"


def test_judge_accepts_partial_values_only_if_allowed(tmp_path: Path):
    def letters(folder: Path) -> list[str]:
        return list((folder / "number.json").read_text())

    cut = Damage("number.json", "cut", 3)
    partial = {"partial": lambda found, truth: found == truth[: len(found)]}
    assert judged(tmp_path, letters, cut)[0] == "differs"
    assert judged(tmp_path, letters, cut, **partial)[0] == "differs"
    assert judged(tmp_path, letters, cut, **partial, silently=("cut",))[0] == "redone"
    assert judged(tmp_path, letters, **partial, silently=("cut",))[0] == "differs"


def test_unreadable_undamaged_files_stop_the_campaign(tmp_path: Path):
    def broken(folder: Path) -> int:
        raise InputError("no")

    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "number.json").write_text('{"n": 7}')
    (error,) = judge_all(tmp_path, [(Kind("numbers", "files", ("*",), (broken,)), NUMBER, 0)])
    assert isinstance(error, RuntimeError)
    assert "numbers: undamaged files can't be read: InputError: no" in str(error)


def test_damage_is_drawn_from_the_seed_within_the_files(tmp_path: Path):
    for name, size in (("a.json", 3), ("b/c.json", 5000), ("empty.json", 0)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bytes(size))
    kind = Kind("numbers", "", ("**/*.json",), (careless,))

    def drawn(seed: int) -> list[Damage]:
        return draw_damages(kind, tmp_path, np.random.default_rng(seed), flips=40, others=3)

    damages = drawn(0)
    assert damages == drawn(0) != drawn(1)
    assert [sum(each.how == how for each in damages) for how in ("flipped", "cut", "zeroed", "missing")] == [40, 3, 3, 3]
    flips = [each for each in damages if each.how == "flipped"]
    assert {each.path for each in flips} == {"a.json", "b/c.json"}
    assert all(each.offset < 8 * {"a.json": 3, "b/c.json": 5000}[each.path] for each in flips)
    content = (tmp_path / "b/c.json").read_bytes()
    Damage("b/c.json", "flipped", 8 * 77 + 5).apply(tmp_path)
    changed = (tmp_path / "b/c.json").read_bytes()
    assert [i for i in range(5000) if content[i] != changed[i]] == [77]
    assert content[77] ^ changed[77] == 1 << 5


def test_differences_name_the_path():
    assert differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}) == ["/a/c: 2 for 3"]
    assert differences({"a": 1}, {}) == ["/a: 1 for None"]
    assert differences([1], [1]) == []


GOOD = [Trial("Kills", "SIGKILL in training", "resumed"), Trial("Bit flips", "records", "refused", "named")]


def test_table_counts_by_row_and_section():
    bad = [Trial("Bit flips", "records", "differs", "byte 3"), Trial("Bit flips", "labels", "traceback", "KeyError")]
    rows = table.summarize([*GOOD, *bad])
    assert table.draw_table(rows).splitlines()[2:] == [
        "| **Kills** | **1** | **1** | **0** | **0** |",
        "| SIGKILL in training | 1 | 1 | 0 | 0 |",
        "| **Bit flips** | **3** | **1** | **1** | **1** |",
        "| records | 2 | 1 | 0 | 1 |",
        "| labels | 1 | 0 | 1 | 0 |",
    ]
    assert [row["faults"] for row in rows] == [[], ["differs: byte 3"], ["traceback: KeyError"]]


@pytest.mark.parametrize("outcome", VERDICTS)
def test_exit_code_is_that_of_the_worst_outcome(outcome: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def section(campaign: Any) -> Iterator[Trial]:
        yield from GOOD
        yield Trial("Bit flips", "records", outcome, "here")

    class Empty:
        def __init__(self, folder: Path, given: argparse.Namespace):
            self.notes: list[str] = ["A note."]

        def stop(self) -> bool:
            return False

    monkeypatch.setattr(endurance, "begin", Empty)
    monkeypatch.setattr(endurance, "SECTIONS", {"flips": section})
    output = tmp_path / "new" / "results.json"
    assert endurance.main([f"--output={output}"]) == (VERDICTS[outcome] != table.SURVIVED)
    content = table.read_record(output)
    assert content["machine"]["cores"]
    assert sum(row["tried"] for row in content["rows"]) == 3
    document = tmp_path / "page.md"
    document.write_text(f"# Reliability\n\n{table.BEGIN}\nold\n{table.END}\n\n## More\n")
    assert endurance.main(["--page", str(output), f"--document={document}"]) == 0
    text = document.read_text()
    assert text.startswith("# Reliability\n")
    assert text.endswith("\n## More\n")
    assert "old" not in text
    assert table.draw_table(content["rows"]) in text
    assert content["date"] in text
    assert "A note." in text


def test_exit_code_without_trials_is_a_failure():
    assert table.exit_code([]) == 1


def test_documented_page_matches_the_results():
    written = table.DOCUMENT.read_text().partition(table.BEGIN)[2].partition(table.END)[0]
    assert written.strip() == table.render(sorted(table.RESULTS.glob("*.json")))


@pytest.mark.parametrize("content", ["", "[]", '{"format": 99, "rows": []}'])
def test_file_without_results_is_rejected(tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "x.json").write_text(content)
    document = tmp_path / "page.md"
    document.write_text(f"{table.BEGIN}\nold\n{table.END}\n")
    assert endurance.main(["--page", str(tmp_path / "x.json"), f"--document={document}"]) == 1
    assert "x.json is not a results file" in capsys.readouterr().err
    assert "old" in document.read_text()


def test_unknown_section_is_rejected(capsys: pytest.CaptureFixture[str]):
    assert endurance.main(["--only=kills,flipz"]) == 1
    assert "no section flipz; choose from flips, growth, kills" in capsys.readouterr().err


@pytest.mark.slow
def test_kills_of_a_real_run(tmp_path: Path):
    output = tmp_path / "results.json"
    command = [sys.executable, "benchmarks/endurance.py", "--only=kills", "--kills=4", f"--output={output}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {row["section"] for row in table.read_record(output)["rows"]} == {"Kills"}
