"""The report on an evaluation and its training."""

import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from experiment.report import compare_with_validation
from experiment.report_videos import ReportVideos, num_windows
from input_pipeline import ClipOptions
from timesformer_jax import InputError

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
