"""Metrics of an evaluation, and the three files that it writes."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from timesformer_jax._typing import Int, ndarray
from timesformer_jax.atomic_write import write_whole
from timesformer_jax.errors import InputError
from timesformer_jax.evaluation.clip_scores import ClipScores, Predictions
from timesformer_jax.evaluation.metrics import intervals, measure
from timesformer_jax.printable import printable, to_json
from timesformer_jax.state_files import digest_of, parse_json, read_json, reading, refuse, write_json

DIGITS = 6
"""Decimal places that metrics and scores are rounded to. Further ones depend on the batch size."""

RESULTS, PREDICTIONS, CONFUSION = "results.json", "predictions.jsonl", "confusion.csv"
STAGING = "results.part"
"""Folder in the workdir to which new results are written before they replace the old ones."""
REMEDY = "evaluate again"

FEWER_DIGITS = {"calibration_error": 4}
"""Decimal places of metrics that vary with every score, not only if a prediction changes; further ones depend on the batch size
as well."""


def figures(scores: ClipScores, average: str, subsets: Mapping[int, Sequence[int]] | None = None) -> dict[str, Any]:
    """Compute the figures of `results.json`.

    Args:
        scores: Scores of every clip.
        average: Average of the headline figures.
        subsets: Maps numbers of clips to the indices of the clips, within each video, to evaluate; None for no subsets.

    Returns:
        All metrics of `measure` by `average`; `intervals`, with None for metrics without one; `by_average`, the metrics by
        every average; and `by_num_clips`, `top1` and `top5` of each of the `subsets`, if there are any.
    """
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
    """Return the indices of the best `count` classes of each row, best first; ties are ordered by class index."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :count]


def prediction_rows(
    predictions: Predictions, label_names: Sequence[str], unreadable: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    """Return one JSON object per video, for `predictions.jsonl`.

    An object has `video`, `label` (or `labels`), `best` (the best five labels with their scores) and `views` (the number of
    views averaged). Objects of `unreadable` videos have `video` and `error`, the reason.
    """
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


def labels_of(row: Mapping[str, Any]) -> list[str]:
    """Return the true labels of a row of `predictions.jsonl`."""
    return row["labels"] if "labels" in row else [row["label"]]


def is_right(row: Mapping[str, Any]) -> bool:
    """Return whether the best prediction of a row of `predictions.jsonl` is one of its labels."""
    return row["best"][0][0] in labels_of(row)


def write_results(
    workdir: str,
    results: dict[str, Any],
    rows: list[dict[str, Any]],
    confusion: tuple[np.ndarray, Sequence[str]] | None = None,
) -> None:
    """Write `predictions.jsonl`, `confusion.csv` and `results.json`, all or none.

    The files are first written to a staging folder. They become valid once its `results.json`, which has the digests of the
    others, exists, and are then moved. If the process is killed in between, the next call of `finish_results` completes this.

    Args:
        workdir: Folder of the run.
        results: Content of `results.json`.
        rows: Lines of `predictions.jsonl`, one per video.
        confusion: Confusion matrix and label names of `confusion.csv`, which has one line per true label and one column per
            predicted label; None to write no such file.
    """
    folder = epath.Path(workdir)
    finish_results(workdir)
    contents = {PREDICTIONS: "".join(to_json(row) + "\n" for row in rows).encode()}
    if confusion is not None:
        contents[CONFUSION] = _confusion_csv(*confusion).encode()
    (folder / STAGING).mkdir(exist_ok=True)
    for name, content in contents.items():
        write_whole(folder / STAGING / name, content)
    digests = {name: digest_of(contents[name]) if name in contents else None for name in (PREDICTIONS, CONFUSION)}
    write_json(folder / STAGING / RESULTS, {**results, "files": digests})
    finish_results(workdir)


def finish_results(workdir: str) -> None:
    """Move results that a killed evaluation left in the staging folder; discard them if they are incomplete."""
    folder = epath.Path(workdir)
    staging = folder / STAGING
    if not staging.exists():
        return
    if (staging / RESULTS).exists():
        digests = read_json(staging / RESULTS, remedy=f"delete {staging}", fields={"files": dict})["files"]
        for name, digest in digests.items():
            if digest is None:
                (folder / name).unlink(missing_ok=True)
            elif (staging / name).exists():
                (staging / name).replace(folder / name)
        (staging / RESULTS).replace(folder / RESULTS)
    staging.rmtree()


def read_results(workdir: str) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Read an evaluation's `results.json`, and the contents of its other files that exist.

    Raises `InputError` if nothing has been evaluated, or if files are damaged or of different evaluations.
    """
    folder = epath.Path(workdir)
    for _ in range(3):  # another process may be moving them
        whole = folder / STAGING / RESULTS
        results = _read(whole if whole.exists() else folder / RESULTS)
        digests = results.pop("files", {})
        contents, differing = {}, []
        for name in (PREDICTIONS, CONFUSION):
            expected = digests.get(name, "")
            content = None if expected is None else _content(folder, name, expected)
            if content is None and expected:
                differing.append(name)
            elif content is not None:
                contents[name] = content
        if not differing:
            return results, contents
    refuse(folder / differing[0], f"or not of the same evaluation as {RESULTS}", REMEDY)


def _read(path: epath.Path) -> dict[str, Any]:
    if not path.exists():
        raise InputError(f"There are no evaluation results in {path.parent}: evaluate the run, then write the report.")
    return read_json(path, remedy=REMEDY, fields={"step": int, "split": str})


def _content(folder: epath.Path, name: str, digest: str) -> bytes | None:
    """Return the content of the file with this digest; None if there is none. An empty digest (older versions) matches any."""
    for path in (folder / STAGING / name, folder / name):
        if path.exists():
            with reading(path):
                content = path.read_bytes()
            if not digest or digest_of(content) == digest:
                return content
    return None


def parse_rows(content: bytes, path: Any) -> list[dict[str, Any]]:
    """Parse the rows of `predictions.jsonl`. Raises `InputError` if they are damaged."""
    return [parse_json(line, path, remedy=REMEDY, fields={"video": str}) for line in content.splitlines()]


def _confusion_csv(matrix: np.ndarray, label_names: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [printable(name) for name in label_names]
    writer.writerow(["label", *names])
    writer.writerows([name, *row] for name, row in zip(names, matrix.tolist(), strict=True))
    return text.getvalue()
