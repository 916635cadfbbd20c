"""What a test leaves behind: its figures, and three files."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from timesformer_jax._typing import Int, ndarray
from timesformer_jax.atomic_write import write_whole
from timesformer_jax.evaluation.clip_scores import ClipScores, Predictions
from timesformer_jax.evaluation.metrics import intervals, measure
from timesformer_jax.printable import printable, to_json

DIGITS = 6
"""That figures and scores are rounded to: batches of another size change the ones behind."""

FEWER_DIGITS = {"calibration_error": 4}
"""Of figures that move with every score, not only where an answer changes; the same for any batch size that way."""


def figures(scores: ClipScores, average: str, subsets: Mapping[int, Sequence[int]] | None = None) -> dict[str, Any]:
    """All of `measure` by `average`; `intervals`, None where there is none; `by_average`: the same by each; `by_num_clips`:
    `top1` and `top5` of each of the `subsets` of clips, number of clips -> their numbers in each video."""
    by_average = {name: measure(scores.predictions(name)) for name in scores.averages}
    found = {
        **by_average[average],
        "intervals": {name: ends and list(ends) for name, ends in intervals(scores.predictions(average)).items()},
        "by_average": by_average,
    }
    if subsets:
        of_clips = {count: scores.predictions(average, clips) for count, clips in subsets.items()}
        found["by_num_clips"] = {str(count): measure(each, ("top1", "top5")) for count, each in of_clips.items()}
    return _rounded(found)


def _rounded(value: Any, digits: int = DIGITS) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(each, FEWER_DIGITS.get(name, digits)) for name, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each, digits) for each in value]
    return None if value is None else round(value, digits)


def best_labels(scores: np.ndarray, count: int = 5) -> Int[ndarray, "videos count"]:
    """Indices of the best `count` classes of each row, best first; of equal ones the first class."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :count]


def prediction_rows(
    predictions: Predictions, label_names: Sequence[str], unreadable: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    """One JSON object a video: `video`, `label` (or `labels`), `best` (the best five labels with their scores) and `views`, how
    many were averaged; of each `unreadable` one `video` and `error`, the reason."""
    best = best_labels(predictions.scores)
    return [
        {
            "video": name,
            **_named(label, label_names),
            "best": [[label_names[i], round(float(row[i]), DIGITS)] for i in indices],
            "views": int(views),
        }
        for name, label, row, views, indices in zip(
            predictions.names, predictions.labels, predictions.scores, predictions.num_views, best, strict=True
        )
    ] + [{"video": name, "error": reason} for name, reason in (unreadable or {}).items()]


def _named(label: Any, label_names: Sequence[str]) -> dict[str, Any]:
    if np.ndim(label) == 0:
        return {"label": label_names[int(label)]}
    return {"labels": [label_names[int(i)] for i in np.flatnonzero(label)]}


def write_results(
    workdir: str,
    results: dict[str, Any],
    rows: list[dict[str, Any]],
    confusion: tuple[np.ndarray, Sequence[str]] | None = None,
) -> None:
    """Writes `predictions.jsonl` (one line a video), `confusion.csv` (of the matrix and the label names, where they are given:
    a line for each true label, a column for each that was said) and, last, `results.json`; each whole or not at all."""
    folder = epath.Path(workdir)
    write_whole(folder / "predictions.jsonl", "".join(to_json(row) + "\n" for row in rows))
    if confusion is None:
        (folder / "confusion.csv").unlink(missing_ok=True)
    else:
        write_whole(folder / "confusion.csv", _confusion_csv(*confusion))
    write_whole(folder / "results.json", json.dumps(results, indent=2) + "\n")


def _confusion_csv(matrix: np.ndarray, label_names: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [printable(name) for name in label_names]
    writer.writerow(["label", *names])
    writer.writerows([name, *row] for name, row in zip(names, matrix.tolist(), strict=True))
    return text.getvalue()
