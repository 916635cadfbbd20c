"""Multi-view scores against a plain loop, every video counted once, and the files of an evaluation."""

import contextlib
import csv
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from etils import epath

import timesformer_jax as tsf
from timesformer_jax import evaluation, training
from timesformer_jax.video import normalize

MODEL = tsf.TimeSformer(
    num_classes=7, image_size=8, patch_size=8, num_frames=2, embed_dim=8, depth=1, num_heads=2, initialization="from_scratch"
)
VIDEOS, VIEWS = 11, 3
RANDOM = np.random.default_rng(0)
CLIPS = RANDOM.integers(0, 256, (VIDEOS, VIEWS, 2, 8, 8, 3), dtype=np.uint8)
IDENTITIES = RANDOM.integers(2**62, 2**63, VIDEOS)
LABELS = RANDOM.integers(0, 7, VIDEOS).astype(np.int32)


def to_float(video: jax.Array | np.ndarray) -> jax.Array:
    return normalize(video, (0.45,) * 3, (0.225,) * 3)


def prepare(batch: dict[str, jax.Array]) -> jax.Array:
    """Reshape [B, crops, T, H, W, C] to [B * crops, T, H, W, C]."""
    return to_float(batch["video"].reshape(-1, *batch["video"].shape[2:]))


@pytest.fixture(scope="module")
def params():
    params = jax.jit(MODEL.init)(jax.random.key(0), to_float(CLIPS[:, 0]))["params"]
    return {**params, "head": jax.tree.map(lambda x: 20 * x, params["head"])}  # far from uniform scores


def batches(batch_size: int):
    """Batches as the pipeline yields them, the last one padded with zeros."""
    for start in range(0, VIDEOS, batch_size):
        part = slice(start, start + batch_size)
        missing = batch_size - len(CLIPS[part])
        yield {
            "video": np.concatenate([CLIPS[part], np.zeros((missing, *CLIPS.shape[1:]), np.uint8)]),
            "label": np.concatenate([LABELS[part], np.zeros(missing, np.int32)]),
            "name": np.array([b"video %02d \xc3\xa9" % i for i in range(VIDEOS)][part] + [b""] * missing, object),
            "mask": np.arange(batch_size) < batch_size - missing,
            "identity": np.array([*IDENTITIES[part], *[0] * missing]),
            "clip": np.zeros((batch_size, 2), np.int32),
        }


def by_clips(batch_size: int, missing: tuple[int, int] | None = (0, 2)):
    """The same views as single clips, with each video spread over batches; the first video has only two."""
    (whole,) = batches(VIDEOS)
    rows = [(video, view) for view in (1, 0, 2) for video in range(VIDEOS) if (video, view) != missing]
    count = len(rows)
    rows += [(0, 0)] * (-len(rows) % batch_size)
    for start in range(0, len(rows), batch_size):
        videos, views = (np.array(column) for column in zip(*rows[start : start + batch_size], strict=True))
        real = np.arange(start, start + batch_size) < count
        yield {
            "video": CLIPS[videos, views][:, None],
            "mask": real,
            "clip": np.stack([np.zeros_like(views), views], axis=1),
            **{name: whole[name][videos] for name in ("label", "name", "identity")},
        }


def predict(params, average: str, *, batch_size: int, devices: int, clips: bool = False) -> evaluation.Predictions:
    mesh = training.make_mesh(jax.devices()[:devices])
    score = evaluation.make_score_fn(model=MODEL, prepare=prepare, mesh=mesh)
    incoming = by_clips(batch_size) if clips else batches(batch_size)
    return evaluation.predict_videos(score, params, incoming, average=average, num_crops=1 if clips else VIEWS, mesh=mesh)


@pytest.mark.parametrize("average", evaluation.AVERAGES["softmax"])
def test_scores_are_averaged_over_views(params, average: str):
    got = predict(params, average, batch_size=4, devices=2)
    logits = np.stack([jax.jit(MODEL.apply)({"params": params}, to_float(CLIPS[:, view])) for view in range(VIEWS)], axis=1)

    def softmax(x: np.ndarray) -> np.ndarray:
        odds = np.exp(x - x.max(axis=-1, keepdims=True))
        return odds / odds.sum(axis=-1, keepdims=True)

    expected = softmax(logits).mean(axis=1) if average == "probabilities" else softmax(logits.mean(axis=1))
    np.testing.assert_allclose(got.scores, expected, atol=1e-5)
    assert got.names == [f"video {i:02d} é" for i in range(VIDEOS)]
    np.testing.assert_array_equal(got.labels, LABELS)


@pytest.mark.parametrize(("batch_size", "devices"), [(1, 1), (8, 8), (16, 4)])
def test_every_video_counts_once_for_any_batch_size(params, batch_size: int, devices: int):
    one, other = predict(params, "probabilities", batch_size=11, devices=1), None
    other = predict(params, "probabilities", batch_size=batch_size, devices=devices)
    assert other.names == one.names
    np.testing.assert_allclose(other.scores, one.scores, atol=1e-6)
    assert evaluation.accuracies(other) == evaluation.accuracies(one)


