"""The table of docs/weights.md, measured: the source that decides each value in each job.

    python -m tests.taken_from      writes the table into docs/weights.md

Every cell of a job of main.py is measured: sources are given different values, and the one whose value the job uses precedes
the others.
"""

import argparse
import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import timesformer_jax as tsf
from configs.common import FOLLOWING, new_config
from experiment import checks, follow
from timesformer_jax.jobs import explain, features, predict
from timesformer_jax.modeling import describe_model
from timesformer_jax.pretrained import Architecture
from timesformer_jax.video import Preprocess

PAGE = Path(__file__).parent.parent / "docs" / "weights.md"
BEGIN, END = "<!-- python -m tests.taken_from writes from here -->", "<!-- to here -->"


class What(NamedTuple):
    """A row: a field of the config, two possible values other than its default, and its names elsewhere."""

    title: str
    field: str
    one: Any
    other: Any
    flag: str | None = None
    """Flag of `timesformer predict`, `features` and `explain`."""
    argument: str = "preprocess"
    """Argument of `timesformer_jax.load`."""


PIXELS = ((0.1, 0.1, 0.1), (0.2, 0.2, 0.2))
ROWS = (
    What("mean", "pixels.mean", *PIXELS),
    What("standard deviation", "pixels.std", *PIXELS),
    What("channel order", "pixels.channel_order", "bgr", "rgb"),
    What("sampling", "clips.sampling", "segments", "uniform"),
    What("sampling rate", "clips.sampling_rate", 3.0, 5.0),
    What("placement", "clips.placement", "centre", "dense", flag="--placement"),
    What("short side", "clips.short_side", (230, 288), (240, 300)),
    What("activation", "model.activation", "quick_gelu", "gelu_tanh", "--activation", "activation"),
    What("epsilon", "model.layer_norm_epsilon", 1e-5, 1e-4, None, "layer_norm_epsilon"),
    What("`pre_norm`", "model.pre_norm", True, False, None, "pre_norm"),
    What("heads", "model.num_heads", 6, 8, "--num-heads", "num_heads"),
    What("width", "model.embed_dim", 384, 192, None, "embed_dim"),
    What("depth", "model.depth", 3, 4, None, "depth"),
    What("patch size", "model.patch_size", 8, 32, None, "patch_size"),
    What("scheme", "model.attention_type", "space_only", "joint_space_time", None, "attention_type"),
    What("frames", "model.num_frames", 4, 16, "--num-frames", "num_frames"),
    What("image size", "model.image_size", 112, 448, "--image-size", "image_size"),
)


class Column(NamedTuple):
    """Jobs of main.py that agree, and whether the workdir has a checkpoint."""

    title: str
    modes: tuple[str, ...]
    checkpoint: bool


COLUMNS = (
    Column("train, probe, features from `init_from`", ("train", "probe", "features"), checkpoint=False),
    Column("resume", ("train",), checkpoint=True),
    Column("eval, report, show, probe, features of a run", ("eval", "report", "show", "probe", "features"), checkpoint=True),
)
JOBS = {"predict": predict, "features": features, "explain": explain}
DECIDED_BY_THE_DATA = {
    "label names": (
        ["data", *["data; others than the checkpoint's are refused"] * 2],
        ["`--labels`, weights", "`labels=`, weights"],
    ),
    "objective": (
        ["data", *["data; another than the checkpoint's is refused"] * 2],
        ["`--objective`, weights, softmax", "`objective=`, weights, softmax"],
    ),
}
"""Rows that need a data set, with their cells for main.py and for the others. Other tests cover them."""


def weights_of(what: What, value: Any) -> Architecture:
    """Return weights that state `value`; None for weights that don't state it."""
    stated: dict[str, Any] = {}
    fields = {name: default for name, default in FOLLOWING["model"].items() if name not in ("image_size", "num_frames")}
    section, name = what.field.split(".")
    if value is None:
        fields.pop(name, None)
    elif section == "model":
        fields[name] = value
    else:
        stated = {name: value[0] if name == "short_side" else value}
    return Architecture(fields, Preprocess(num_frames=8, crop_size=224, **stated), stated)


@contextmanager
def surroundings(weights: Architecture, *, checkpoint: bool) -> Iterator[None]:
    """Make a workdir whose checkpoint, or an `init_from`, states the value; nothing is read."""
    there = Path("/run/checkpoints/1") if checkpoint else None
    notes = {"model": {**describe_model(tsf.TimeSformer(num_classes=1)), **weights.fields}}
    with (
        mock.patch.object(follow, "find_checkpoint", return_value=there),
        mock.patch.object(checks, "find_checkpoint", return_value=there),
        mock.patch.object(checks, "read_notes", return_value=notes),
        mock.patch.object(follow, "read_architecture", return_value=weights),
        mock.patch.object(Architecture, "check", return_value=None),
    ):
        yield


