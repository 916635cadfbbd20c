"""The paper in miniature: complete tables, computed verdicts, and a page that matches its results."""

import dataclasses
import importlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks import paper_in_miniature
from benchmarks.miniature import running
from benchmarks.miniature.code import digest_of
from benchmarks.miniature.costs import PAPER, SCHEMES, points, read_costs
from benchmarks.miniature.experiments import (
    CLIPS_ROW,
    TASKS,
    Claim,
    Experiment,
    Row,
    Size,
    all_cells,
    cell_of,
    experiments,
    image_cell,
)
from benchmarks.miniature.findings import Measured, Table, difference, judge
from benchmarks.miniature.page import render
from benchmarks.miniature.running import code_of, fields_of, is_current, read_result, recipe_of, run_cell, run_cells, workdir_of
from benchmarks.miniature.sizes import SIZES
from tests.runs import config_of
from timesformer_jax import InputError

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
MINIATURE = SIZES["miniature"]


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_every_training_is_a_config_of_the_project(size: Size):
    cells = all_cells(size)
    assert len({cell.name for cell in cells}) == len(cells)
    for cell in cells:
        file, fields = fields_of(cell, size)
        name, _, variant = file.removeprefix("configs/").partition(":")
        config = config_of(name.removesuffix(".py"), variant or None, **fields)
        original = importlib.import_module(f"configs.{name.removesuffix('.py')}").get_config(*([variant] if variant else []))
        assert config.seed == cell.seed
        for field, _ in cell.changes:
            assert field in ("config", "variant") or changed(config, field) != changed(original, field), cell.name


def changed(config: Any, field: str) -> Any:
    for part in field.split("."):
        config = config[part]
    return config


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_every_claim_refers_to_existing_rows(size: Size):
    full = dataclasses.replace(size, only=None)
    for name, experiment in experiments(full).items():
        rows = set(map(str, size.clip_counts)) if name == "clips" else set(experiment.rows)
        assert experiment.claims
        for task, better, worse in experiment.claims:
            assert task in experiment.tasks
            assert {better, worse} <= rows, name
    for scheme in SCHEMES:
        if size.cost_model == "timesformer-base":
            assert set(points(size)) <= set(PAPER[scheme])
    for name in experiments(size):
        assert name in experiments(full)


def test_workdir_belongs_to_one_training():
    """Another evaluation of the same training finds its checkpoint; another training, even just a longer schedule, doesn't."""
    full = SIZES["full"]
    clips, unchanged = cell_of("temporal", full.clips, 0), cell_of("temporal", {}, 0)
    folder = Path("runs")
    assert clips.name != unchanged.name
    assert workdir_of(clips, full, folder) == workdir_of(unchanged, full, folder)
    longer = dataclasses.replace(full, common={"train.num_epochs": 30.0})
    assert workdir_of(unchanged, longer, folder) != workdir_of(unchanged, full, folder)
    for size in SIZES.values():
        trained = {
            (cell.task, tuple(c for c in cell.changes if not c[0].startswith("eval.")), cell.seed) for cell in all_cells(size)
        }
        assert len({workdir_of(cell, size, folder) for cell in all_cells(size)}) == len(trained)


def test_image_model_is_trained_before_runs_that_start_from_it():
    cells = all_cells(MINIATURE)
    first = next(number for number, cell in enumerate(cells) if cell.needs_image_model)
    assert cells.index(image_cell(MINIATURE, 0)) < first


def experiment(*claims: Claim) -> Experiment:
    rows = {"a": Row({}), "b": Row({})}
    return Experiment(title="", found="", rows=rows, claims=claims, first_column="")


def measured(a: list[float], b: list[float]) -> Table:
    rows = (("a", a), ("b", b))
    return {(row, task): Measured(dict(enumerate(values)), 1000) for task in TASKS for row, values in rows}


