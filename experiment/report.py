"""`--mode=report`: draw the workdir's last evaluation as one page, WORKDIR/report.html."""

import csv
import dataclasses
import functools
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

import timesformer_jax as tsf
from experiment.architectures import is_cnn
from experiment.curves import read_curves
from experiment.setup import Run
from experiment.show import pictures
from experiment.train import CONFIG
from input_pipeline import WINDOW_AXES, EvalViews, VideoDataset, eval_batches
from timesformer_jax import evaluation, explain
from timesformer_jax.cost import count_multiply_adds, count_parameters
from timesformer_jax.errors import first_line
from timesformer_jax.explain.embedding import Panel, draw_points, embed_points, nearest_neighbours
from timesformer_jax.features import extract
from timesformer_jax.printable import printable
from timesformer_jax.state_files import read_json, refuse

log = logging.getLogger("timesformer_jax")

FILE = "report.html"
ROLLOUT = "Overlay on each frame: attention rollout of the class token through all blocks."
CLIPS_ONLY = "The frames of each clip; attention rollout needs a model with attention."
MOST_COLOURS = 20
"""Maximum number of labels that are distinguished by the points' colours."""
FRAMES_PER_SECOND = 3.0
"""Frame rate of the animations, slow enough to follow a map from frame to frame."""


def check_report(config: Any, workdir: str) -> None:
    """Raise `InputError` if nothing has been evaluated, or the evaluated checkpoint is gone; needs no data."""
    if jax.process_count() > 1:
        raise tsf.InputError(f"A report needs a single process, got {jax.process_count()}: use --distributed=off.")
    for field, least in (("num_videos", 0), ("num_points", 1)):
        if config.report[field] < least:
            raise tsf.InputError(f"--config.report.{field} must be at least {least}, got {config.report[field]}.")
    results = _read_results(epath.Path(workdir))[0]
    folder = epath.Path(workdir) / "checkpoints"
    steps = sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal()) if folder.is_dir() else []
    if results["step"] not in steps:
        raise tsf.InputError(
            f"{workdir}/results.json is of step {results['step']}, whose checkpoint isn't kept any more (there are "
            f"{', '.join(map(str, steps)) or 'none'}): evaluate again with --mode=eval."
        )


def report(run: Run) -> None:
    """Draw the workdir's last evaluation, with explanations of some videos.

    `check_report` has already checked that the results and the checkpoint exist.
    """
    workdir = epath.Path(run.workdir)
    results, rows, confusion = _read_results(workdir)
    curves = read_curves(run.workdir)
    params = run.files.checkpoints.restore_params(run.model.module, run.model.mesh, results["step"])[0]
    data = _Videos(run, results["split"])
    tested = [row for row in rows if "error" not in row]
    best, worst = pick_videos(tested, run.config.report.num_videos)
    shown = _shown(run, params, data, [*best, *worst])
    points, caption = _points(run, params, data)
    page = evaluation.render_report(
        evaluation.Report(
            title=f"{run.config.data.name}: {getattr(run.model.module, 'attention_type', run.config.architecture)}",
            summary=_summary(run, results),
            configuration=_flat(_read_config(workdir) or run.config.to_dict()),
            results=results,
            curves=curves,
            label_names=run.data.label_names,
            confusion=_read_confusion(confusion, workdir, run.data.label_names),
            best=shown[: len(best)],
            worst=shown[len(best) :],
            map_name=CLIPS_ONLY if is_cnn(run.config) else ROLLOUT,
            points=points,
            points_caption=caption,
            cost=_cost(run, results),
            unreadable={row["video"]: row["error"] for row in rows if "error" in row},
            validation=compare_with_validation(results, curves),
        )
    )
    evaluation.write_whole(workdir / FILE, page)
    log.info("See %s/%s (%.1f MiB, no other file is needed).", run.workdir, FILE, len(page) / 2**20)


def _read_results(workdir: epath.Path) -> tuple[dict[str, Any], list[dict[str, Any]], bytes | None]:
    results, contents = evaluation.read_results(str(workdir))
    path = workdir / "predictions.jsonl"
    if path.name not in contents:
        raise tsf.InputError(f"{path} isn't there: evaluate again with --mode=eval.")
    return results, evaluation.parse_rows(contents[path.name], path), contents.get("confusion.csv")


def _read_config(workdir: epath.Path) -> dict[str, Any]:
    """Config of the workdir's last training run; empty if unknown."""
    path = workdir / CONFIG
    remedy = "delete it to make the report without it, or train again"
    return read_json(path, remedy=remedy) if path.exists() else {}


