"""The report on an evaluation and its training."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import main
from experiment.report import compare_with_validation
from experiment.report_videos import ReportVideos, num_windows
from input_pipeline import ClipOptions
from tests.runs import predictions, results, small_folder
from timesformer_jax import InputError, evaluation
from timesformer_jax.state_files import sealed

RESULTS = {"split": "val", "step": 20, "top1": 0.875, "num_clips": 5, "num_crops": 3}


ONE_VIEW = {"num_clips": 1, "num_crops": 1}


def curves(*values: float) -> dict:
    return {"top-1": {"validation": ([10 * (i + 1) for i in range(len(values))], list(values))}}


@pytest.mark.parametrize(
    ("validation", "changes", "words"),
    [
        (
            curves(0.5, 0.75),
            {},
            "75.0 % at step 20, in the test it is 87.5 %: validation looks at .* at 5 clip.s. x 3 crop.s.",
        ),
        (
            curves(0.9, 0.875),
            {},
            r"87.5 % at step 20 \(90.0 % at its best\), in the test it is 87.5 %: the best validation is that of another "
            "checkpoint, of step 10, and the test is of step 20",
        ),
        (curves(0.9, 0.75), {}, "validation looks at .* and the best validation is that of another checkpoint, of step 10"),
        (curves(0.9), {}, "90.0 % at step 10, in the test it is 87.5 %: validation .* of step 10, and the test is of step 20"),
        (
            curves(0.9),
            ONE_VIEW,
            "87.5 %: the best validation is that of another checkpoint, of step 10",
        ),
        (curves(0.5, 0.75), ONE_VIEW, "75.0 % .* 87.5 %: the test was run with other settings"),
        (curves(0.5, 0.8751), {}, "^$"),
        (curves(0.5, 0.75), {"split": "train"}, "^$"),
        ({}, {}, "^$"),
    ],
)
def test_report_explains_why_validation_and_test_differ(validation: dict, changes: dict, words: str):
    """One sentence with both numbers; none if they agree or can't be compared."""
    sentence = compare_with_validation({**RESULTS, **changes}, validation)
    assert re.search(words, sentence), sentence
    assert sentence.count(". ") == 0


def test_report_of_other_data_names_a_video():
    """Such as those of another fold."""
    facts = {"name": np.array(["a.mp4", "b.mp4", "a.mp4"])}
    data = SimpleNamespace(clips=ClipOptions(), dataset=SimpleNamespace(facts=lambda split, name: facts[name]))
    run: Any = SimpleNamespace(data=data)
    videos = ReportVideos(run, {}, "val", run)
    assert videos.find(["a.mp4"]) == {"a.mp4": [0, 2]}
    with pytest.raises(InputError, match=r"1 evaluated video\(s\), such as c\.mp4, are not in the data set of this config"):
        videos.find(["a.mp4", "c.mp4"])


@pytest.mark.parametrize(("seconds", "windows"), [(0.1, 1), (8.0, 1), (11.9, 1), (12.1, 2), (80.0, 10)])
def test_timeline_has_a_window_per_clip_of_the_video(seconds: float, windows: int):
    assert num_windows(seconds, 8.0) == windows


def test_report_of_an_evaluation(trained: Path, tmp_path: Path, made_clips: Path, data_dir: str):
    """It shows every evaluated video with its label, predictions and map, the settings of training, and another run."""
    main.run(small_folder(made_clips, data_dir, **{"eval.num_clips": 2}), str(trained), "eval")
    shutil.copytree(trained, tmp_path / "other")
    main.run(small_folder(made_clips, data_dir, **{"report.compare": str(tmp_path / "other")}), str(trained), "report")
    page = (trained / "report.html").read_text()
    examples = re.findall(r'<article class="example.*?</article>', page, re.DOTALL)
    assert len(examples) == len(predictions(trained)) == 3
    for name, row in predictions(trained).items():
        (example,) = [each for each in examples if f'<p class="file">{name}</p>' in each]
        assert row["label"] in re.search("<h3>.*</h3>", example)[0]
        assert re.search(r'<span class="name">(.*?)<', example)[1] == row["best"][0][0]
        assert (f"taken for {row['best'][0][0]}" in example) == (row["label"] != row["best"][0][0])
        assert 'class="maps" src="data:image/png;base64,' in example
        area = [float(value) for value in re.search('data-area="(.*?)"', example)[1].split()]
        assert area == pytest.approx([0, 5 / 42, 1, 32 / 42])  # the middle square of 48 x 64 pixels, scaled to 32 x 42
    found = results(trained)
    assert re.search(rf"{100 * found['top1']:.2f} %\s+<small>\({100 * found['intervals']['top1'][0]:.2f} to", page)
    assert "Accuracy by number of clips" in page
    assert re.search(r">optimizer\.name</th><td>adamw</td>", page)
    assert "±0.0 percentage points" in page
    assert 'src="http' not in page
    assert 'href="http' not in page


@pytest.mark.parametrize(("field", "value"), [("num_videos", -1), ("num_points", 0)])
def test_report_options_are_checked_first(trained: Path, tmp_path: Path, field: str, value: int):
    with pytest.raises(InputError, match=f"--config.report.{field} must be at least {value + 1}, got {value}"):
        main.run(small_folder(Path("/no/such/folder"), str(tmp_path), **{f"report.{field}": value}), str(trained), "report")


def test_report_checks_what_it_compares_with_first(trained: Path, tmp_path: Path):
    config = small_folder(Path("/no/such/folder"), str(tmp_path), **{"report.compare": str(tmp_path / "none")})
    with pytest.raises(InputError, match=r"There are no evaluation results in .*none"):
        main.run(config, str(trained), "report")
    (tmp_path / "other").mkdir()
    rows = [*predictions(trained).values()][1:]
    evaluation.write_results(str(tmp_path / "other"), results(trained), rows)
    config.report.compare = str(tmp_path / "other")
    with pytest.raises(InputError, match=r"have evaluated different videos \(3 and 2, of which 2 are the same"):
        main.run(config, str(trained), "report")


def test_report_needs_an_evaluation_with_its_checkpoint(trained: Path, tmp_path: Path, made_clips: Path, data_dir: str):
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / "results.json").write_text(json.dumps(sealed({**results(trained), "step": 7})))
    with pytest.raises(InputError, match=r"results.json is of step 7, whose checkpoint isn't kept any more .there are \d+"):
        main.run(small_folder(made_clips, data_dir), str(tmp_path / "run"), "report")
    (tmp_path / "run" / "results.json").unlink()
    with pytest.raises(InputError, match=r"There are no evaluation results in .*run: evaluate the run"):
        main.run(small_folder(made_clips, data_dir), str(tmp_path / "run"), "report")
