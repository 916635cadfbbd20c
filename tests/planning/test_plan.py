"""Plans for the devices of this process, from the config to the report, and plans that are refused."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import jax
import pytest

from experiment.plan import DATA_SETS, plan, step_request
from experiment.plan import planned as planned_elsewhere
from tests.runs import config_of
from timesformer_jax import InputError
from timesformer_jax.planning import Plan, StepRequest, find_target, plan_step, plan_text
from timesformer_jax.planning import environment as environments
from timesformer_jax.planning.memory import GIB, refused_memory
from timesformer_jax.planning.request import make_step
from timesformer_jax.training import make_mesh

TINY = {"model.embed_dim": 32, "model.num_heads": 2, "model.depth": 1, "train.batch_size": 16, "optimizer.name": "sgd"}
"""Changes of configs/moving_digits.py."""


def request_of(**overrides: Any) -> StepRequest:
    return step_request(config_of("moving_digits", **{**TINY, **overrides}))


@pytest.fixture(scope="module")
def planned() -> Plan:
    """A plan for the 8 simulated devices, sharded both ways, with micro-batches and an average."""
    return plan_step(request_of(**{"mesh.data": 2, "mesh.fsdp": 4, "train.accumulation": 2, "train.ema_decay": 0.9}), "local")


def test_plan_divides_memory_and_names_collectives(planned: Plan):
    memory = planned.memory
    assert planned.num_chips == 8
    assert planned.micro_batch == 1
    assert memory.average == memory.parameters
    assert memory.parameters <= memory.optimizer < 1.1 * memory.parameters  # momentum and counters
    clip = 8 * planned.request.window**2 * 3 + 2 * 32 * 4 + 4
    assert memory.batch == 2 * clip
    assert memory.total > 4 * memory.parameters + memory.batch
    assert planned.fits is None  # a CPU doesn't report its memory
    kinds = {(each.kind, each.axes) for each in planned.collectives}
    assert ("all-gather", "fsdp") in kinds
    assert any(axes == "data" for _, axes in kinds)
    assert planned.time is None  # nor has it known peaks


def test_plan_text_says_what_was_planned(planned: Plan):
    text = plan_text(planned)
    assert re.search(r"^Training step on local: needs [\d.]+ GiB a chip\.$", text, re.MULTILINE)
    assert "mesh data 2 x fsdp 4; 16 clips a step = 8 x 2 micro-batches x 1; float32, remat none, scan off." in text
    assert "not run" in text
    assert "measured" not in text
    assert re.search(r"^  all-gather +fsdp +\d+ +[\d.]+$", text, re.MULTILINE)


def test_plans_and_requests_survive_as_json(planned: Plan):
    assert Plan.from_json(planned.to_json()).to_json() == planned.to_json()
    assert Plan.from_json(planned.to_json()).memory == planned.memory


def test_mode_plan_prints_the_report(planned: Plan, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr("experiment.plan.plan_step", lambda request, target: planned)
    plan(config_of("moving_digits", **TINY, **{"plan.target": "local"}))
    assert capsys.readouterr().out == plan_text(planned) + "\n"


def test_step_request_takes_published_figures():
    request = step_request(config_of("k400", "hr"))
    assert (request.model["num_classes"], request.clips_per_epoch) == (400, 240_000)
    assert (request.model["embed_dim"], request.model["num_frames"], request.window) == (768, 16, 450)
    modern = step_request(config_of("ssv2", "modern", **{"plan.num_videos": 1000}))
    assert (modern.model["num_classes"], modern.clips_per_epoch, modern.ema_decay) == (174, 2000, 0.9999)
    given = {"init_from": "timesformer-hr-k400", "plan.num_classes": 7, "plan.num_videos": 70}
    released = step_request(config_of("folder", "video_folder,finetune", **given))
    assert (released.model["num_frames"], released.model["image_size"], released.num_steps) == (16, 448, 16)


def test_step_request_has_a_sigmoid_per_class_for_multi_label_videos():
    request = request_of(**{"plan.multi_label": True})
    _, _, batch = make_step(request, make_mesh(jax.devices()[:1]))
    assert (request.objective, batch["label"].shape) == ("sigmoid", (16, 8))


def test_published_figures_are_those_of_the_configs():
    for name, figures in DATA_SETS.items():
        files = [path for path in Path("configs").glob("*.py") if f'videos("{name}"' in path.read_text()]
        assert len(files) == 1, name
        assert f"training of {figures.num_videos:,} videos" in re.sub(r"\s+", " ", files[0].read_text()), name


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("moving_digits", {}, r"plan\.target must be given, such as v4-8, v5e-8"),
        ("moving_digits", {"plan.target": "v5e-9"}, r"plan\.target=v5e-9 is unknown"),
        ("folder:video_folder", {"plan.target": "local"}, r"plan\.num_classes must be given: the data set video_folder has no"),
        ("k400", {"plan.target": "local", "plan.num_videos": 0}, r"plan\.num_videos must be at least 1, got 0"),
        (
            "moving_digits",
            {"plan.target": "local", "train.batch_size": 12},
            r"train\.batch_size=12 can't be split evenly over 8",
        ),
        ("moving_digits", {"plan.target": "local", "mesh.tensor": 8}, r"mesh\.tensor=8 must divide the model's 4 heads"),
    ],
)
def test_mode_plan_refuses_bad_fields(file: str, changes: dict[str, Any], message: str):
    name, _, argument = file.partition(":")
    with pytest.raises(InputError, match=message):
        plan(config_of(name, argument or None, **changes))


@pytest.mark.parametrize(("variant", "label", "classes"), [(None, "digit", 10), (None, "motion", 8), ("clutter", "sign", 20)])
def test_moving_digits_are_planned_with_their_classes(variant: str | None, label: str, classes: int):
    request = step_request(config_of("moving_digits", variant, **{**TINY, "data.label": label}))
    assert request.model["num_classes"] == classes


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(environments, "ROOT", tmp_path)
    monkeypatch.setattr(environments, "_missing", lambda python, platform: list(environments.NEEDS[platform].values())[:-4])
    with pytest.raises(
        InputError, match=r"^plan\.target=v5e-8 needs libtpu, missing in .*: run `make plan-env`, which installs"
    ):
        environments.find_python(find_target("v5e-8"))
    with pytest.raises(
        InputError, match=r"plan\.target=h100 needs jax-cuda12-plugin and nvidia-cuda-nvcc-cu12 \(CUDA's nvcc\), missing in"
    ):
        environments.find_python(find_target("h100"))
    with pytest.raises(InputError, match=r"plan\.python=/no/python is no file"):
        environments.find_python(find_target("h100"), "/no/python")
    monkeypatch.setattr(environments.platform, "machine", lambda: "aarch64")
    with pytest.raises(InputError, match=r"needs Linux on x86-64, .* this is Linux on aarch64: plan on another machine"):
        environments.find_python(find_target("v5e-8"))


def test_the_environment_with_the_compiler_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    made = tmp_path / environments.PLAN_ENVIRONMENT / "bin" / "python"
    made.parent.mkdir(parents=True)
    made.touch()
    monkeypatch.setattr(environments, "ROOT", tmp_path)
    monkeypatch.setattr(environments, "_missing", lambda python, platform: [] if python == str(made) else ["libtpu"])
    assert environments.find_python(find_target("v5e-8")) == str(made)
    assert environments.environment_of(find_target("v5e-8"), str(made))["JAX_PLATFORMS"] == "cpu"
    monkeypatch.chdir(tmp_path)
    given = str(made.relative_to(tmp_path))  # the process that plans has another current folder
    assert environments.find_python(find_target("v5e-8"), given) == str(made)


def test_refused_steps_report_their_memory(planned: Plan):
    """XLA:TPU has two messages, both with the capacity of a v5e chip."""
    _, state, batch = make_step(planned.request, make_mesh(**{**planned.request.mesh}))
    early = (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (20.91G) exceeds (15.75G)."
    )
    memory = refused_memory(early, state, batch)
    assert memory is not None
    assert memory.activations + memory.gradients == int(20.91 * GIB)
    late = "Ran out of memory in memory space hbm. Used 16.35G of 15.75G hbm. Exceeded hbm capacity by 616.05M."
    memory = refused_memory(late, state, batch)
    assert memory is not None
    assert memory.total == pytest.approx(16.35 * GIB, rel=1e-6)
    assert refused_memory("INTERNAL: another error", state, batch) is None
    refused = dataclasses.replace(planned, memory=memory, available=15.75)
    assert plan_text(refused).startswith("Training step on local: does not fit: 0.60 GiB too much on each chip.")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["v5e:2x2", "v4-8", "v6e-1"])
def test_plan_for_a_tpu(name: str):
    target = find_target(name)
    try:
        environments.find_python(target)
    except InputError as error:
        pytest.skip(str(error))
    found = planned_elsewhere(request_of(), target)
    assert found.fits
    assert found.time is not None
    assert found.seconds is not None
    assert 0 < found.time.bound < found.seconds < 0.1
    assert {each.axes for each in found.collectives} == ({"data"} if found.num_chips > 1 else set())
    assert len(jax.devices()) == 8  # no compiler was loaded here
