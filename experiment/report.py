"""`--mode=report`: draw the workdir's last evaluation as one page, WORKDIR/report.html."""

import csv
import io
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

import timesformer_jax as tsf
from experiment.architectures import is_cnn
from experiment.curves import read_curves
from experiment.report_videos import ReportVideos
from experiment.setup import Run
from experiment.train import CONFIG
from timesformer_jax import evaluation
from timesformer_jax.cost import count_multiply_adds, count_parameters
from timesformer_jax.errors import first_line
from timesformer_jax.evaluation import Points, Row
from timesformer_jax.evaluation.render import MOST_BYTES
from timesformer_jax.explain.embedding import embed_points, nearest_neighbours
from timesformer_jax.printable import printable
from timesformer_jax.progress import Progress
from timesformer_jax.state_files import read_json, refuse

log = logging.getLogger("timesformer_jax")

FILE = "report.html"
ROLLOUT = "The map is the attention rollout of the class token through all blocks, which is the same for all labels."
GRAD_CAM = "The map is Grad-CAM for the predicted label: the places of the last feature maps that raise its logit."
MOST_VIDEOS = 100
"""Maximum of `report.num_videos`: two hundred clips still fit into the page at a small size."""


def check_report(config: Any, workdir: str) -> None:
    """Raise `InputError` if nothing has been evaluated, or the evaluated checkpoint is gone; needs no data."""
    if jax.process_count() > 1:
        raise tsf.InputError(f"A report needs a single process, got {jax.process_count()}: use --distributed=off.")
    for field, least in (("num_videos", 0), ("num_points", 1)):
        if config.report[field] < least:
            raise tsf.InputError(f"--config.report.{field} must be at least {least}, got {config.report[field]}.")
    if config.report.num_videos > MOST_VIDEOS:
        raise tsf.InputError(
            f"--config.report.num_videos must be at most {MOST_VIDEOS}, got {config.report.num_videos}: the page would become "
            "too large to open."
        )
    results, rows, _ = _read_results(epath.Path(workdir))
    _compare(config, workdir, [row for row in rows if "error" not in row])
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
    workdir, options = epath.Path(run.workdir), run.config.report
    results, rows, confusion = _read_results(workdir)
    curves = read_curves(run.workdir)
    params = run.files.checkpoints.restore_params(run.model.module, run.model.mesh, results["step"])[0]
    tested = [row for row in rows if "error" not in row]
    counts = _read_confusion(confusion, workdir, run.data.label_names)
    examples = evaluation.pick_examples(tested, options.num_videos)
    pictured = evaluation.pictured_videos(counts, run.data.label_names, tested)
    total = run.data.num_videos(results["split"])
    numbers = np.sort(np.random.default_rng(run.config.seed).permutation(total)[: options.num_points]).tolist()
    with Progress(len(examples) + len(pictured) + len(numbers), "report") as progress:
        videos = ReportVideos(run, params, results["split"], progress)
        records = videos.find([*pictured, *(row["video"] for row in examples)])
        pictures = videos.pictures({name: records[name] for name in pictured})
        shown = videos.shown(examples, records)
        points, caption = _points(run, videos, tested, numbers)
    page = evaluation.render_report(
        evaluation.Report(
            title=f"{run.config.data.name}: {getattr(run.model.module, 'attention_type', run.config.architecture)}",
            summary=_summary(run, results),
            configuration=_flat(_read_config(workdir) or run.config.to_dict()),
            results=results,
            rows=tested,
            curves=curves,
            label_names=run.data.label_names,
            confusion=counts,
            examples=shown,
            pictures=pictures,
            map_name=GRAD_CAM if is_cnn(run.config) else ROLLOUT,
            points=points,
            points_caption=caption,
            cost=_cost(run, results),
            unreadable={row["video"]: row["error"] for row in rows if "error" in row},
            validation=compare_with_validation(results, curves),
            comparison=_compare(run.config, run.workdir, tested),
        )
    )
    size = len(page.encode())
    if size > MOST_BYTES:
        log.warning("The page has %.1f MB: a smaller --config.report.num_points makes it open faster.", size / 1e6)
    evaluation.write_whole(workdir / FILE, page)
    log.info("See %s/%s (%.1f MB, no other file is needed).", run.workdir, FILE, size / 1e6)


def _compare(config: Any, workdir: str, rows: Sequence[Row]) -> evaluation.Comparison | None:
    """Compare with the run that `report.compare` names; None if it names none."""
    other = config.report.compare
    if not other:
        return None
    others = [row for row in _read_results(epath.Path(other).expanduser())[1] if "error" not in row]
    return evaluation.compare_predictions(rows, others, names=(workdir, other))


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


def _points(run: Run, videos: ReportVideos, rows: Sequence[Row], numbers: Sequence[int]) -> tuple[Points | None, str]:
    """Embed the classifier's inputs of these videos, with a caption; (None, "") if they are too few or all identical."""
    found = videos.features(numbers)
    # Multi-label videos are coloured by their first label.
    classes = found.labels.argmax(axis=1) if run.data.dataset.several else found.labels
    try:
        points = embed_points(found.values)
    except tsf.InputError as error:
        log.info("No plot of the features: %s", error)
        return None, ""
    near = nearest_neighbours(found.values, classes)
    words = (
        "Accuracy by nearest neighbours: n/a, since fewer than two labels have two videos"
        if near is None
        else f"In the space of the features itself, their labels are named by the {near}"
    )
    right = {row["video"]: evaluation.is_right(row) for row in rows}
    caption = (
        f"t-SNE of the classifier's input for {len(classes)} videos, one clip each. {words}; distances in the plot mean little."
    )
    return Points(points, found.names, classes, np.array([right.get(name, False) for name in found.names])), caption


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
            f"validation looks at one clip and crop of each video, the test at {results['num_clips']:g} clip(s) x "
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
        f"Multiply-adds of a video ({views:g} views)": f"{views * multiply_adds / 1e9:,.3f} x 10^9",
        "Floating-point operations of a training clip": f"{6 * for_logits / 1e9:,.3f} x 10^9",
    }
