"""The paper in miniature: complete tables, computed verdicts, and a page that matches its results."""

import dataclasses
import importlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks import paper_in_miniature
from benchmarks.miniature import running
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
from benchmarks.miniature.findings import Measured, Table, chance, judge, seed_variances
from benchmarks.miniature.page import render
from benchmarks.miniature.running import fields_of, read_result, run_cell, run_cells, workdir_of
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
            assert field == "config" or changed(config, field) != changed(original, field), cell.name


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
        for task, better, worse, _ in experiment.claims:
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


def measured(a: float, b: float, num_videos: int = 1000) -> Table:
    return {(row, task): Measured((value,), num_videos) for task in TASKS for row, value in (("a", a), ("b", b))}


@pytest.mark.parametrize(
    ("a", "b", "strictly", "words"),
    [
        (90.0, 80.0, True, "holds"),
        (80.0, 90.0, True, "does not hold"),
        (80.5, 80.0, True, "is undecided"),  # no more than chance
        (79.5, 80.0, False, "is undecided"),  # not below by more than chance
        (90.0, 80.0, False, "holds"),
        (70.0, 80.0, False, "does not hold"),
    ],
)
def test_claim_holds_only_beyond_chance(a: float, b: float, strictly: bool, words: str):
    judged = judge(experiment(Claim("spatial", "a", "b", strictly)), measured(a, b), dict.fromkeys(TASKS, 0.0), MINIATURE.words)
    assert judged.words == words
    reason = f"a is {abs(a - b):.1f} points {'above' if a > b else 'below'} b in which digit"
    assert (reason if strictly or words == "does not hold" else "in 1 comparison the paper's better row") in judged.sentence


def test_claims_may_hold_in_part_or_be_untested():
    both = experiment(Claim("spatial", "a", "b"), Claim("temporal", "b", "a"), Claim("temporal", "a", "b", strictly=False))
    judged = judge(both, measured(90.0, 80.0), dict.fromkeys(TASKS, 0.0), MINIATURE.words)
    assert judged.words == "holds in part"
    assert "; in 1 other comparison the paper's better row is not worse by more than chance; but" in judged.sentence
    assert re.search(
        r"a is 10.0 points above b in which digit.*; but b is 10.0 points below a in which motion", judged.sentence
    )
    nothing_seen = experiment(Claim("spatial", "a", "b"), Claim("temporal", "a", "b", strictly=False))
    assert judge(nothing_seen, measured(80.1, 80.0), dict.fromkeys(TASKS, 0.0), MINIATURE.words).words == "is undecided"
    assert judge(both, {}, dict.fromkeys(TASKS, 0.0), MINIATURE.words).words == "was not tested"


def test_chance_covers_seeds_and_videos(tmp_path: Path):
    """A row with one seed is assumed to vary like the unchanged model."""
    one, three = Measured((80.0,), 1000), Measured((89.0, 90.0, 91.0), 500)
    assert chance(one, three, 4.0) == pytest.approx(2 * (4 + 1e4 * 0.8 * 0.2 / 1000 + 1 / 3 + 1e4 * 0.9 * 0.1 / 500) ** 0.5)
    assert seed_variances(MINIATURE, tmp_path) == {"spatial": 0.0, "temporal": 0.0}
    for seed, top1 in enumerate((0.8, 0.82, 0.84)):
        cell = cell_of("spatial", {}, seed)
        config, fields = fields_of(cell, MINIATURE)
        result = {"config": config, "fields": fields, "results": {"top1": top1}}
        (tmp_path / f"{cell.name}.json").write_text(json.dumps(result))
    assert seed_variances(MINIATURE, tmp_path) == {"spatial": pytest.approx(4.0), "temporal": 0.0}


def test_result_with_other_fields_is_ignored(tmp_path: Path):
    cell = all_cells(MINIATURE)[0]
    assert read_result(cell, MINIATURE, tmp_path) is None
    config, fields = fields_of(cell, MINIATURE)
    path = tmp_path / f"{cell.name}.json"
    path.write_text(json.dumps({"config": config, "fields": fields}))
    assert read_result(cell, MINIATURE, tmp_path) is not None
    longer = dataclasses.replace(MINIATURE, common={**MINIATURE.common, "train.num_epochs": 4.0})
    assert read_result(cell, longer, tmp_path) is None
    path.write_text("half of it")
    with pytest.raises(InputError, match=r"is not valid JSON .*: delete it and repeat the command"):
        read_result(cell, MINIATURE, tmp_path)


def test_finished_runs_are_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Except an image model whose checkpoint is gone, if another run still has to start from it."""
    ran = []

    def run(cell: Any, size: Size, *, results: Path, workdirs: Path, places: Any) -> dict[str, Any]:
        ran.append(cell)
        config, fields = fields_of(cell, size)
        result = {"config": config, "fields": fields, "results": {"top1": 0.5, "step": 7}}
        (results / f"{cell.name}.json").write_text(json.dumps(result))
        return result

    monkeypatch.setattr(running, "run_cell", run)
    folders: Mapping[str, Any] = {"results": tmp_path, "workdirs": tmp_path, "places": {}, "say": lambda line: None}
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
    assert not any(result["commit"].endswith("+") for result in found if result)
    assert read_costs(MINIATURE, results) is not None
    assert {path.stem for path in results.glob("*.json")} == {cell.name for cell in all_cells(MINIATURE)} | {"cost"}


@pytest.mark.slow
def test_quick_run_covers_every_experiment(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Runs every kind of experiment; repeating the command trains nothing and draws the same page."""
    arguments = ["--quick", f"--folder={tmp_path}"]
    assert paper_in_miniature.main(arguments) == 0
    page = (tmp_path / "results.md").read_text()
    cells = all_cells(SIZES["quick"])
    assert all_finished(SIZES["quick"]) in page
    assert page.count("At this size the finding") == 5
    assert CLIPS_ROW not in page
    assert f"0 of {len(cells)} trainings are finished." in capsys.readouterr().out
    for target in re.findall(r"\]\(([^)]+)\)", page):
        assert (tmp_path / target).read_text().startswith("<svg")
    assert paper_in_miniature.main(arguments) == 0
    assert f"{len(cells)} of {len(cells)} trainings are finished.\n0 trainings in" in capsys.readouterr().out
    assert (tmp_path / "results.md").read_text() == page