def used(what: What, given: dict[str, Any], *, mode: str, checkpoint: bool) -> Any:
    """Return which of the sources' values a job uses; raises `InputError` if the job refuses them."""
    section, name = what.field.split(".")
    config: Any = new_config(init_from="weights")
    value = given.get("command line", given.get("config"))
    if value is not None:
        config[section][name] = value
    weights = weights_of(what, given.get("weights"))
    with surroundings(weights, checkpoint=checkpoint):
        filled = follow.follow_weights(config, "/run", mode, [what.field] if "command line" in given else [])
        if checkpoint:
            model = {name: filled.model[name] for name in weights.fields}
            checks.check_checkpoint("/run", {"model": model}, needed=True)
    return filled[section][name]


def precedence(what: What, *, mode: str, checkpoint: bool) -> str:
    """Return the sources in order of precedence, each tested against all that may follow it."""
    order: list[str] = []
    refused: list[str] = []
    left = ["command line", "config", "weights"]
    options: Any = {"mode": mode, "checkpoint": checkpoint}
    while left:
        for source in left:
            values = {each: what.one if each == source else what.other for each in left}
            try:
                wins = used(what, values, **options) == what.one
            except tsf.InputError:
                refused.append(source)
                wins = source != "weights"
            if wins:
                left.remove(source)
                order += [] if source in refused else [source]
                break
        else:
            raise AssertionError(f"None of {left} decides {what.field}.")
    default = used(what, {}, **options)
    expected = FOLLOWING[what.field.split(".")[0]][what.field.split(".")[1]]
    assert default == expected or what.field == "clips.short_side", (what.field, default)
    words = ", ".join("checkpoint" if checkpoint and source == "weights" else source for source in order)
    words += "" if checkpoint and what.field.startswith("model.") else ", default"
    both = {"command line", "config"} <= set(refused)
    return words + ("; others are refused" if both else "; another on the command line is refused" if refused else "")


def elsewhere(what: What) -> list[str]:
    """Return the cells of `timesformer` and `load`; the existence of flag and argument is read from these themselves."""
    for job in JOBS.values():
        parser = argparse.ArgumentParser()
        job.add_arguments(parser)
        name = what.field.split(".")[1].replace("_", "-")
        assert {f"--{name}"} & parser._option_string_actions.keys() == ({what.flag} if what.flag else set()), what.title
    known = {*inspect.signature(tsf.load).parameters, *inspect.signature(tsf.TimeSformer).parameters}
    assert what.argument in known
    flag = f"`{what.flag}`, weights" if what.flag else "weights"
    fixed = what.field.split(".")[1] in Architecture({what.field.split(".")[1]: 1}, Preprocess(num_frames=1, crop_size=1)).fixed
    load = "weights" if fixed and what.argument != "preprocess" else f"`{what.argument}=`, weights"
    if what.argument == "num_heads":
        return [f"{flag} (must agree)", "`num_heads=`, weights (must agree)"]
    return [flag, load]


def render() -> str:
    """Render the table in Markdown."""
    table = [["", *(column.title for column in COLUMNS), "`timesformer predict`, `features`, `explain`", "`tsf.load`"]]
    for what in ROWS:
        cells = []
        for column in COLUMNS:
            found = {precedence(what, mode=mode, checkpoint=column.checkpoint) for mode in column.modes}
            assert len(found) == 1, (what.title, column.title, found)
            cells += found
        table.append([what.title, *cells, *elsewhere(what)])
    table += [[title, *ours, *theirs] for title, (ours, theirs) in DECIDED_BY_THE_DATA.items()]
    lines = ["| " + " | ".join(row) + " |" for row in table]
    return "\n".join([lines[0], "|" + "---|" * len(table[0]), *lines[1:]])


def written(page: str) -> str:
    """Return the table between the marks of a page."""
    found = re.search(f"{re.escape(BEGIN)}\n\n(.*?)\n\n{re.escape(END)}", page, re.DOTALL)
    assert found is not None, f"the page lacks the marks {BEGIN} and {END}"
    return found[1]


if __name__ == "__main__":
    page = PAGE.read_text()
    PAGE.write_text(page.replace(written(page), render()))
