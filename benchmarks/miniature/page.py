"""Page with tables and plots, drawn from the results files alone, next to the paper's own numbers."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.miniature import costs
from benchmarks.miniature.drawing import new_figure, to_svg
from benchmarks.miniature.experiments import CLIPS_ROW, PAPER, TASKS, Experiment, Size, all_cells, cell_of, experiments
from benchmarks.miniature.findings import (
    Measured,
    Table,
    Verdict,
    judge,
    results_of,
    table_of,
    verdict,
)
from benchmarks.miniature.running import Result, read_result
from timesformer_jax.evaluation import write_whole

NOTHING = ""
COST_TITLE = "Figure 3: cost of joint and divided attention by frames and pixels"
COST_FOUND = "the cost of joint attention grows far faster than that of divided attention, with frames and with pixels"


def write_page(size: Size, results: Path) -> Path:
    """Write the page as Markdown next to the results folder, with the folder's name, and its plots into the folder."""
    page = results.with_name(f"{results.name}.md")
    text, drawn = render(size, results, results.name)
    results.mkdir(parents=True, exist_ok=True)
    for name, svg in drawn.items():
        write_whole(results / name, svg)
    write_whole(page, text)
    return page


def render(size: Size, results: Path, plots: str) -> tuple[str, dict[str, str]]:
    """Return the page and its plots by name; `plots` is the folder that the page links them in."""
    of_size = experiments(size)
    finished = [result for cell in all_cells(size) if (result := read_result(cell, size, results)) is not None]
    tables = {name: table_of(experiment, size, results) for name, experiment in of_size.items()}
    found = {name: judge(experiment, tables[name], size.words) for name, experiment in of_size.items()}
    sections, drawn = [], {}
    for name, experiment in of_size.items():
        plot = _draw(experiment, tables[name], size.words) if experiment.plotted else None
        if plot:
            drawn[f"{name}.svg"] = plot
        lines = _lines(experiment, tables[name], results_of(experiment, size, results), size.words)
        plotted = plot and f"{plots}/{name}.svg"
        sections.append(_section(experiment.title, experiment.found, found[name], lines, plotted, experiment.note))
    counted = costs.read_costs(size, results)
    if counted is not None:
        found["cost"] = _judge_costs(counted)
        drawn["cost.svg"] = _draw_costs(counted)
        note = (
            f"10^12 multiply-adds per clip of `{size.cost_model}` with 400 classes. The paper prints no numbers for its "
            "figure. Those shown here follow from the formula behind its other tables."
        )
        sections.append(_section(COST_TITLE, COST_FOUND, found["cost"], _cost_lines(counted), f"{plots}/cost.svg", note))
    titles = {**{name: experiment.title for name, experiment in of_size.items()}, "cost": COST_TITLE}
    summary = _markdown(
        ["experiment of the paper", "at this size the finding"], [[titles[name], each.words] for name, each in found.items()]
    )
    minutes = math.ceil((sum(result["seconds"] for result in finished) + (counted["seconds"] if counted else 0)) / 60)
    parts = [*_introduction(size, finished, minutes), summary, *sections, *_conditions(size, finished, minutes)]
    return "\n\n".join(parts) + "\n", drawn


def _introduction(size: Size, finished: Sequence[Result], minutes: int) -> list[str]:
    names = [cell_of(task, {}, size.seeds[0]).name for task in TASKS]
    model = next((result for result in finished if result["name"] in names), None)
    if model is None:
        return ["# The paper in miniature", "Nothing is finished yet."]
    base, batch_size = model["results"], model["fields"].get("train.batch_size", "the config's number of")
    return [
        "# The paper in miniature",
        f"The experiments of the paper at a size that takes {minutes} minutes of one core of {_processors(finished)}, to show "
        "whether a change broke the science. `python benchmarks/paper_in_miniature.py` writes this page from the files in the "
        "folder of the same name; only the paper's own numbers are typed by hand.",
        f"Every row is a training with `{model['config']}` or its counterpart for the other task: {base['step']} steps of "
        f"{batch_size} clips and {_thousands(model['parameters'])} parameters unless noted, evaluated on "
        f"{_thousands(base['num_videos'])} videos. {size.about}",
        "Figures are top-1 in %, mean and standard deviation over seeds. The rows of a claim share their seeds, hence order "
        "of videos and random numbers, and the 95 % t-interval of the paired difference decides: a claim holds if the "
        "interval lies above zero, it does not if the interval lies below, and it is inconclusive otherwise. A finding "
        "holds in part if only some of its claims hold. The claims, the seeds and their number were fixed in "
        f"{size.fixed_in} before the trainings, and no result was looked at before all were finished. Intervals are not "
        "corrected for the number of claims, so about one in forty comparisons of equally good models favours the first by "
        "chance.",
    ]


