"""The paper's experiments as tables: each row's changes to the base config, and the paper's findings.

Fields are those of the config (`model.num_frames`). The field `config` replaces the config file, and `variant` adds a variant
to it.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

Changes = Mapping[str, Any]
"""Maps config fields to values."""

TASKS = ("spatial", "temporal")
"""A task that any single frame suffices for, and a task that depends on the order of frames."""
PAPER = {"spatial": "K400", "temporal": "SSv2"}
"""Maps each task to the corresponding data set of the paper."""

IMAGE_MODEL = "{image_model}"
"""Placeholder value for the workdir of `Size.image_model`."""


class Row(NamedTuple):
    """A row of a table.

    Attributes:
        changes: Changes to the base config.
        paper: The paper's top-1 in % per task, if reported.
    """

    changes: Changes
    paper: Mapping[str, float] = {}


class Claim(NamedTuple):
    """A finding of the paper: on `task`, row `better` is above row `worse`."""

    task: str
    better: str
    worse: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """One table or figure of the paper."""

    title: str
    found: str
    """The paper's finding, one sentence."""
    rows: Mapping[str, Row]
    claims: tuple[Claim, ...]
    tasks: tuple[str, ...] = TASKS
    first_column: str
    all_seeds: bool = False
    """True to train its rows with all seeds of the size, False to train them with the first `Size.fewer_seeds`."""
    plotted: bool = False
    """True if the rows are points of a curve. The label of a point is its place, after the name of the curve if there are
    several: "slowfast 25"."""
    note: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """Size of all experiments."""

    configs: Mapping[str, str]
    """Config file per task, optionally with a variant."""
    words: Mapping[str, str]
    """Display name per task."""
    about: str
    """Description of the tasks."""
    common: Changes
    """Changes for every run."""
    seeds: tuple[int, ...]
    fewer_seeds: int
    """Number of seeds of experiments without `all_seeds`."""
    image_model: Changes | None
    """Changes with which the spatial task's config trains an image model; None if the configs start from one already."""
    pretraining: Mapping[str, Row]
    pretraining_tasks: tuple[str, ...] = TASKS
    pretraining_claims: tuple[Claim, ...] = ()
    """Claims besides the paper's."""
    frames: Mapping[str, Changes]
    frames_note: str = ""
    crops: Mapping[str, Changes]
    clips: Changes
    """Changes for the model that is evaluated with several clips per video."""
    clip_counts: tuple[int, ...]
    epochs: Changes
    """Fields counted in epochs, which are scaled so that a share of the training set takes the same number of steps."""
    cost_model: str
    cost_frames: tuple[int, ...]
    cost_sizes: tuple[int, ...]
    in_memory: bool
    """True to train moving digits in memory (see `trainings.py`), False to run jobs of main.py."""
    others: Mapping[str, Changes] = dataclasses.field(default_factory=dict)
    """Maps other architectures to their changes, among them a variant of the config."""
    only: Mapping[str, tuple[str, ...]] | None = None
    """Rows to run at this size, per experiment; None for all."""
    fixed_in: str = "a commit"
    """Commit that fixed the claims and the seeds, as the page names it."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run: a row of a table, a task and a seed. Tables share common cells."""

    task: str
    changes: tuple[tuple[str, Any], ...]
    seed: int

    @property
    def name(self) -> str:
        """Name of the results file, such as `spatial-model.attention_type=axial-seed1`."""
        fields = [f"{field}={value}" for field, value in self.changes] or ["unchanged"]
        return "-".join([self.task, *(re.sub(r"[^\w.=]+", "_", field).strip("_") for field in fields), f"seed{self.seed}"])

    @property
    def program(self) -> tuple[Any, ...]:
        """Key of cells that share a compiled program: seeds and shares of the data only change its input."""
        same = ("train.data_share", "train.num_epochs", "optimizer.warmup_epochs", "init_from", "model.initialization")
        return self.task, *(change for change in self.changes if change[0] not in same)

    @property
    def needs_image_model(self) -> bool:
        return IMAGE_MODEL in dict(self.changes).values()


