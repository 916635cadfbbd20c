"""I3D and SlowFast in the jobs of main.py: refusals before any data are read, recipes, and a run from beginning to end."""

import functools
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import main
import timesformer_jax as tsf
from experiment.checks import check_config
from experiment.curves import read_curves
from experiment.follow import follow_weights, make_model
from experiment.plan import search_step, step_request
from tests.input_pipeline.miniatures import make_kinetics, make_something
from tests.runs import config_of, predictions, results
from timesformer_jax import InputError, training
from timesformer_jax.features import read_features
from timesformer_jax.modeling import describe_model, variables_of, weight_shapes
from timesformer_jax.orbax_io import read_host_arrays, read_metadata
from timesformer_jax.planning import find_target
from timesformer_jax.pretrained import save_pyslowfast
from timesformer_jax.pretrained.orbax import write_checkpoint


@pytest.fixture(autouse=True, scope="module")
def optax_promotes() -> Iterator[None]:
    """Allow dtype promotion, since optax mixes dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def digits(data_dir: str = "", **changes: Any) -> Any:
    """The config of the moving digits with a narrow SlowFast."""
    return config_of("moving_digits", "slowfast", **{"data.data_dir": data_dir, **changes})


# Refusals.


def test_field_of_another_architecture_is_refused():
    words = r"model.depth=3 has no effect with architecture=slowfast, whose fields are in cnn: drop it"
    with pytest.raises(InputError, match=words):
        main.run(digits(**{"model.depth": 3}), "/no/such", "train")
    words = r"cnn.num_frames=4 has no effect with architecture=timesformer, whose fields are in model: drop it"
    with pytest.raises(InputError, match=words):
        main.run(config_of("moving_digits", **{"cnn.num_frames": 4}), "/no/such", "train")
    with pytest.raises(InputError, match=r"model.image_size=448 has no effect with architecture=slowfast"):
        main.run(config_of("k400", "slowfast,hr"), "/no/such", "show")


@pytest.mark.parametrize(
    ("mode", "changes", "words"),
    [
        ("train", {"architecture": "x3d"}, r"architecture must be one of timesformer, i3d, slowfast, got 'x3d'"),
        ("train", {"cnn.num_frames": 0}, r"--config.cnn.num_frames must be .*got 0"),
        ("train", {"mesh.tensor": 2}, r"mesh.tensor=2 can't split a SlowFast, which has no attention heads: use mesh.data or"),
        (
            "train",
            {"mesh.context": 2},
            r"mesh.context=2 can't split a SlowFast, whose convolutions over time read neighbouring",
        ),
        ("train", {"optimizer.layer_decay": 0.7}, r"optimizer.layer_decay=0.7 needs the blocks of a TimeSformer: use 1.0"),
        ("train", {"cnn.dtype": "float16"}, r"cnn.dtype=float16 is for testing"),
        (
            "probe",
            {"probe.kind": "attentive"},
            r"probe.kind=attentive needs the tokens of a TimeSformer.* use probe.kind=linear",
        ),
        (
            "features",
            {"features.kind": "patches"},
            r"features.kind=patches needs the tokens of a TimeSformer.* use features.kind=cls",
        ),
    ],
)
def test_what_a_cnn_cannot_do_is_refused_before_data_are_read(mode: str, changes: dict, words: str, tmp_path: Path):
    with pytest.raises(InputError, match=words):
        main.run(digits("/no/such/folder", **changes), str(tmp_path / "run"), mode)


def test_plan_describes_the_step_but_does_not_search():
    request = step_request(config_of("k400", "slowfast"))
    assert (request.architecture, request.model["num_classes"], request.model["num_frames"]) == ("slowfast", 400, 32)
    assert type(request).from_json(request.to_json()).module == request.module
    with pytest.raises(InputError, match=r"plan.search=True chooses remat, scan and mesh of a TimeSformer"):
        search_step(request, find_target("v5e-8"))


def test_workdir_of_another_architecture_is_refused(tmp_path: Path):
    """In both directions."""
    notes = {"data": {"label_names": ["a"]}, "preprocess": {"num_frames": 8, "crop_size": 32}}
    for name, model in (("i3d", {"architecture": "i3d"}), ("timesformer", describe_model(make_model(small_timesformer())))):
        write_checkpoint(tmp_path / name / "checkpoints" / "1", {"x": np.zeros(3, np.float32)}, {**notes, "model": model})
        with pytest.raises(InputError, match=rf"architecture={name}, and this config architecture=slowfast"):
            follow_weights(digits(), str(tmp_path / name), "train")
    with pytest.raises(InputError, match=r"has architecture='i3d', not a TimeSformer"):
        follow_weights(config_of("moving_digits"), str(tmp_path / "i3d"), "train")


def small_timesformer() -> Any:
    return follow_weights(config_of("moving_digits", init_from=None), "/no/such", "train")


# Recipes.


@pytest.mark.parametrize("name", ["k400", "ssv2"])
@pytest.mark.parametrize("architecture", ["i3d", "slowfast"])
def test_recipe_has_the_published_schedule(name: str, architecture: str):
    config = follow_weights(config_of(name, architecture, init_from=None), "/no/such", "train")
    check_config(config, trains=True)
    epochs, warmup, rate, decay, clips = (196, 34, 0.1, 1e-4, 64) if name == "k400" else (22, 0.19, 0.03, 1e-6, 16)
    assert (config.train.num_epochs, config.optimizer.warmup_epochs) == (epochs, warmup)
    assert (config.optimizer.learning_rate, config.optimizer.weight_decay, config.train.batch_size) == (rate, decay, clips)
    assert (config.cnn.image_size, config.clips.eval_crop_size, config.clips.short_side) == (224, 256, (256, 320))
    frames = {("k400", "slowfast"): 32, ("ssv2", "slowfast"): 64}.get((name, architecture), 8)
    assert config.cnn.num_frames == frames
    assert (config.eval.num_clips, config.eval.num_crops) == ((10, 3) if name == "k400" else (1, 1))
    if name == "k400":
        assert config.clips.sampling_rate == {"slowfast": 2.0, "i3d": 8.0}[architecture]


def test_recipe_decays_everything_but_batch_norm():
    config = follow_weights(config_of("k400", "slowfast"), "/no/such", "train")
    params = variables_of(weight_shapes(make_model(config)))["params"]
    decays = re.compile(config.optimizer.decay_pattern)
    for keys, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        path = jax.tree_util.keystr(keys, simple=True, separator="/")
        assert bool(decays.fullmatch(path)) == (leaf.ndim > 1 or path.startswith("head/")), path
    placed = training.sharding_of(params, params, training.make_mesh(data=1, fsdp=8))
    for leaf, sharding in zip(jax.tree.leaves(params), jax.tree.leaves(placed), strict=True):
        assert sharding.is_fully_replicated == (leaf.ndim == 1 or leaf.shape[-2] % 8 > 0), leaf.shape


def test_recipe_for_something_something_needs_weights(tmp_path: Path):
    with pytest.raises(InputError, match=r"There is no file or folder SLOWFAST_8x8_R50.pkl"):
        main.run(config_of("ssv2", "slowfast"), str(tmp_path), "train")


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["i3d", "slowfast"])
@pytest.mark.parametrize(("name", "make"), [("k400", make_kinetics), ("ssv2", make_something)])
def test_recipe_shows_its_clips(name: str, make: Any, architecture: str, tmp_path: Path):
    make(tmp_path / "data")
    folders = {"data.root": str(tmp_path / "data"), "data.data_dir": str(tmp_path / "prepared")}
    main.run(config_of(name, architecture, **folders, init_from=None), str(tmp_path / "run"), "show")
    assert {path.name for path in (tmp_path / "run").glob("*.png")} == {"train.png", "val.png"}


# Runs.


def run_digits(workdir: Path, mode: str, data_dir: str, devices: int = 8, **changes: Any) -> None:
    """Run a mode on 96 clips in batches of 16, on some of the simulated devices."""
    small = {"data.train_clips": 96, "data.val_clips": 21, "train.batch_size": 16, "train.log_every_steps": 1}
    small |= {"train.evaluate_every_epochs": 9.0, "train.checkpoint_every_epochs": 9.0, "optimizer.name": "sgd"}
    small |= {"optimizer.schedule": "constant", "optimizer.warmup_epochs": 0.0, "train.ema_decay": 0.9, "mesh.data": -1}
    with pytest.MonkeyPatch.context() as patch:
        make_mesh = training.make_mesh
        patch.setattr(training, "make_mesh", lambda **sizes: make_mesh(jax.devices()[:devices], **sizes))
        main.run(digits(data_dir, **{**small, **changes}), str(workdir), mode)


def losses(workdir: Path) -> list[float]:
    """Loss of every training step."""
    return list(read_curves(str(workdir))["loss"]["training"][1])


def state_of(workdir: Path, step: int) -> Any:
    folder = workdir / "checkpoints" / str(step)
    entries = {name: entry for name, entry in read_metadata(folder).entries.items() if name != "metrics"}
    return read_host_arrays(folder, entries)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, data_dir: str) -> Path:
    """Four steps in one go, on eight devices."""
    workdir = tmp_path_factory.mktemp("whole")
    run_digits(workdir, "train", data_dir, **{"train.num_epochs": 4 / 6})
    return workdir


@pytest.mark.slow
def test_cnn_resumes_bit_exactly_and_on_another_mesh(whole: Path, tmp_path: Path, data_dir: str):
    run_digits(tmp_path / "parts", "train", data_dir, **{"train.num_epochs": 2 / 6})
    shutil.copytree(tmp_path / "parts", tmp_path / "other")
    run_digits(tmp_path / "parts", "train", data_dir, **{"train.num_epochs": 4 / 6})
    run_digits(tmp_path / "other", "train", data_dir, **{"train.num_epochs": 4 / 6, "mesh.data": 1, "mesh.fsdp": -1})
    expected = state_of(whole, 4)
    assert expected["batch_stats"]
    jax.tree.map(np.testing.assert_array_equal, expected, state_of(tmp_path / "parts", 4))
    assert predictions(whole) == predictions(tmp_path / "parts")
    assert losses(whole) == losses(tmp_path / "parts")

    def close(a: np.ndarray, b: np.ndarray) -> None:
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(a).max() + 1e-7)

    jax.tree.map(close, expected, state_of(tmp_path / "other", 4))


@pytest.mark.slow
def test_cnn_has_the_same_losses_on_one_device(whole: Path, tmp_path: Path, data_dir: str):
    run_digits(tmp_path, "train", data_dir, devices=1, **{"train.num_epochs": 4 / 6})
    np.testing.assert_allclose(losses(whole), losses(tmp_path), rtol=1e-5)


@pytest.mark.slow
def test_cnn_is_evaluated_probed_reported_and_shown(whole: Path, data_dir: str):
    before = predictions(whole)
    for mode in ("eval", "report", "show", "features", "probe"):
        run_digits(whole, mode, data_dir, **{"probe.num_epochs": 0.5})
    for name, row in predictions(whole).items():
        assert dict(row["best"]) == pytest.approx(dict(before[name]["best"]), abs=2e-6)
    page = (whole / "report.html").read_text()
    assert "A SlowFast, 8 frames of 32 x 32 pixels" in page
    assert "The map is Grad-CAM for the predicted label" in page
    assert page.count('class="maps"') == len(re.findall('<article class="example', page)) > 0
    features = read_features(whole / "features" / "val")
    assert len(features.values) == 21
    assert (whole / "probe" / "batch_stats").is_dir()


@pytest.mark.slow
def test_cnn_starts_from_a_run_and_from_a_file(whole: Path, tmp_path: Path, data_dir: str):
    """A step with a tiny rate doesn't change the weights."""
    trained = tsf.load(whole)
    save_pyslowfast(trained, tmp_path / "model.safetensors")
    still = {"train.num_epochs": 1 / 6, "optimizer.learning_rate": 1e-12, "train.ema_decay": 0.0}
    for name, source in {"run": whole, "file": tmp_path / "model.safetensors"}.items():
        run_digits(tmp_path / name, "train", data_dir, init_from=str(source), **still)
        close = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-7)
        jax.tree.map(close, state_of(tmp_path / name, 1)["params"], trained.params)
    assert losses(tmp_path / "run") == losses(tmp_path / "file")


@pytest.mark.slow
def test_narrow_slowfast_learns_moving_digits(tmp_path: Path, data_dir: str):
    changes = {"data.train_clips": 1280, "data.val_clips": 96, "train.num_epochs": 1.0, "train.ema_decay": 0.0}
    changes |= {"optimizer.name": "adamw", "optimizer.schedule": "cosine", "train.log_every_steps": 20}
    run_digits(tmp_path, "train", data_dir, devices=1, **changes)
    assert results(tmp_path)["top1"] > 0.5  # of eight motions