def _section(title: str, found: str, judged: Verdict, lines: str, plot: str | None, note: str) -> str:
    parts = [f"## {title}", f"The paper: {found}. {judged.text}", lines]
    parts += [f"![{title}]({plot})"] if plot else []
    parts += [note] if note else []
    return "\n\n".join(parts)


def _lines(
    experiment: Experiment, table: Table, found: Mapping[tuple[str, str], Sequence[Result]], words: Mapping[str, str]
) -> str:
    """Return the rows, with parameters and multiply-adds unless the experiment is plotted."""
    of_paper = [task for task in experiment.tasks if any(task in row.paper for row in experiment.rows.values())]
    header = [experiment.first_column]
    if not experiment.plotted:
        header += ["parameters", "10^6 multiply-adds"]
    header += [words[task] for task in experiment.tasks] + [f"paper, {PAPER[task]}" for task in of_paper]
    rows = []
    labels = list(dict.fromkeys(label for label, _ in table)) if CLIPS_ROW in experiment.rows else list(experiment.rows)
    for label in labels:
        row = [label]
        if not experiment.plotted:
            models = [result for task in experiment.tasks for result in found.get((label, task), ())]
            row += [_thousands(models[0]["parameters"]), f"{models[0]['multiply_adds'] / 1e6:.1f}"] if models else [NOTHING] * 2
        row += [_cell(table.get((label, task))) for task in experiment.tasks]
        row += [str(experiment.rows[label].paper.get(task, NOTHING)) for task in of_paper]
        rows.append(row)
    return _markdown(header, rows)


def _cell(measured: Measured | None) -> str:
    if measured is None:
        return NOTHING
    return f"{measured.mean:.1f}" + ("" if measured.spread is None else f" ± {measured.spread:.1f}")


def _cost_lines(counted: Mapping[str, Any]) -> str:
    header = ["frames", "pixels"]
    for scheme in costs.SCHEMES:
        header += [scheme, "compiled", "paper's formula"]
    rows = []
    for frames, pixels in counted["points"]:
        row = [str(frames), str(pixels)]
        for scheme in costs.SCHEMES:
            line = _line_at(counted, scheme, frames, pixels)
            paper = costs.PAPER[scheme].get((frames, pixels))
            row += [f"{line['multiply_adds'] / 1e12:.3f}", f"{line['compiled'] / 1e12:.3f}"]
            row += [NOTHING if paper is None else f"{paper:.3f}"]
        rows.append(row)
    return _markdown(header, rows)


def _line_at(counted: Mapping[str, Any], scheme: str, frames: int, pixels: int) -> Mapping[str, Any]:
    at = {"attention_type": scheme, "num_frames": frames, "image_size": pixels}
    return next(line for line in counted["lines"] if {name: line[name] for name in at} == at)


def _judge_costs(counted: Mapping[str, Any]) -> Verdict:
    """Compare joint and divided attention by both counts, at the smallest and largest clips, and the counts with each other."""
    points = [tuple(point) for point in counted["points"]]
    smallest = min(points)
    claims: dict[bool, list[str]] = {True: [], False: []}
    for axis, words in ((0, "frames"), (1, "pixels")):
        largest = max(points, key=lambda point: point[axis])
        for count, how in (("multiply_adds", "by arithmetic"), ("compiled", "in the compiled program")):
            small, large = (
                _line_at(counted, "joint_space_time", *point)[count] / _line_at(counted, "divided_space_time", *point)[count]
                for point in (smallest, largest)
            )
            claims[large > max(small, 1)].append(
                f"joint costs {small:.2f} x divided at {smallest[axis]} {words} and {large:.2f} x at {largest[axis]}, {how}"
            )
    apart = max(abs(line["compiled"] / line["multiply_adds"] - 1) for line in counted["lines"])
    judged = verdict(claims[True], claims[False])
    return judged._replace(reasons=(*judged.reasons, f"The two counts are at most {100 * apart:.1f} % apart."))