def cell_of(task: str, changes: Changes, seed: int) -> Cell:
    return Cell(task, tuple(sorted(changes.items())), seed)


def cells_of(experiment: Experiment, size: Size) -> dict[tuple[str, str], list[Cell]]:
    """Map (row, task) to its cells, one per seed."""
    found = {}
    for label, row in experiment.rows.items():
        seeds = size.seeds if experiment.all_seeds and "variant" not in row.changes else size.seeds[: size.fewer_seeds]
        for task in experiment.tasks:
            found[label, task] = [cell_of(task, row.changes, seed) for seed in seeds]
    return found


def all_cells(size: Size) -> list[Cell]:
    """Return every cell once, image models before the cells that start from them."""
    cells: dict[Cell, None] = {}
    for experiment in experiments(size).values():
        for of_row in cells_of(experiment, size).values():
            for cell in of_row:
                if cell.needs_image_model:
                    cells[image_cell(size, cell.seed)] = None
                cells[cell] = None
    return list(cells)


def image_cell(size: Size, seed: int) -> Cell:
    """Return the cell of the image model that rows with `IMAGE_MODEL` start from."""
    assert size.image_model is not None
    return cell_of("spatial", size.image_model, seed)


def experiments(size: Size) -> dict[str, Experiment]:
    """Return all experiments that need training, by name; Figure 3 needs none (see `costs.py`)."""

    def curve(rows: Mapping[str, Changes], tasks: tuple[str, ...], claimed: tuple[str, ...]) -> dict[str, Any]:
        """Claim for `claimed` tasks that the last row is above the first."""
        labels = list(rows)
        claims = tuple(Claim(task, labels[-1], labels[0]) for task in claimed)
        return {
            "rows": {label: Row(changes) for label, changes in rows.items()},
            "claims": claims,
            "tasks": tasks,
            "plotted": True,
        }

    table = {
        "schemes": Experiment(
            title="Table 1: five attention schemes",
            found="divided attention is the best on both data sets, and space-only attention falls far behind if time matters",
            first_column="`attention_type`",
            rows={
                "space_only": Row({"model.attention_type": "space_only"}, {"spatial": 76.9, "temporal": 36.6}),
                "joint_space_time": Row({"model.attention_type": "joint_space_time"}, {"spatial": 77.4, "temporal": 58.5}),
                "divided_space_time": Row({}, {"spatial": 78.0, "temporal": 59.5}),
                "local_global": Row({"model.attention_type": "local_global"}, {"spatial": 75.9, "temporal": 56.3}),
                "axial": Row({"model.attention_type": "axial"}, {"spatial": 73.5, "temporal": 56.2}),
                **{other: Row(changes) for other, changes in size.others.items()},
            },
            claims=(
                Claim("temporal", "divided_space_time", "space_only"),
                Claim("temporal", "joint_space_time", "space_only"),
                *(
                    Claim(task, "divided_space_time", other)
                    for task in TASKS
                    for other in ("space_only", "joint_space_time", "local_global", "axial")
                    if (task, other) != ("temporal", "space_only")
                ),
            ),
            all_seeds=True,
            note="" if not size.others else OTHERS_NOTE,
        ),
        "positions": Experiment(
            title="Table 4: position embeddings",
            found="both embeddings are needed, and the time embedding matters most if the order of frames does",
            first_column="`position_embedding`",
            rows={
                "none": Row({"model.position_embedding": "none"}, {"spatial": 75.4, "temporal": 45.8}),
                "space": Row({"model.position_embedding": "space"}, {"spatial": 77.8, "temporal": 52.5}),
                "space_time": Row({}, {"spatial": 78.0, "temporal": 59.5}),
            },
            claims=(
                Claim("spatial", "space_time", "none"),
                Claim("temporal", "space_time", "none"),
                Claim("temporal", "space_time", "space"),
                Claim("spatial", "space_time", "space"),
            ),
        ),
        "order": Experiment(
            title="Section 4.7: the order of the two attentions",
            found="time before space is the best, by about half a point",
            first_column="`attention_order`",
            rows={
                "time_then_space": Row({}, {"spatial": 78.0}),
                "space_then_time": Row({"model.attention_order": "space_then_time"}, {"spatial": round(78.0 - 0.5, 1)}),
                "parallel": Row({"model.attention_order": "parallel"}, {"spatial": round(78.0 - 0.4, 1)}),
            },
            claims=tuple(Claim("spatial", "time_then_space", other) for other in ("space_then_time", "parallel")),
            tasks=("spatial",),
        ),
        "data_share": Experiment(
            title="Figure 4: the share of the training set",
            found="the more training videos, the more accurate; TimeSformer is the best at every share of K400, and on SSv2 at "
            "75 and 100 %, while the convolutional networks are ahead below",
            first_column="share in %",
            rows={
                f"{name} {share}": Row(_share(share, size.epochs, changes))
                for name, changes in {TIMESFORMER: {}, **size.others}.items()
                for share in SHARES
            },
            claims=(
                *(Claim(task, f"{TIMESFORMER} {SHARES[-1]}", f"{TIMESFORMER} {SHARES[0]}") for task in TASKS),
                *(
                    Claim(task, *((ours, theirs) if task == "spatial" or share >= LEAST_SHARE else (theirs, ours)))
                    for task in TASKS
                    for share in SHARES
                    for other in size.others
                    for ours, theirs in [(f"{TIMESFORMER} {share}", f"{other} {share}")]
                ),
            ),
            plotted=True,
            note="Every share takes the same number of steps." if size.epochs else "",
        ),
        "frames": Experiment(
            title="Figure 5: the number of frames",
            found="the more frames, the more accurate, on K400",
            first_column="frames",
            **curve(size.frames, ("spatial",), claimed=("spatial",)),
            note=size.frames_note,
        ),
        "crops": Experiment(
            title="Figure 5: the size of the crop",
            found="the larger the crop, the more accurate, up to a certain point",
            first_column="pixels",
            **curve(size.crops, ("spatial",), claimed=("spatial",)),
        ),
        "pretraining": Experiment(
            title="Section 4.2: initialization from an image model",
            found="initialization from an image model matters: from scratch, K400 accuracy is far lower",
            first_column="initialization",
            rows=size.pretraining,
            claims=(Claim("spatial", IMAGE_ROW, "scratch"), *size.pretraining_claims),
            tasks=size.pretraining_tasks,
            note="" if size.image_model is None else PRETRAINING_NOTE,
        ),
        "clips": Experiment(
            title="Figure 6: the number of clips per video",
            found="more clips per video are more accurate, up to the few that cover it",
            first_column="clips",
            rows={CLIPS_ROW: Row(size.clips)},
            claims=(Claim("spatial", str(size.clip_counts[-1]), str(size.clip_counts[0])),),
            tasks=("spatial",),
            plotted=True,
        ),
    }
    if size.only is None:
        return table
    return {
        name: dataclasses.replace(table[name], rows={label: table[name].rows[label] for label in labels})
        for name, labels in size.only.items()
    }


PRETRAINING_NOTE = (
    "The image model is an image transformer that names the digit in single frames of four times as many videos with signs, "
    "and the classifier is new. `temporal_fc` and the time embedding start at zero in both rows, as in the official code, "
    "so the first features are the image model's. `from_images` draws the new classifier with a larger spread, and its row "
    "also raises the learning rate of the time embedding by 10 (`optimizer.rates`). The paper does not report the temporal "
    "task."
)
OTHERS_NOTE = (
    "The convolutional networks are narrow copies of the paper's, with the recipe of TimeSformer. The paper compares their "
    "cost in Table 2 and their accuracy in Figure 4, below."
)
IMAGE_ROW = "image model"
TIMESFORMER = "TimeSformer"
SHARES = (25, 50, 75, 100)
LEAST_SHARE = 75
"""Smallest share in % at which the paper's TimeSformer is the best on SSv2."""
CLIPS_ROW = "tested with many clips"


def _share(percent: int, epochs: Mapping[str, float], changes: Changes) -> Changes:
    share = percent / 100
    scaled = {"train.data_share": share} | {field: value / share for field, value in epochs.items()}
    return {**({} if percent == 100 else scaled), **changes}