@pytest.mark.parametrize(
    ("a", "words", "reason"),
    [
        ([81.0, 72.0, 93.0], "holds", "a is 2.0 points above b in which sign (95 % interval -0.5 to 4.5)"),
        ([81.0, 71.5, 91.5], "holds", "a is 1.3 points above b in which sign (95 % interval 0.6 to 2.1)"),
        ([79.0, 68.5, 88.5], "does not hold", "a is 1.3 points below b in which sign (95 % interval -2.1 to -0.6)"),
    ],
)
def test_claim_is_decided_by_the_interval_of_the_paired_difference(a: list[float], words: str, reason: str):
    """However much the rows vary between seeds, only the differences between rows of one seed count."""
    judged = judge(experiment(Claim("spatial", "a", "b")), measured(a, [80.0, 70.0, 90.0]), MINIATURE.words)
    expected = "is inconclusive" if "-0.5 to 4.5" in reason else words
    assert judged.words == expected
    assert reason in judged.text


def test_difference_is_paired_by_seed():
    """Seeds that only one row has don't count; one seed has no interval."""
    found = difference(Measured({0: 80.0, 1: 70.0, 2: 1.0}, 10), Measured({1: 69.0, 0: 78.0, 7: 99.0}, 10))
    assert found is not None
    assert (found.mean, found.num_seeds) == (1.5, 2)
    assert found.high - found.mean == pytest.approx(12.7062 * 0.5, rel=1e-4)  # t of one degree of freedom
    one = difference(Measured({0: 80.0}, 10), Measured({0: 70.0}, 10))
    assert one == (10.0, -math.inf, math.inf, 1)
    assert difference(Measured({0: 80.0}, 10), Measured({1: 70.0}, 10)) is None


def test_claims_may_hold_in_part_or_be_untested():
    both = experiment(Claim("spatial", "a", "b"), Claim("temporal", "b", "a"))
    table = measured([90.0, 91.0], [80.0, 81.0])
    judged = judge(both, table, MINIATURE.words)
    assert judged.words == "holds in part"
    holds, broken = judged.reasons
    assert holds.startswith("Holds: a is 10.0 points above b in which sign (")
    assert broken.startswith("Does not hold: b is 10.0 points below a in which motion (")
    assert judge(both, {}, MINIATURE.words).text == "At this size the finding **was not tested**."
    assert judge(both, measured([90.0], [80.0]), MINIATURE.words).words == "is inconclusive"


def test_result_with_other_fields_is_ignored(tmp_path: Path):
    cell = all_cells(MINIATURE)[0]
    assert read_result(cell, MINIATURE, tmp_path) is None
    path = tmp_path / f"{cell.name}.json"
    result = result_of(cell)
    path.write_text(json.dumps(result))
    assert read_result(cell, MINIATURE, tmp_path) is not None
    path.write_text(json.dumps({**result, "recipe": "of a config file that has changed since"}))
    assert read_result(cell, MINIATURE, tmp_path) is None
    path.write_text(json.dumps(result))
    longer = dataclasses.replace(MINIATURE, common={**MINIATURE.common, "train.num_epochs": 5.0})
    assert read_result(cell, longer, tmp_path) is None
    path.write_text("half of it")
    with pytest.raises(InputError, match=r"is not valid JSON .*: delete it and repeat the command"):
        read_result(cell, MINIATURE, tmp_path)


def result_of(cell: Any, **figures: Any) -> dict[str, Any]:
    """Content of a results file."""
    config, fields = fields_of(cell, MINIATURE)
    digests = {"recipe": recipe_of(cell, MINIATURE), "code": code_of(cell)}
    return {"config": config, "fields": fields, "seed": cell.seed, "results": figures, **digests}


def test_code_of_other_architectures_does_not_invalidate_a_result():
    cells = all_cells(MINIATURE)
    codes = {"variant" in dict(cell.changes): code_of(cell) for cell in cells}
    assert codes == {False: digest_of(False), True: digest_of(True)}
    assert len(set(codes.values())) == 2