def _read_confusion(content: bytes | None, workdir: epath.Path, names: Sequence[str]) -> np.ndarray | None:
    """Counts of confusion.csv, which has printable names; None for multi-label videos."""
    path = workdir / "confusion.csv"
    if content is None:
        return None
    try:
        head, *rows = csv.reader(io.StringIO(content.decode()))
        counts = np.array([row[1:] for row in rows], np.int64)
    except (ValueError, csv.Error) as error:
        refuse(path, first_line(error), "evaluate again with --mode=eval", error)
    if head[1:] not in ([printable(name) for name in names], list(names)):  # older versions wrote unescaped names
        raise tsf.InputError(f"{path} has other labels than the data set: evaluate again with --mode=eval.")
    if counts.shape != (len(names), len(names)):
        refuse(path, f"it has {len(rows)} rows for {len(names)} labels", "evaluate again with --mode=eval")
    return counts


def pick_videos(rows: Sequence[Mapping[str, Any]], count: int) -> tuple[list[Any], list[Any]]:
    """Pick the most confident rows of predictions.jsonl: at most `count` correct and `count` wrong ones."""
    surest = sorted(rows, key=lambda row: -row["best"][0][1])
    right = [row for row in surest if row["best"][0][0] in _labels(row)]
    wrong = [row for row in surest if row["best"][0][0] not in _labels(row)]
    return right[:count], wrong[:count]


def _labels(row: Mapping[str, Any]) -> list[str]:
    return row["labels"] if "labels" in row else [row["label"]]


class _Videos:
    """Single clips, with one centre crop each, of selected videos of a split."""

    def __init__(self, run: Run, split: str):
        self._run, self._split = run, split

    def numbers_of(self, names: Sequence[str]) -> dict[str, int]:
        """Index of the first video with each name in the split."""
        wanted, found = set(names), {}
        for number, name in enumerate(self._run.data.dataset.facts(self._split, "name")):
            if name in wanted:
                found.setdefault(name, number)
        return found

    @property
    def count(self) -> int:
        """Number of videos in the split."""
        return self._run.data.num_videos(self._split)

    def clips(self, numbers: Sequence[int], at_once: int = 8) -> Iterator[tuple[jax.Array, np.ndarray, int]]:
        """Yield prepared clips `[at_once, T, H, W, C]` of these videos, their labels, and the number of real clips."""
        run = self._run
        chosen: VideoDataset = dataclasses.replace(run.data.dataset, chosen=(self._split, tuple(numbers)))
        centre = dataclasses.replace(run.data.clips, placement="centre")
        batches = eval_batches(chosen, self._split, centre, batch_size=at_once, views=EvalViews(), shard=(0, 1))
        for batch in batches if numbers else ():
            windows = {name: jax.numpy.asarray(batch[name]) for name in WINDOW_AXES}
            yield run.model.prepare_eval(windows), batch["label"], int(batch["mask"].sum())


def _shown(run: Run, params: Any, data: _Videos, rows: Sequence[Mapping[str, Any]]) -> list[evaluation.ShownVideo]:
    """Return the videos of these rows, each with a GIF of its clip, overlaid with attention rollout if the model has any."""
    numbers = data.numbers_of([row["video"] for row in rows])
    animations = []
    for clips, _, real in data.clips([numbers[row["video"]] for row in rows]):
        frames = pictures(clips[:real], run.model.pixels)
        if not is_cnn(run.config):
            maps = np.asarray(explain.attention_rollout(run.model.module, params, clips))[:real]
            frames = [explain.overlay(*pair) for pair in zip(frames, maps, strict=True)]
        animations += [explain.gif_bytes(each, FRAMES_PER_SECOND) for each in frames]
    return [
        evaluation.ShownVideo(row["video"], _labels(row), [(label, score) for label, score in row["best"]], animation)
        for row, animation in zip(rows, animations, strict=True)
    ]