@pytest.mark.parametrize("average", evaluation.AVERAGES["softmax"])
def test_clips_of_a_video_may_be_in_any_batch(params, average: str):
    whole = predict(params, average, batch_size=11, devices=1)
    clips = predict(params, average, batch_size=8, devices=2, clips=True)
    assert clips.names == whole.names
    assert clips.num_views.tolist() == [2] + [3] * (VIDEOS - 1)
    np.testing.assert_allclose(clips.scores[1:], whole.scores[1:], atol=1e-6)
    np.testing.assert_allclose(clips.scores.sum(axis=1), 1, atol=1e-5)
    assert (clips.scores[0] != whole.scores[0]).any()


def test_selected_clips_are_averaged_from_one_pass(params):
    """Selected clips can be averaged either way from one pass, whatever batches they came in."""
    mesh = training.make_mesh(jax.devices()[:2])
    score = evaluation.make_score_fn(model=MODEL, prepare=prepare, mesh=mesh)
    scores = evaluation.score_clips(score, params, by_clips(8, None), num_crops=1, mesh=mesh)
    assert scores.clips_per_video == VIEWS
    logits = np.stack([jax.jit(MODEL.apply)({"params": params}, to_float(CLIPS[:, view])) for view in range(VIEWS)], axis=1)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    for clips in ([0], [2], [0, 2], [0, 1, 2]):
        got = scores.predictions("probabilities", clips)
        np.testing.assert_allclose(got.scores, probabilities[:, clips].mean(axis=1), atol=1e-5)
        assert got.num_views.tolist() == [len(clips)] * VIDEOS
        odds = np.exp(logits[:, clips].mean(axis=1))
        got = scores.predictions("logits", clips)
        np.testing.assert_allclose(got.scores, odds / odds.sum(axis=1, keepdims=True), atol=1e-5)
    whole = scores.predictions("probabilities")
    np.testing.assert_array_equal(whole.scores, scores.predictions("probabilities", [0, 1, 2]).scores)
    found = evaluation.figures(scores, "logits", {1: [1], 3: [0, 1, 2]})
    exact = evaluation.measure(scores.predictions("logits"))
    assert found["by_average"]["logits"] == {name: found[name] for name in exact} != found["by_average"]["probabilities"]
    for name, value in exact.items():
        assert found[name] == round(value, 4 if name == "calibration_error" else 6)
    assert found["by_num_clips"]["3"] == {name: found[name] for name in ("top1", "top5")}
    assert found["by_num_clips"]["1"]["top1"] == pytest.approx((logits[:, 1].argmax(axis=1) == LABELS).mean(), abs=1e-6)
    known = {name: ends for name, ends in found["intervals"].items() if ends is not None}
    assert all(low <= found[name] <= high for name, (low, high) in known.items() if name != "calibration_error")
    other = evaluation.score_clips(score, params, by_clips(8), num_crops=1, mesh=mesh)
    assert other.clips_per_video is None


def test_segments_of_a_video_are_adjacent(params):
    """Clip 0 of a video's second segment follows all clips of its first one."""
    mesh = training.make_mesh(jax.devices()[:1])
    score = evaluation.make_score_fn(model=MODEL, prepare=prepare, mesh=mesh)
    (batch,) = batches(VIDEOS)
    parts = {**batch, "identity": np.full(VIDEOS, 5), "clip": np.stack([np.arange(VIDEOS) % 2, np.arange(VIDEOS)], axis=1)}
    got = evaluation.score_clips(score, params, iter([parts]), num_crops=VIEWS, mesh=mesh)
    alone = evaluation.score_clips(score, params, iter([batch]), num_crops=VIEWS, mesh=mesh)
    np.testing.assert_array_equal(got.sums, alone.sums[[*range(0, VIDEOS, 2), *range(1, VIDEOS, 2)]])
    assert got.num_clips.tolist() == [VIDEOS]


def test_averaging_many_views_keeps_the_ranking():
    """A softmax of the summed logits would underflow to 0 for all classes but one and lose their ranking."""
    sums = np.array([[[0, 0, 0], [0, 120, 240]]], np.float32)
    scores = evaluation.ClipScores(["a"], np.array([1]), np.array([1]), sums, 30, evaluation.AVERAGE_NAMES, "softmax")
    assert evaluation.best_labels(scores.predictions("logits").scores).tolist() == [[2, 1, 0]]


@pytest.mark.parametrize("average", evaluation.AVERAGES["sigmoid"])
def test_multi_label_scores_are_independent_probabilities(params, average: str):
    mesh = training.make_mesh(jax.devices()[:2])
    options = {"mesh": mesh, "objective": "sigmoid"}
    score = evaluation.make_score_fn(model=MODEL, prepare=prepare, **options)
    got = evaluation.predict_videos(score, params, batches(4), num_crops=VIEWS, average=average, **options)
    logits = np.stack([jax.jit(MODEL.apply)({"params": params}, to_float(CLIPS[:, view])) for view in range(VIEWS)], axis=1)

    def sigmoid(x: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-x))

    expected = sigmoid(logits).mean(axis=1) if average == "probabilities" else sigmoid(logits.mean(axis=1))
    np.testing.assert_allclose(got.scores, expected, atol=1e-5)