def test_finished_runs_are_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Except an image model whose checkpoint is gone, if another run still has to start from it."""
    ran = []

    def run(cells: Any, size: Size, *, results: Path, **options: Any) -> None:
        for cell in cells:
            ran.append(cell)
            (results / f"{cell.name}.json").write_text(json.dumps(result_of(cell, top1=0.5, step=7)))

    monkeypatch.setattr(running, "run_groups", run)
    said: list[str] = []
    folders: Mapping[str, Any] = {"results": tmp_path, "workdirs": tmp_path, "places": {}, "say": said.append}
    cells = all_cells(MINIATURE)
    assert run_cells(MINIATURE, **folders) == len(cells)
    assert run_cells(MINIATURE, **folders) == 0
    assert ran == cells
    image, begins = image_cell(MINIATURE, 0), next(cell for cell in cells if cell.needs_image_model)
    for lost, again in ((cells[3], [cells[3]]), (begins, [image, begins])):
        ran.clear()
        (tmp_path / f"{lost.name}.json").unlink()
        run_cells(MINIATURE, **folders)
        assert ran == again
    for step, again in (("3", [image, begins]), ("7", [begins])):
        (workdir_of(image, MINIATURE, tmp_path) / "checkpoints" / step).mkdir(parents=True)
        ran.clear()
        (tmp_path / f"{begins.name}.json").unlink()
        run_cells(MINIATURE, **folders)
        assert ran == again
    monkeypatch.setattr(running, "digest_of", lambda convolutional: "changed" if convolutional else digest_of(False))
    ran.clear()
    run_cells(MINIATURE, **folders)
    assert ran == [cell for cell in cells if "variant" in dict(cell.changes)]
    assert f"{len(ran)} are run again because the code has changed" in said[-1]


def test_failed_run_reports_the_end_of_its_log(tmp_path: Path):
    size = dataclasses.replace(SIZES["quick"], configs=dict.fromkeys(TASKS, "configs/nowhere.py"))
    with pytest.raises(InputError, match=r"(?s)ended with exit code 1; its log, .*there is no config file configs/nowhere"):
        run_cell(cell_of("spatial", {}, 0), size, results=tmp_path / "results", workdirs=tmp_path, places={})
    assert not list((tmp_path / "results").iterdir())


def test_full_size_requires_its_data(capsys: pytest.CaptureFixture[str]):
    assert paper_in_miniature.main(["--full", "--k400=somewhere"]) == 1
    assert "give --ssv2=FOLDER" in capsys.readouterr().err


def test_page_matches_its_results():
    """Text must match exactly, plots to a hundredth of a point, since processors differ."""
    text, plots = render(MINIATURE, DOCS / "paper_in_miniature", "paper_in_miniature")
    assert (DOCS / "paper_in_miniature.md").read_text() == text
    drawn = {path.name: path.read_text() for path in (DOCS / "paper_in_miniature").glob("*.svg")}
    assert drawn.keys() == plots.keys()
    for name, svg in plots.items():
        assert words_of(drawn[name]) == words_of(svg), name
        assert numbers_of(drawn[name]) == pytest.approx(numbers_of(svg), abs=0.01), name


NUMBER = r"-?\d+(?:\.\d+)?(?:e-?\d+)?"


def numbers_of(svg: str) -> list[float]:
    return [float(number) for number in re.findall(NUMBER, without_names(svg))]


def words_of(svg: str) -> str:
    return re.sub(NUMBER, "0", without_names(svg))


def without_names(svg: str) -> str:
    """Remove the names that matplotlib derives from digests of coordinates."""
    return re.sub(r'(id="|#)\w+', r"\1", svg)


def all_finished(size: Size) -> str:
    """Text of a page on which nothing is missing."""
    cells = len(all_cells(size))
    return f"{cells} of {cells} trainings and the costs, "


def test_every_training_of_the_page_is_finished():
    """With the same versions of everything, and from committed code."""
    results = DOCS / "paper_in_miniature"
    found = [read_result(cell, MINIATURE, results) for cell in all_cells(MINIATURE)]
    assert None not in found
    assert all_finished(MINIATURE) in (DOCS / "paper_in_miniature.md").read_text()
    assert len({json.dumps(result["versions"]) for result in found if result}) == 1
    assert len({(result["code"], "," in result["config"]) for result in found if result}) == 2
    assert not any(result["commit"].endswith("+") for result in found if result)
    assert read_costs(MINIATURE, results) is not None
    assert {path.stem for path in results.glob("*.json")} == {cell.name for cell in all_cells(MINIATURE)} | {"cost"}


def test_unfinished_results_are_of_the_present_code():
    """A change of the code makes them useless: delete them."""
    current = {cell.name for cell in all_cells(MINIATURE) if is_current(cell, MINIATURE, paper_in_miniature.UNFINISHED)}
    for path in paper_in_miniature.UNFINISHED.glob("*.json"):
        assert path.stem in current, path
        assert not json.loads(path.read_text())["commit"].endswith("+"), path


def test_page_is_replaced_only_when_all_trainings_are_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Results of the page and of another machine are reused, and an interrupted command publishes nothing."""
    published, results = tmp_path / "docs" / "paper_in_miniature", tmp_path / "runs" / "paper_in_miniature" / "results"
    published.mkdir(parents=True)
    (published / "outdated.json").write_text("{}")
    first, second, *others = all_cells(MINIATURE)
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    for folder, cell in ((published, first), (unfinished, second)):
        (folder / f"{cell.name}.json").write_text(json.dumps(result_of(cell, top1=0.5)))
    monkeypatch.setattr(paper_in_miniature, "UNFINISHED", unfinished)
    ran: list[Any] = []

    def run(cells: Any, size: Size, *, results: Path, **options: Any) -> None:
        for cell in cells:
            ran.append(cell)
            (results / f"{cell.name}.json").write_text(json.dumps(result_of(cell, top1=0.5)))
            if len(ran) == 3:
                raise KeyboardInterrupt

    monkeypatch.setattr(running, "run_groups", run)
    monkeypatch.setattr(paper_in_miniature, "DOCS", tmp_path / "docs")
    monkeypatch.setattr(paper_in_miniature, "ROOT", tmp_path)
    monkeypatch.setattr(paper_in_miniature, "write_page", lambda size, results: results)
    monkeypatch.setattr(paper_in_miniature, "read_costs", lambda size, results: None)
    monkeypatch.setattr(paper_in_miniature, "count_costs", lambda size, results: (results / "cost.json").write_text("{}"))
    assert paper_in_miniature.main([]) == 130
    assert {path.name for path in published.glob("*.json")} == {"outdated.json", f"{first.name}.json"}
    assert paper_in_miniature.main([]) == 0
    assert [cell for cell in ran if not cell.needs_image_model and not cell_is_image(cell)] == [
        cell for cell in others if not cell.needs_image_model and not cell_is_image(cell)
    ]
    expected = {f"{cell.name}.json" for cell in all_cells(MINIATURE)} | {"cost.json"}
    assert {path.name for path in published.glob("*.json")} == expected
    assert {path.name for path in results.glob("*.json")} >= {f"{first.name}.json", f"{second.name}.json"}
    assert not unfinished.exists()


def cell_is_image(cell: Any) -> bool:
    return cell.changes == image_cell(MINIATURE, 0).changes


@pytest.mark.slow
def test_quick_run_covers_every_experiment(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Runs every kind of experiment; repeating the command trains nothing and draws the same page."""
    arguments = ["--quick", f"--folder={tmp_path}"]
    assert paper_in_miniature.main(arguments) == 0
    page = (tmp_path / "results.md").read_text()
    cells = all_cells(SIZES["quick"])
    assert all_finished(SIZES["quick"]) in page
    assert page.count("At this size the finding") == 6
    assert CLIPS_ROW not in page
    assert f"0 of {len(cells)} trainings are finished." in capsys.readouterr().out
    for target in re.findall(r"\]\(([^)]+)\)", page):
        assert (tmp_path / target).read_text().startswith("<svg")
    assert paper_in_miniature.main(arguments) == 0
    assert f"{len(cells)} of {len(cells)} trainings are finished.\n0 trainings in" in capsys.readouterr().out
    assert (tmp_path / "results.md").read_text() == page
