"""Accuracies, and the two files that a test leaves behind."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from timesformer_jax._typing import Int, ndarray
from timesformer_jax.errors import InputError
from timesformer_jax.evaluation.multi_view import Predictions


def accuracies(predictions: Predictions, top: Sequence[int] = (1, 5)) -> dict[str, float]:
    """`top1`, `top5`: share of the videos of which a label is among the best k of `best_labels`.

    Where videos have any number of labels, `map` too: the mean over classes of the average precision.

    Raises `InputError` for scores that are no numbers: a model that has diverged has no accuracy.
    """
    if not np.isfinite(predictions.scores).all():
        raise InputError("The model's scores are not finite: its parameters have diverged. Test an earlier checkpoint.")
    best, labels = best_labels(predictions.scores, max(top)), predictions.labels
    hits = best == labels[:, None] if labels.ndim == 1 else np.take_along_axis(labels, best, axis=1) > 0
    found = {f"top{k}": float(hits[:, :k].any(axis=1).mean()) for k in top}
    return found if labels.ndim == 1 else {**found, "map": _mean_average_precision(labels, predictions.scores)}


def _mean_average_precision(labels: np.ndarray, scores: np.ndarray) -> float:
    """Over the classes that some video has."""
    from sklearn.metrics import average_precision_score

    seen = np.flatnonzero(labels.any(axis=0))
    return float(np.mean([average_precision_score(labels[:, i], scores[:, i]) for i in seen])) if len(seen) else 0.0


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
            "best": [[label_names[i], round(float(row[i]), 6)] for i in indices],
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


def write_results(workdir: str, results: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Writes `results.json` and `predictions.jsonl` (one line a video), each whole or not at all."""
    _write(epath.Path(workdir) / "results.json", json.dumps(results, indent=2) + "\n")
    _write(epath.Path(workdir) / "predictions.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _write(path: epath.Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.replace(path)
