"""Config fields that nothing reads are refused, unless they are leftovers of a config file."""

from pathlib import Path
from typing import Any

import pytest

from configs.common import new_config
from experiment.command_line import name_flags
from experiment.follow import follow_weights
from experiment.plan import step_request
from experiment.train import adjust
from experiment.unread import READERS
from tests.runs import config_of
from timesformer_jax import InputError

STEPS = ((0, 1.0), (5, 0.1))

IGNORED: dict[str, tuple[Any, dict[str, Any]]] = {
    "optimizer.steps": (STEPS, {"optimizer.schedule": "cosine"}),
    "optimizer.b2": (0.95, {"optimizer.name": "sgd"}),
    "clips.sampling_rate": (4.0, {"clips.sampling": "segments"}),
    "clips.span": (64.0, {"clips.sampling": "segments"}),
    "clips.placement": ("centre", {"clips.sampling": "segments"}),
    "clips.area": ((0.5, 1.0), {"clips.jitter": "uniform"}),
    "clips.aspect": ((1.0, 1.0), {"clips.jitter": "uniform"}),
    "eval.num_clips": (5, {"clips.placement": "tiled"}),
    "model.attention_order": ("parallel", {"model.attention_type": "joint_space_time"}),
    "model.temporal_cls_key": (True, {"model.attention_type": "local_global"}),
    "model.resize": ("linear", {"model.position_embedding": "none"}),
    "probe.depth": (4, {"probe.kind": "linear"}),
    "probe.num_heads": (8, {"probe.kind": "linear"}),
    "init_from_entry": ("model_ema", {"init_from": None}),
    "init_from_prefix": ("student.", {"init_from": None}),
    "init_from_allow": (("aux_head.*",), {"init_from": None}),
}
"""Maps a field to a value and to a setting with which the field is ignored."""
FOLLOWS = ("clips.sampling_rate", "clips.placement", "clips.span", "eval.num_clips", "model.")
"""Fields that are refused only if typed, since they or the fields that decide follow the weights."""


def follow(changes: dict[str, Any], typed: tuple[str, ...] = (), mode: str = "probe") -> Any:
    return follow_weights(config_of("folder", **changes), "/no/such/workdir", mode, typed)


def test_every_field_has_a_case():
    assert IGNORED.keys() == READERS.keys()


@pytest.mark.parametrize("path", IGNORED)
def test_field_that_nothing_reads_is_refused(path: str):
    value, setting = IGNORED[path]
    with pytest.raises(InputError) as caught:
        follow({path: value, **setting}, typed=(path, *setting))
    said = name_flags(str(caught.value), new_config())
    assert said.startswith(f"--config.{path}={value} has no effect with")
    assert f"--config.{next(iter(setting))}" in said
    assert ": drop it, or " in said
    assert "\n" not in said


@pytest.mark.parametrize("path", IGNORED)
def test_default_that_nothing_reads_passes(path: str):
    _, setting = IGNORED[path]
    follow(setting)
    follow(setting, typed=tuple(setting))


@pytest.mark.parametrize("path", IGNORED)
def test_config_file_is_refused_only_for_what_it_decides_alone(path: str):
    """Its value passes if the command line changes the field that decides, or if weights may set either."""
    value, setting = IGNORED[path]
    follow({path: value, **setting}, typed=tuple(setting))
    if path.startswith(FOLLOWS):
        follow({path: value, **setting})
    else:
        with pytest.raises(InputError, match="has no effect"):
            follow({path: value, **setting})


def test_message_names_the_values_that_read_the_field():
    words = r"optimizer\.steps=.* has no effect with optimizer\.schedule=cosine, only with steps: drop it, or change optimizer"
    with pytest.raises(InputError, match=words):
        follow({"optimizer.schedule": "cosine", "optimizer.steps": STEPS})
    follow({"optimizer.schedule": "steps", "optimizer.steps": STEPS})


def test_recipe_accepts_another_schedule_on_the_command_line():
    config = config_of("k400", **{"optimizer.schedule": "cosine", "init_from": None})
    follow_weights(config, "/no/such/workdir", "train", ["optimizer.schedule"])


def test_span_and_rate_on_the_command_line_are_refused():
    with pytest.raises(InputError, match="both set the distance between frames: drop one of them"):
        follow({"clips.span": 64.0, "clips.sampling_rate": 4.0}, typed=("clips.span", "clips.sampling_rate"))


@pytest.mark.parametrize(
    ("values", "rate"),
    [
        ({"clips.span": 96.0, "clips.sampling_rate": None}, None),
        ({"clips.span": None, "clips.sampling_rate": 4.0}, 4.0),
        ({"clips.span": None}, 32.0),
    ],
    ids=str,
)
def test_one_of_span_and_rate_may_be_unset(values: dict[str, Any], rate: float | None):
    """An unset span leaves the recipe's rate alone."""
    config = config_of("k400", **values, init_from=None)
    follow_weights(config, "/no/such/workdir", "train", tuple(values))
    assert config.clips.sampling_rate == rate


def test_probe_is_only_checked_by_its_mode():
    follow({"probe.depth": 4}, typed=("probe.depth",), mode="train")


def test_overfitting_a_batch_ignores_the_steps(tmp_path: Path):
    """It uses a constant rate, whatever the schedule of the run to check."""
    config = config_of("folder", overfit_batch=True, **{"optimizer.schedule": "steps", "optimizer.steps": STEPS})
    config, workdir = adjust(config, str(tmp_path))
    follow_weights(config, workdir, "train", ["optimizer.steps", "optimizer.schedule"])


def test_plan_without_the_weights_accepts_the_choice_among_them():
    config = config_of("k400", init_from="hf:nobody/nothing", init_from_entry="model_ema", init_from_allow=("aux.*",))
    step_request(config, ["init_from", "init_from_entry", "init_from_allow"])
