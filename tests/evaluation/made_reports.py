"""Reports made of random predictions, without a model."""

from typing import Any

import numpy as np

from timesformer_jax import evaluation
from timesformer_jax.evaluation import Points, Report, ShownVideo, Timeline


def moving_blob(seed: int, num_frames: int = 8, height: int = 36, width: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Frames `[T, H, W, 3]` of a bright disc on a gradient, and maps `[T, 9, 9]` of its place in the middle square."""
    draw = np.random.default_rng(seed)
    tint, (y, x) = draw.uniform(40, 140, 3), np.mgrid[:height, :width]
    angle, start = draw.uniform(0, 2 * np.pi), draw.uniform(0.35, 0.65, 2)
    frames, maps = np.empty((num_frames, height, width, 3), np.uint8), np.empty((num_frames, 9, 9))
    for t in range(num_frames):
        centre = (start + 0.25 * (2 * t / max(num_frames - 1, 1) - 1) * np.array([np.sin(angle), np.cos(angle)])) * (
            height,
            width,
        )
        distance = np.hypot(y - centre[0], x - centre[1]) / height
        frames[t] = np.where(distance[..., None] < 0.16, 235 - tint / 3, tint * (0.4 + 0.6 * x[..., None] / width))
        rows, columns = ((np.arange(9) + 0.5) / 9 * height + (side - height) / 2 for side in (height, width))
        maps[t] = np.exp(-(((rows[:, None] - centre[0]) / height) ** 2 + ((columns - centre[1]) / height) ** 2) / 0.03)
    return frames, maps


def make_rows(names: list[str], per_class: int, accuracy: float, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of predictions.jsonl, in which most errors go to the next few classes."""
    draw, rows = np.random.default_rng(seed), []
    ease = draw.beta(6 * accuracy, 6 * (1 - accuracy), len(names))
    for i, name in enumerate(names):
        for number in range(per_class):
            near = (i + 1 + draw.geometric(0.5, 6)) % len(names)
            order = list(dict.fromkeys([i, *near.tolist(), *range(len(names))]))[:5]
            if draw.uniform() > ease[i]:
                order[:2] = order[1::-1]
            scores = np.sort(draw.dirichlet(np.ones(6)))[::-1]
            best = [[names[j], round(float(score), 6)] for j, score in zip(order, scores, strict=False)]
            rows.append({"video": f"{i:03d}/{number:04d}.mp4", "label": name, "best": best, "views": 3})
    return rows


def confusion_of(rows: list[dict[str, Any]], names: list[str]) -> np.ndarray:
    counts, place = np.zeros((len(names), len(names)), np.int64), {name: i for i, name in enumerate(names)}
    for row in rows:
        counts[place[row["label"]], place[row["best"][0][0]]] += 1
    return counts


def results_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    top1 = sum(map(evaluation.is_right, rows)) / len(rows)
    figures = {"top1": top1, "top5": 1.0, "mean_class_accuracy": top1, "calibration_error": 0.04}
    ends = {"top1": list(evaluation.wilson_interval(top1, len(rows))), "top5": [0.99, 1.0], "mean_class_accuracy": None}
    return {
        **{"split": "val", "num_videos": len(rows), "num_clips": 5, "num_crops": 3, "placement": "official", "step": 900},
        **figures,
        "average": "probabilities",
        "intervals": ends,
        "by_average": {"probabilities": figures, "logits": {**figures, "top1": top1 * 0.99}},
        "by_num_clips": {str(n): {"top1": top1 - 0.03 / n, "top5": 1.0} for n in range(1, 6)},
    }


def show(row: dict[str, Any], seed: int, timeline: Timeline | None = None) -> ShownVideo:
    frames, maps = moving_blob(seed)
    return ShownVideo(
        name=row["video"],
        labels=evaluation.labels_of(row),
        best=[(label, score) for label, score in row["best"]],
        frames=frames,
        maps=maps,
        area=(0.0, 0.21875, 1.0, 0.5625),
        timeline=timeline,
    )


def make_report(names: list[str], per_class: int = 12, num_examples: int = 4, **changes: Any) -> Report:
    """A report of all sections but the comparison."""
    rows = make_rows(names, per_class, 0.7)
    confusion, draw = confusion_of(rows, names), np.random.default_rng(1)
    steps = list(range(0, 1000, 10))
    pictured = evaluation.pictured_videos(confusion, names, rows)
    shown = draw.permutation(len(rows))[: min(len(rows), 600)]
    place = {name: i for i, name in enumerate(names)}
    labels = np.array([place[rows[i]["label"]] for i in shown])
    centres = draw.normal(size=(len(names), 2))
    over_time = Timeline([0.0, 2.1, 4.2, 6.3], 8.0, names[:2], np.array([[0.8, 0.1], [0.6, 0.3], [0.2, 0.7], [0.1, 0.9]]))
    given: dict[str, Any] = {
        "title": "made_up: divided_space_time",
        "summary": "A TimeSformer with divided_space_time attention, after 900 steps.",
        "configuration": {"model.depth": "12", "data.root": "/data/videos"},
        "results": results_of(rows),
        "rows": rows,
        "curves": {
            "loss": {
                "training": (steps, [3 * 0.995**step + 0.1 for step in steps]),
                "validation": (steps[::10], [3 * 0.996**step + 0.2 for step in steps[::10]]),
            },
            "learning rate": {"training": (steps, [min(step, 100) * 1e-5 for step in steps])},
        },
        "label_names": names,
        "confusion": confusion,
        "examples": [
            show(row, seed, None if seed else over_time)
            for seed, row in enumerate(evaluation.pick_examples(rows, num_examples))
        ],
        "pictures": {video: moving_blob(seed)[0][4] for seed, video in enumerate(pictured)},
        "map_name": "Overlay: attention rollout.",
        "points": Points(
            centres[labels] + 0.3 * draw.normal(size=(len(shown), 2)),
            [rows[i]["video"] for i in shown],
            labels,
            np.array([evaluation.is_right(rows[i]) for i in shown]),
        ),
        "points_caption": "Some videos.",
        "cost": {"Parameters": "121,258,000"},
        "unreadable": {"broken.mp4": "no video stream"},
    }
    return Report(**{**given, **changes})


def many_names(count: int) -> list[str]:
    """Names of different lengths."""
    verbs = ("riding", "playing", "cutting", "throwing", "cleaning", "opening", "drawing", "hitting", "catching", "making")
    things = ("a bike", "the guitar", "watermelon", "a ball", "the windows", "a bottle", "with chalk", "a baseball", "fish")
    return [f"{verbs[i % 10]} {things[i // 10 % 9]}{'' if i < 90 else f' {i // 90 + 1}'}" for i in range(count)]
