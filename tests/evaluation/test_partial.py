"""Partial results of evaluations that were stopped or killed, that are damaged, or that belong to another evaluation."""

from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from timesformer_jax import evaluation, training
from timesformer_jax.evaluation import AVERAGE_NAMES, ClipScores, PartialEvaluation

BATCHES, SIZE, CLASSES = 250, 2, 5
SUMS = np.random.default_rng(0).normal(size=(BATCHES, SIZE, 2, CLASSES)).astype(np.float32)
DESCRIPTION = {"step": 3, "views": {"num_clips": 2}, "short_side": (32, 40)}


def batches(first: int, taken: list[int], stop: Callable[[int], None] = lambda number: None) -> Iterator[dict]:
    """Videos of two clips each; every batch holds clips of two videos, and the very last row is padding."""
    for number in range(first, BATCHES):
        stop(number)
        taken.append(number)
        rows = np.arange(SIZE * number, SIZE * (number + 1))
        yield {
            "video": rows[:, None],
            "label": ((rows + 1) // 2 % CLASSES).astype(np.int32),
            "name": np.array([b"video %d" % ((row + 1) // 2) for row in rows], object),
            "identity": (rows + 1) // 2 + 2**62,
            "clip": np.stack([np.zeros_like(rows), (rows + 1) % 2], axis=1),
            "mask": rows < SIZE * BATCHES - 1,
        }


def score(
    folder: Path, taken: list[int], description: dict = DESCRIPTION, **stop: Callable
) -> tuple[ClipScores, PartialEvaluation]:
    partial = PartialEvaluation(str(folder), description, BATCHES)
    mesh = training.make_mesh(jax.devices()[:1])

    def score_fn(params: None, batch: dict[str, jax.Array]) -> jax.Array:
        return jax.numpy.asarray(SUMS.reshape(-1, 2, CLASSES)[np.asarray(batch["video"])[:, 0]])

    incoming = batches(partial.num_done, taken, **stop)
    return evaluation.score_clips(score_fn, None, incoming, num_crops=1, mesh=mesh, partial=partial), partial


def stop_at(number: int, error: BaseException) -> Callable[[int], None]:
    def stop(at: int) -> None:
        if at == number:
            raise error

    return stop


def check(scores: ClipScores) -> None:
    """Check that every clip is present at its place."""
    order = sorted(range(250), key=lambda video: f"video {video}")
    assert scores.names == [f"video {video}" for video in order]
    assert scores.labels.tolist() == [video % CLASSES for video in order]
    clips = {}
    for row, values in enumerate(SUMS.reshape(-1, 2, CLASSES)[:-1]):
        clips.setdefault((row + 1) // 2, []).append(values)
    np.testing.assert_array_equal(scores.sums, np.concatenate([clips[video] for video in order]))
    assert scores.averages == AVERAGE_NAMES


@pytest.mark.parametrize("error", [training.Preempted("SIGTERM"), KeyboardInterrupt()], ids=["SIGTERM", "Ctrl-C"])
def test_interrupted_evaluation_resumes(tmp_path: Path, caplog, error: BaseException):
    taken: list[int] = []
    with pytest.raises(type(error)):
        score(tmp_path / "part", taken, stop=stop_at(101, error))
    with caplog.at_level("INFO", logger="timesformer_jax"):
        scores, partial = score(tmp_path / "part", taken)
    assert taken == list(range(BATCHES))  # none twice, though 101 isn't a multiple of a file's batches
    assert "Resuming the evaluation: 101 of 250 batches are done." in caplog.text
    check(scores)
    assert 100 < len(list((tmp_path / "part").glob("*.npz"))) < 130
    partial.delete()
    assert not list(tmp_path.iterdir())


def test_killed_evaluation_loses_at_most_a_hundredth(tmp_path: Path):
    taken: list[int] = []
    with pytest.raises(RuntimeError):
        score(tmp_path, taken, stop=stop_at(101, RuntimeError("killed")))
    del taken[100:]
    scores, _ = score(tmp_path, taken)
    assert taken == list(range(BATCHES))
    check(scores)


def test_damaged_partial_scores_are_computed_again(tmp_path: Path):
    score(tmp_path, [])
    files = sorted(tmp_path.glob("*.npz"))
    files[60].write_bytes(files[60].read_bytes()[:100])
    taken: list[int] = []
    scores, _ = score(tmp_path, taken)
    assert taken == list(range(120, BATCHES))
    check(scores)
    files[30].unlink()
    scores, _ = score(tmp_path, taken := [])
    assert taken == list(range(60, BATCHES))
    check(scores)


def test_different_evaluation_starts_afresh(tmp_path: Path, caplog):
    score(tmp_path, [])
    other = {**DESCRIPTION, "views": {"num_clips": 3}}
    with caplog.at_level("INFO", logger="timesformer_jax"):
        scores, _ = score(tmp_path, taken := [], other)
    assert f"Discarding the unfinished evaluation in {tmp_path}, which differs in views." in caplog.text
    assert taken == list(range(BATCHES))
    check(scores)


def test_processes_agree_on_the_scores_that_all_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The other process lacks 41 batches, so these are scored and saved again; files may then overlap."""
    score(tmp_path, [])
    with monkeypatch.context() as patch:
        patch.setattr(jax, "process_count", lambda: 2)
        patch.setattr("timesformer_jax.evaluation.partial.wait_for_all", lambda task: None)
        patch.setattr(multihost_utils, "process_allgather", lambda count: np.array([count, count - 41]))
        partial = PartialEvaluation(str(tmp_path), DESCRIPTION, BATCHES)
    assert partial.num_done == BATCHES - 41
    for number, batch in enumerate(batches(BATCHES - 41, []), BATCHES - 41):
        partial.rows.add(batch, SUMS[number])
        if number % 3 == 0:
            partial.write()
        if number == BATCHES - 10:
            break
    scores, _ = score(tmp_path, taken := [])
    assert not taken
    check(scores)


def test_full_disk_does_not_stop_an_evaluation(tmp_path: Path, caplog):
    (tmp_path / "file").write_text("")
    scores, _ = score(tmp_path / "file" / "part", [])
    assert caplog.text.count("Can't save scores in") == 1
    check(scores)


def test_fingerprint_depends_only_on_parameter_values():
    """Fingerprints are the same on one device and on eight and in any dictionary, and change with the smallest difference."""
    params = {"kernel": np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8), "bias": np.ones(3, np.float32)}
    one, eight = (training.make_mesh(jax.devices()[:count]) for count in (1, 8))
    split = {**params, "kernel": jax.device_put(params["kernel"], training.batch_sharding(eight))}
    assert evaluation.fingerprint(params, one) == evaluation.fingerprint(split, eight)
    other = {**params, "bias": np.nextafter(params["bias"], 2)}
    assert evaluation.fingerprint(params, one) != evaluation.fingerprint(other, one)