def _conditions(size: Size, finished: Sequence[Result], minutes: int) -> list[str]:
    """Describe seeds, versions, processors, commits and time."""
    if not finished:
        return []
    versions = sorted({", ".join(map(" ".join, result["versions"].items())) for result in finished})
    how = (
        "Trainings run in memory, with the config, the sampling of clips, the augmentation, the training step and the "
        "evaluation of main.py. Three things differ: frames are not compressed as JPEG, videos are numbered as they are drawn, "
        "while prepared data are shuffled, and 3D convolutions are computed as matrix products. Times are CPU times of one "
        "thread, with compilation. "
        if size.in_memory
        else ""
    )
    seeds = ", ".join(map(str, size.seeds))
    fewer = f", and the first {size.fewer_seeds} outside Table 1" if size.fewer_seeds < len(size.seeds) else ""
    return [
        "## Conditions",
        f"{len(finished)} of {len(all_cells(size))} trainings and the costs, {minutes} minutes in total, on "
        f"{_processors(finished)}. {how}Seeds {seeds}{fewer}. Commit {_all(result['commit'] for result in finished)} (a + "
        f"marks uncommitted changes). Versions: {'; '.join(versions)}.",
        "Each training's result is a file in the folder next to this page, with its config, fields, seed, versions and time, "
        "and digests of its config and of the code that it depends on. A training is repeated if either has changed.",
    ]


def _processors(finished: Sequence[Result]) -> str:
    return _all(result["processor"] for result in finished)


def _all(values: Any) -> str:
    return ", ".join(sorted(set(values)))


def _thousands(number: int) -> str:
    return f"{number:,}"


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _draw(experiment: Experiment, table: Table, words: Mapping[str, str]) -> str | None:
    """Draw the curves of each task, with the standard deviation between seeds."""
    figure = new_figure(4.2 * len(experiment.tasks), 2.8)
    axes = figure.subplots(1, len(experiment.tasks), squeeze=False)[0]
    for axis, task in zip(axes, experiment.tasks, strict=True):
        curves: dict[str, dict[float, Measured]] = {}
        for (label, of_task), measured in table.items():
            if of_task == task:
                name, _, place = label.rpartition(" ")
                curves.setdefault(name, {})[float(place)] = measured
        if not curves:
            return None
        for name, points in curves.items():
            means, spreads = zip(*((measured.mean, measured.spread or 0.0) for measured in points.values()), strict=True)
            axis.errorbar(list(points), means, yerr=spreads, marker="o", capsize=3, label=name)
            axis.set_xticks(list(points), [f"{point:g}" for point in points])
        axis.set(xlabel=experiment.first_column, ylabel="top-1 in %", title=words[task])
        axis.grid(alpha=0.3)
        if len(curves) > 1:
            axis.legend(fontsize=8)
    return to_svg(figure)


def _draw_costs(counted: Mapping[str, Any]) -> str:
    """Draw the costs: lines by arithmetic, crosses for the compiled programs."""
    figure = new_figure(8.4, 3.0)
    frames, pixels = counted["points"][0]
    for axis, (name, at) in zip(
        figure.subplots(1, 2),
        {"frames": lambda line: line["image_size"] == pixels, "pixels": lambda line: line["num_frames"] == frames}.items(),
        strict=True,
    ):
        field = {"frames": "num_frames", "pixels": "image_size"}[name]
        for scheme in costs.SCHEMES:
            lines = [line for line in counted["lines"] if line["attention_type"] == scheme and at(line)]
            places = [line[field] for line in lines]
            (drawn,) = axis.plot(places, [line["multiply_adds"] / 1e12 for line in lines], marker=".", label=scheme)
            axis.plot(places, [line["compiled"] / 1e12 for line in lines], "x", color=drawn.get_color())
        axis.set(
            xlabel=name, ylabel="10^12 multiply-adds", title=f"{pixels} pixels" if name == "frames" else f"{frames} frames"
        )
        axis.set_xticks(places, [str(place) for place in places])
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    return to_svg(figure)
