"""From a CLIP image tower, every job looks at the clips that `timesformer_jax.load` prepares, with no flag for it."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import main
import timesformer_jax as tsf
from tests.runs import config_of, results
from tests.test_follow import clip_folder
from timesformer_jax.__main__ import main as cli
from timesformer_jax.features import read_features
from timesformer_jax.modeling import describe_model

STILL = {"optimizer.learning_rate": 1e-12, "optimizer.weight_decay": 0.0, "train.num_epochs": 0.5, "model.drop_path_rate": 0.0}
"""Training that leaves the model as it begins."""
SHORT = {"train.batch_size": 8, "eval.batch_size": 8, "eval.num_crops": 1, "probe.num_epochs": 0.5, "model.scan_layers": False}


@pytest.mark.slow
def test_every_job_sees_the_clips_of_load(tmp_path: Path, made_clips: Path, data_dir: str):
    """Features of the same videos agree but for the rounding to JPEG, which random weights make much of; what is saved says
    how clips are prepared."""
    source = clip_folder(tmp_path / "clip")
    loaded = tsf.load(source, num_classes=3)
    data = {"data.root": str(made_clips), "data.data_dir": data_dir, "data.short_side": 48, "data.val_fraction": 0.3}
    config = config_of("folder", "video_folder,finetune", init_from=str(source), **data, **SHORT, **STILL)
    with jax.numpy_dtype_promotion("standard"):
        for mode in ("train", "probe", "features"):
            main.run(config, str(tmp_path / mode), mode)
        main.run(config, str(tmp_path / "train"), "eval")
        main.run(config, str(tmp_path / "train"), "features")

    found = read_features(tmp_path / "features")
    apply: Any = jax.jit(functools.partial(loaded.model.apply, {"params": loaded.params}, method="features"))

    def features_of(preprocess: tsf.Preprocess) -> np.ndarray:
        clips = [preprocess(made_clips / name, num_crops=1) for name in found.names]
        return np.concatenate([np.asarray(apply(jnp.asarray(clip)).cls) for clip in clips])

    expected = features_of(loaded.preprocess)
    wrong = features_of(dataclasses.replace(loaded.preprocess, mean=(0.45,) * 3, std=(0.225,) * 3))

    def apart(features: np.ndarray) -> float:
        return float(np.abs(features - expected).mean())

    assert apart(found.per_video()) < 0.5 * apart(wrong)
    assert apart(read_features(tmp_path / "train" / "features").per_video()) < 0.5 * apart(wrong)  # of a run, by its checkpoint
    paths = [str(made_clips / name) for name in found.names]
    output = tmp_path / "by_the_library"
    options = [f"--checkpoint={source}", f"--output={output}", "--num-crops=1", "--num-classes=3"]
    assert cli(["features", *paths, *options]) == 0
    theirs = read_features(output)
    of_each = dict(zip(theirs.names, theirs.per_video(), strict=True))
    np.testing.assert_allclose(np.stack([of_each[path] for path in paths]), expected, atol=1e-4)

    for saved in (tsf.load(tmp_path / "train"), tsf.load(tmp_path / "probe" / "probe")):
        short_side = loaded.preprocess.short_side or loaded.preprocess.crop_size
        assert saved.preprocess == dataclasses.replace(loaded.preprocess, short_side=short_side)
        assert describe_model(saved.model) == describe_model(loaded.model)
        for name in loaded.params.keys() - {"head"}:
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), loaded.params[name], saved.params[name])
    assert results(tmp_path / "train")["preprocess"] == tsf.load(tmp_path / "train").preprocess.as_dict()
