"""`--mode=plan`: whether a config fits hardware that is not there, and how long its training would take there."""

import dataclasses
import logging
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import timesformer_jax as tsf
from experiment.architectures import is_cnn, model_fields
from experiment.checks import OBJECTIVES, check_config
from experiment.data import clip_options
from experiment.follow import follow_weights
from input_pipeline import MixingOptions, PixelOptions
from input_pipeline.datasets import classes_of_digits
from input_pipeline.moving_digits import FRAME_SIZE
from timesformer_jax.planning import Plan, StepRequest, Target, find_target, plan_step, plan_text, run_elsewhere
from timesformer_jax.planning.report import search_text
from timesformer_jax.planning.search import Search, search_plans
from timesformer_jax.planning.targets import EXAMPLES
from timesformer_jax.pretrained.zoo import ZOO

log = logging.getLogger("timesformer_jax")


class Published(NamedTuple):
    """Published figures of a data set."""

    num_classes: int
    """Number of classes."""
    num_videos: int
    """Number of training videos."""


DATA_SETS: dict[str, Published] = {
    "kinetics400": Published(400, 240_000),
    "kinetics600": Published(600, 392_000),
    "something_something_v2": Published(174, 170_000),
    "diving48": Published(48, 16_000),
    "howto100m": Published(1059, 85_000),
    "ucf101": Published(101, 9_537),
    "hmdb51": Published(51, 3_570),
}
"""Maps `data.name` to its figures, rounded as in the configs."""


def plan(config: Any, typed: Collection[str] = ()) -> None:
    """Plan the config's training step for `plan.target`, and print what it needs.

    Args:
        config: The config; neither its data nor a workdir is needed.
        typed: Dotted paths of the fields that the command line sets.

    Raises:
        InputError: If a field is invalid, the target is unknown, or its compiler is not installed.
    """
    if not config.plan.target:
        raise tsf.InputError(f"plan.target must be given, such as {', '.join(EXAMPLES)}, or a topology such as v5e:4x4.")
    target = find_target(config.plan.target)
    request = step_request(config, typed)
    if config.plan.search:
        log.info("Searching for the fastest way to compute the step on %s; this takes about 20 minutes.", target.name)
        print(search_text(search_step(request, target, config.plan.python)))
    else:
        log.info("Compiling the training step for %s; this takes minutes.", target.name)
        print(plan_text(planned(request, target, config.plan.python)))


def planned(request: StepRequest, target: Target, python: str | None = None) -> Plan:
    """Plan a step in a process with the compiler for the target, or here for this machine's devices."""
    if target.platform == "local":
        return plan_step(request, target.name)
    job = {"request": request.to_json(), "target": target.name, "search": False}
    return Plan.from_json(run_elsewhere(job, target, python))


def search_step(request: StepRequest, target: Target, python: str | None = None) -> Search:
    """Search in a process with the compiler for the target."""
    if request.architecture != "timesformer":
        raise tsf.InputError(
            f"plan.search=True chooses remat, scan and mesh of a TimeSformer: use --mode=plan without it for architecture="
            f"{request.architecture}."
        )
    if target.platform != "tpu":  # refused before a compiler is looked for
        return search_plans(request, target.name)
    job = {"request": request.to_json(), "target": target.name, "search": True}
    return Search.from_json(run_elsewhere(job, target, python))


def step_request(config: Any, typed: Collection[str] = ()) -> StepRequest:
    """Describe the config's training step, without its data.

    Raises:
        InputError: If a field is invalid, or the data set has no published figures and the config none.
    """
    config = _follow(config, typed)
    check_config(config, trains=True)
    figures = _figures(config)
    clips = clip_options(config)
    return StepRequest(
        model={"num_classes": figures.num_classes, **model_fields(config)},
        architecture=config.architecture,
        mesh=config.mesh.to_dict(),
        batch_size=config.train.batch_size,
        window=clips.training_window(config.data.get("short_side") or FRAME_SIZE),
        optimizer=config.optimizer.to_dict(),
        num_epochs=config.train.num_epochs,
        clips_per_epoch=max(round(figures.num_videos * config.train.data_share), 1) * clips.clips_per_video,
        accumulation=config.train.accumulation,
        ema_decay=config.train.ema_decay,
        label_smoothing=config.train.label_smoothing,
        objective=OBJECTIVES[config.plan.multi_label],
        pixels=dataclasses.asdict(PixelOptions(**config.pixels)),
        mixing=dataclasses.asdict(MixingOptions(**config.mixing)),
    )


def _figures(config: Any) -> Published:
    """Number of classes and of training videos: the config's, else those published with the data set."""
    name = config.data.get("name")
    given = {"num_classes": config.plan.num_classes, "num_videos": config.plan.num_videos}
    known = DATA_SETS.get(name)
    if name == "moving_digits":
        classes = classes_of_digits(config.data.get("scene", "motion"), config.data.label)
        known = Published(len(classes), config.data.train_clips)
    figures = []
    for field in Published._fields:
        value = getattr(known, field, None) if given[field] is None else given[field]
        if value is None:
            raise tsf.InputError(f"plan.{field} must be given: the data set {name} has no published number.")
        if value < 1:
            raise tsf.InputError(f"plan.{field} must be at least 1, got {value}.")
        figures.append(value)
    return Published(*figures)


def _follow(config: Any, typed: Collection[str]) -> Any:
    """Fill in the fields that follow the weights; weights that are not on this disk are not downloaded."""
    config, source = config.copy_and_resolve_references(), config.init_from
    if source and not Path(source).expanduser().exists():
        config.update({"init_from": None, "init_from_entry": None, "init_from_prefix": None, "init_from_allow": ()})
        if source in ZOO and not is_cnn(config):
            published = ZOO[source]
            for name in ("num_frames", "image_size"):
                if config.model[name] is None:
                    config.model[name] = getattr(published, name)
    with tempfile.TemporaryDirectory() as empty:
        config = follow_weights(config, empty, "plan", typed)
    if source and config.init_from is None and source not in ZOO and not is_cnn(config):
        log.info(
            "init_from=%s is not downloaded for a plan: width %d, depth %d and patches of %d are the config's. Set "
            "--config.model.* if the weights differ.",
            source,
            config.model.embed_dim,
            config.model.depth,
            config.model.patch_size,
        )
    return config
