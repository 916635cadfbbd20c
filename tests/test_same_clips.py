"""From a CLIP image tower, every job uses the clips that `timesformer_jax.load` prepares, without a flag."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import main
import timesformer_jax as tsf
from input_pipeline import open_dataset
from input_pipeline._tensorflow import tf
from tests.runs import config_of, predictions, results
from tests.test_follow import clip_folder
from timesformer_jax.__main__ import main as cli
from timesformer_jax.features import read_features
from timesformer_jax.modeling import describe_model

STILL = {"optimizer.learning_rate": 1e-12, "optimizer.weight_decay": 0.0, "train.num_epochs": 0.5, "model.drop_path_rate": 0.0}
"""Training that leaves the model unchanged."""
SHORT = {"train.batch_size": 8, "eval.batch_size": 8, "eval.num_crops": 1, "probe.num_epochs": 0.5, "model.scan_layers": False}
SCORES = {"eval.average": "probabilities"}


def stored_videos(data: Any, split: str) -> dict[str, tuple[np.ndarray, float]]:
    """Frames and frame rate of each video as the jobs read them: from the prepared data, rounded by JPEG."""
    records, videos = open_dataset(**data).records(split), {}
    for number in range(len(records)):
        stored = records[number].features.feature
        frames = [
            tf.io.decode_jpeg(picture, channels=3, dct_method="INTEGER_ACCURATE").numpy()
            for picture in stored["video"].bytes_list.value
        ]
        name = stored["name"].bytes_list.value[0].decode()
        videos[name] = (np.stack(frames), stored["fps"].float_list.value[0])
    return videos


@pytest.mark.slow
def test_every_job_uses_the_clips_of_load(tmp_path: Path, made_clips: Path, data_dir: str):
    """Features and scores of the same frames agree, and saved files state how clips are prepared."""
    source = clip_folder(tmp_path / "clip")
    loaded = tsf.load(source, num_classes=3)
    data = {"data.root": str(made_clips), "data.data_dir": data_dir, "data.short_side": 48, "data.val_fraction": 0.3}
    config = config_of("folder", "video_folder,finetune", init_from=str(source), **data, **SHORT, **SCORES, **STILL)
    with jax.numpy_dtype_promotion("standard"):
        for mode in ("train", "probe", "features"):
            main.run(config, str(tmp_path / mode), mode)
        main.run(config, str(tmp_path / "train"), "eval")
        main.run(config, str(tmp_path / "train"), "features")
    videos = stored_videos(config.data, "val")
    apply: Any = jax.jit(loaded.model.apply, static_argnames="method")

    def features_of(preprocess: tsf.Preprocess, videos: dict[str, Any]) -> np.ndarray:
        clips = [preprocess(frames, fps=fps, num_crops=1) for frames, fps in videos.values()]
        features = [apply({"params": loaded.params}, jnp.asarray(clip), method="features").cls for clip in clips]
        return np.concatenate([np.asarray(each) for each in features])

    expected = features_of(loaded.preprocess, videos)
    for job in ("features", "train/features"):  # from `init_from`, and of a run, by its checkpoint
        found = read_features(tmp_path / job)
        of_each = dict(zip(found.names, found.per_video(), strict=True))
        np.testing.assert_allclose([of_each[name] for name in videos], expected, rtol=1e-4, atol=1e-4, err_msg=job)
    wrong = features_of(dataclasses.replace(loaded.preprocess, mean=(0.45,) * 3, std=(0.225,) * 3), videos)
    assert np.abs(wrong - expected).mean() > 0.01  # other pixels would be noticed

    paths = [str(made_clips / name) for name in videos]
    output = tmp_path / "by_the_library"
    options = [f"--checkpoint={source}", f"--output={output}", "--num-crops=1", "--num-classes=3"]
    assert cli(["features", *paths, *options]) == 0
    theirs = read_features(output)
    of_each = dict(zip(theirs.names, theirs.per_video(), strict=True))
    of_files = features_of(loaded.preprocess, {path: (path, 30.0) for path in paths})
    np.testing.assert_allclose([of_each[path] for path in paths], of_files, rtol=1e-4, atol=1e-4)

    for saved in (tsf.load(tmp_path / "train"), tsf.load(tmp_path / "probe" / "probe")):
        short_side = loaded.preprocess.short_side or loaded.preprocess.crop_size
        assert saved.preprocess == dataclasses.replace(loaded.preprocess, short_side=short_side)
        assert describe_model(saved.model) == describe_model(loaded.model)
        for name in loaded.params.keys() - {"head"}:
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), loaded.params[name], saved.params[name])
    trained = tsf.load(tmp_path / "train")
    assert results(tmp_path / "train")["preprocess"] == trained.preprocess.as_dict()
    for name, row in predictions(tmp_path / "train").items():  # of the evaluation after training, and of `--mode=eval`
        frames, fps = videos[name]
        clip = jnp.asarray(trained.preprocess(frames, fps=fps, num_crops=1))
        scores = np.asarray(jax.nn.softmax(apply({"params": trained.params}, clip)))[0]
        expected_row = dict(zip(trained.labels or (), scores.tolist(), strict=True))
        assert dict(row["best"]) == pytest.approx(expected_row, abs=1e-4), name