def test_multi_label_accuracies():
    """A hit is any label among the best; mean average precision is over the classes of some video."""
    labels = np.array([[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]], np.float32)
    scores = np.array([[0.9, 0.8, 0.1, 0.0], [0.7, 0.2, 0.1, 0.0], [0.1, 0.3, 0.6, 0.0]], np.float32)
    got = evaluation.accuracies(evaluation.Predictions(["a", "b", "c"], labels, scores, np.ones(3, int)), top=(1, 2))
    assert got["top1"] == pytest.approx(2 / 3)
    assert got["top2"] == 1.0
    assert got["map"] == pytest.approx((1 + (1 + 2 / 3) / 2 + 1) / 3)  # of class 1 the second hit is third


def test_accuracies_count_top_hits():
    scores = np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.4, 0.35, 0.25], [0.2, 0.5, 0.3]], np.float32)
    predictions = evaluation.Predictions(list("abcd"), np.array([0, 1, 2, 1]), scores, np.ones(4, int))
    assert evaluation.accuracies(predictions, top=(1, 2, 5)) == {"top1": 0.5, "top2": 0.75, "top5": 1.0}


def test_results_are_written_to_files(tmp_path: Path, params):
    predictions = predict(params, "probabilities", batch_size=11, devices=1)
    rows = evaluation.prediction_rows(predictions, list("abcdefg"), {"broken.mp4": "the file is empty"})
    confusion = evaluation.confusion_matrix(predictions)
    evaluation.write_results(str(tmp_path), {"top1": 0.5}, rows, (confusion, ["a, b", *"bcdefg"]))
    assert json.loads((tmp_path / "results.json").read_text()).items() >= {"top1": 0.5}.items()
    lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert len(lines) == VIDEOS + 1
    assert lines[-1] == {"video": "broken.mp4", "error": "the file is empty"}
    first = lines[0]
    assert (first["video"], first["label"], first["views"]) == ("video 00 é", "abcdefg"[LABELS[0]], VIEWS)
    scores = [score for _, score in first["best"]]
    assert len(scores) == 5
    assert scores == sorted(scores, reverse=True)
    assert first["best"][0][0] == "abcdefg"[predictions.scores[0].argmax()]
    header, *table = csv.reader((tmp_path / "confusion.csv").read_text().splitlines())
    assert header == ["label", "a, b", *"bcdefg"]
    assert [row[0] for row in table] == header[1:]
    np.testing.assert_array_equal([list(map(int, row[1:])) for row in table], confusion)
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "predictions.jsonl", "confusion.csv"}
    evaluation.write_results(str(tmp_path), {"top1": 0.5}, rows)  # multi-label results have none, and no old one remains
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "predictions.jsonl"}


def test_unknown_average_is_rejected():
    with pytest.raises(tsf.InputError, match="average must be one of probabilities, logits, got 'mean'"):
        evaluation.check_average("mean")


@pytest.mark.parametrize("steps", range(8))
def test_results_are_of_one_evaluation_after_a_kill_at_any_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int):
    """Readers see the old results until the new ones are complete, and the next evaluation cleans up."""
    matrix = (np.eye(2, dtype=np.int64), ["a", "b"])
    evaluation.write_results(str(tmp_path), {"step": 1, "split": "val"}, [{"video": "old"}], matrix)
    left = [steps]

    def killed(change: Any) -> Any:
        def step(*arguments: Any, **options: Any) -> Any:
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            return change(*arguments, **options)

        return step

    with monkeypatch.context() as patch:
        path = type(epath.Path(tmp_path))
        patch.setattr(path, "replace", killed(path.replace))
        patch.setattr(path, "write_bytes", killed(path.write_bytes))
        with contextlib.suppress(KeyboardInterrupt):
            evaluation.write_results(str(tmp_path), {"step": 2, "split": "val"}, [{"video": "new"}], matrix)
    found, contents = evaluation.read_results(str(tmp_path))
    assert contents["predictions.jsonl"] == {1: b'{"video": "old"}\n', 2: b'{"video": "new"}\n'}[found["step"]]
    evaluation.finish_results(str(tmp_path))
    assert evaluation.read_results(str(tmp_path)) == (found, contents)
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "predictions.jsonl", "confusion.csv"}


@pytest.mark.parametrize("name", ["results.json", "predictions.jsonl", "confusion.csv"])
def test_results_detect_any_flipped_bit(tmp_path: Path, name: str):
    matrix = (np.eye(2, dtype=np.int64), ["a", "b"])
    evaluation.write_results(str(tmp_path), {"step": 12, "split": "val"}, [{"video": "a", "views": 10}], matrix)
    whole, path = evaluation.read_results(str(tmp_path)), tmp_path / name
    content = path.read_bytes()
    for place in range(0, len(content), 3):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        try:
            found = evaluation.read_results(str(tmp_path))
        except tsf.InputError:
            continue
        assert found[0].items() >= whole[0].items()
        assert found[1] == whole[1]