def _points(run: Run, params: Any, data: _Videos) -> tuple[bytes | None, str]:
    """Plot the classifier's inputs of some videos, with a caption; returns (None, "") if they are too few or all identical."""
    count = min(data.count, run.config.report.num_points)
    numbers = np.sort(np.random.default_rng(run.config.seed).permutation(data.count)[:count])
    features, labels = [], []
    cls = jax.jit(functools.partial(extract, run.model.module, kind="cls"))
    for clips, own, real in data.clips(numbers.tolist(), at_once=run.config.eval.batch_size):
        features.append(np.asarray(cls(params, clips), np.float32)[:real])
        labels.append(own[:real])
    values = np.concatenate(features)
    # Multi-label videos are coloured by their first label.
    classes = np.concatenate(labels).argmax(axis=1) if run.data.dataset.several else np.concatenate(labels)
    try:
        points = embed_points(values)
    except tsf.InputError as error:
        log.info("No plot of the features: %s", error)
        return None, ""
    found = nearest_neighbours(values, classes)
    names = run.data.label_names
    shown, classes = (names, classes) if len(names) <= MOST_COLOURS else (None, None)
    picture = draw_points([[Panel(points, classes, "t-SNE of the classifier's input")]], shown)
    near = (
        "Accuracy by nearest neighbours: n/a, since fewer than two labels have two videos"
        if found is None
        else f"In the space of the features itself, their labels are named by the {found}"
    )
    caption = f"{len(values)} videos, one clip each. {near}; distances in the plot mean little."
    return picture, caption


def _summary(run: Run, results: Mapping[str, Any]) -> str:
    """Summarise the model, its training and its accuracy."""
    size = f"{run.model.module.num_frames} frames of {run.model.module.image_size} x {run.model.module.image_size} pixels"
    head = "map" if run.data.dataset.several else "top1"
    ends = results["intervals"][head]
    interval = "n/a" if ends is None else f"{100 * ends[0]:.1f} to {100 * ends[1]:.1f} %"
    module = run.model.module
    kind = type(module).__name__ if is_cnn(run.config) else f"TimeSformer with {module.attention_type} attention"
    return (
        f"{'An' if kind[0] == 'I' else 'A'} {kind}, {size}, after {results['step']} steps: "
        f"{evaluation.TITLES[head][0]} {100 * results[head]:.1f} % (95 % interval {interval}) on {results['num_videos']} "
        f"videos of {len(run.data.label_names)} labels, by the {evaluation.AVERAGE_TITLES[results['average']]}."
    )


def compare_with_validation(results: Mapping[str, Any], curves: Mapping[str, Mapping[str, evaluation.Curve]]) -> str:
    """Explain a difference in top-1 between validation and evaluation on the same split; empty if there is none."""
    steps, values = curves.get("top-1", {}).get("validation", ((), ()))
    if results["split"] != "val" or not steps:
        return ""
    by_step = dict(zip(steps, values, strict=True))
    best = max(by_step, key=lambda step: (by_step[step], step))
    step, tested = results["step"], f"{100 * results['top1']:.1f} %"
    shown = {at: f"{100 * value:.1f} %" for at, value in by_step.items()}
    if {shown[best], shown.get(step, tested)} == {tested}:
        return ""
    views = results["num_clips"] * results["num_crops"]
    why = []
    if shown.get(step, "") != tested and views > 1:
        why.append(
            f"validation looks at one clip and crop of each video, the test at {results['num_clips']} clip(s) x "
            f"{results['num_crops']} crop(s)"
        )
    if best != step and shown[best] != shown.get(step):
        why.append(f"the best validation is that of another checkpoint, of step {best}, and the test is of step {step}")
    validated = f"{shown[step]} at step {step}" if step in shown else f"{shown[best]} at step {best}"
    if step in shown and best != step:
        validated += f" ({shown[best]} at its best)"
    because = " and ".join(why) or "the test was run with other settings, or rounds otherwise"
    return f"In validation, top-1 was {validated}, in the test it is {tested}: {because}."


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Flatten a config to its fields' dotted paths."""
    flat = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: str(value)}
    return flat


def _cost(run: Run, results: Mapping[str, Any]) -> dict[str, str]:
    parameters = count_parameters(run.model.module)
    multiply_adds = count_multiply_adds(run.model.module, image_size=run.data.clips.eval_crop)
    for_logits = count_multiply_adds(run.model.module, for_logits=True)
    views = results["num_clips"] * results["num_crops"]
    return {
        "Parameters": f"{parameters:,}",
        "Memory of the parameters": f"{4 * parameters / 2**20:,.1f} MiB",
        "Multiply-adds of a view": f"{multiply_adds / 1e9:,.3f} x 10^9",
        f"Multiply-adds of a video ({views} views)": f"{views * multiply_adds / 1e9:,.3f} x 10^9",
        "Floating-point operations of a training clip": f"{6 * for_logits / 1e9:,.3f} x 10^9",
    }
