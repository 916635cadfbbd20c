"""Plot features of videos as points, one column per folder, coloured by label (the paper's Figure 8).

timesformer embed runs/divided runs/space_only runs/vit --output=embedding.png
timesformer embed features --output=embedding.svg --method=both --labels=surfing,skiing

FEATURES are folders written by `timesformer features` or by main.py in mode "features", or the workdir of a run with features
of one split. Each point is a video: the mean of its features over clips and crops, and over frames or patches if there are any.

The title of each plot shows how well the features separate the labels: the share of videos whose label wins the vote of their 5
nearest neighbours, by cosine similarity of the features (not of the points), and the share expected by chance. Fewer neighbours
vote if a label has fewer than 6 videos. Labels with one video are drawn but not counted. In multi-label data, only videos with
exactly one label are drawn.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from timesformer_jax.atomic_write import write_whole
from timesformer_jax.errors import InputError
from timesformer_jax.explain.embedding import (
    METHOD_NAMES,
    METHODS,
    Panel,
    draw_points,
    embed_points,
    nearest_neighbours,
)
from timesformer_jax.features import FeatureSet, read_features
from timesformer_jax.modeling.description import ARCHITECTURE
from timesformer_jax.os_errors import sentence
from timesformer_jax.printable import printable

MOST_LABELS = 20
"""Maximum number of labels to draw; more colours would be indistinguishable."""

FORMATS = ("png", "svg")


class _Points(NamedTuple):
    """Videos of a feature set to draw."""

    values: np.ndarray
    """One feature vector per video."""
    labels: np.ndarray | None
    """Index of each video's label among the drawn ones; None without labels."""


def add_arguments(job: argparse.ArgumentParser) -> None:
    """Add the job's arguments."""
    job.add_argument("features", nargs="+", metavar="FEATURES", help="folders of features, one per column of the plot")
    job.add_argument("--output", required=True, type=Path, metavar="FILE", help="file to write: .png or .svg")
    job.add_argument("--method", choices=[*METHODS, "both"], default="tsne", help="projection to two dimensions")
    job.add_argument("--labels", metavar="A,B,...", help=f"draw only these labels (default: the {MOST_LABELS} most frequent)")
    job.add_argument(
        "--max-points", type=int, default=2000, metavar="N", help="maximum number of videos to draw, chosen at random"
    )
    job.add_argument("--seed", type=int, default=0, help="seed of the random choice and of t-SNE")


def run(arguments: argparse.Namespace) -> int:
    """Draw the plots, and print the nearest-neighbour accuracy of each column."""
    ending = arguments.output.suffix.removeprefix(".").lower()
    if ending not in FORMATS:
        raise InputError(f"--output must end in .png or .svg, got {arguments.output.name}.")
    if arguments.max_points < 1:
        raise InputError(f"--max-points must be at least 1, got {arguments.max_points}.")
    if arguments.seed < 0:
        raise InputError(f"--seed must be at least 0, got {arguments.seed}.")
    sets = [read_features(folder) for folder in arguments.features]
    names = _choose_labels(sets, arguments.labels)
    methods = list(METHODS) if arguments.method == "both" else [arguments.method]
    panels: list[list[Panel]] = [[] for _ in methods]
    for folder, features in zip(arguments.features, sets, strict=True):
        points = _choose_points(features, names, arguments.max_points, arguments.seed)
        title = title_of(features)
        facts = [f"{len(points.values)} videos"]
        if points.labels is not None:
            found = nearest_neighbours(points.values, points.labels)
            facts.append(str(found or "nearest neighbours: n/a, since fewer than two labels have two videos"))
        for row, method in zip(panels, methods, strict=True):
            try:
                placed = embed_points(points.values, method, seed=arguments.seed)
            except InputError as error:
                raise InputError(f"{folder}: {error}") from error
            row.append(Panel(placed, points.labels, "\n".join([title, f"{METHOD_NAMES[method]}, {facts[0]}", *facts[1:]])))
        print(printable(f"{folder}: {', '.join(title.splitlines())}: {', '.join(facts)}"))
    picture = draw_points(panels, names, format=ending)
    try:
        write_whole(arguments.output, picture)
    except OSError as error:
        raise InputError(sentence(error, f"Can't write {arguments.output}")) from error
    print(f"Drawn: {printable(arguments.output)}")
    return 0


def title_of(features: FeatureSet) -> str:
    """Return a title of two lines: the attention scheme or architecture with the kind of features, and the weights."""
    weights = features.about["weights"]
    source = Path(str(weights["source"])).name or str(weights["source"])
    step = "" if weights.get("step") is None else f", step {weights['step']}"
    model = features.about["model"]
    return f"{model.get('attention_type') or model[ARCHITECTURE]} ({features.about['kind']})\n{source}{step}"


def _single_labels(features: FeatureSet) -> np.ndarray | None:
    """Return the label of each video, -1 if it has none or several; None if the set has no labels."""
    if features.labels is None or features.label_names is None:
        return None
    labels = features.labels
    return labels if labels.ndim == 1 else np.where((labels > 0).sum(axis=1) == 1, labels.argmax(axis=1), -1)


def _choose_labels(sets: Sequence[FeatureSet], given: str | None) -> list[str] | None:
    """Return the names of the labels to draw, in alphabetical order; None unless every set has labels."""
    counts: dict[str, int] = {}
    known = [_single_labels(features) for features in sets]
    if any(labels is None for labels in known):
        if given:
            raise InputError("--labels needs features with labels: extract them with --label-by-folder, or from a data set.")
        return None
    for features, labels in zip(sets, known, strict=True):
        for number, count in zip(*np.unique(labels[labels >= 0], return_counts=True), strict=True):  # pyright: ignore
            name = (features.label_names or [])[number]
            counts[name] = counts.get(name, 0) + int(count)
    if given is None:
        most = sorted(counts, key=lambda name: (-counts[name], name))[:MOST_LABELS]
        if len(most) < len(counts):
            print(f"Of {len(counts)} labels, the {MOST_LABELS} most frequent are drawn; --labels=A,B,... chooses others.")
        return sorted(most)
    wanted = [name.strip() for name in given.split(",") if name.strip()]
    if unknown := sorted(set(wanted) - counts.keys()):
        raise InputError(f"No video has the label {unknown[0]!r}; there are {', '.join(sorted(counts)[:20])}.")
    if not 0 < len(set(wanted)) <= MOST_LABELS:
        raise InputError(f"--labels takes 1 to {MOST_LABELS} labels separated by commas, got {len(set(wanted))}.")
    return sorted(set(wanted))


def _choose_points(features: FeatureSet, names: Sequence[str] | None, most: int, seed: int) -> _Points:
    """Choose videos to draw. Sets of the same videos get the same choice.

    Args:
        features: The feature set.
        names: Names of the labels to draw; None for all videos, without labels.
        most: Maximum number of videos.
        seed: Seed of the random choice.
    """
    labels = None
    chosen = np.arange(len(features.names))
    if names is not None:
        own = features.label_names or []
        number = np.array([*(names.index(name) if name in names else -1 for name in own), -1])
        single = _single_labels(features)
        labels = number[single]  # index -1 selects the appended -1
        chosen = chosen[labels >= 0]
    if len(chosen) > most:
        chosen = np.sort(np.random.default_rng(seed).choice(chosen, most, replace=False))
    return _Points(features.vectors()[chosen], None if labels is None else labels[chosen])
