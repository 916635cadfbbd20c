"""What the app computes, without its page: predictions, maps drawn on the video, and the timeline."""

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import timesformer_jax as tsf
from tests.support import moving_square, random_variables, write_video
from timesformer_jax.app.analysis import Analysis, Choice
from timesformer_jax.app.checkpoint import Checkpoint
from timesformer_jax.app.examples import EXAMPLES, Examples
from timesformer_jax.app.store import RemovedError, Store, Upload
from timesformer_jax.errors import InputError
from timesformer_jax.video import Limits, OverLimitError, UnreadableVideoError, clip_at, open_video

LABELS = ("across", "down", "back")
LIMITS = Limits()


def checkpoint(name: str, seed: int, **fields: object) -> Checkpoint:
    sizes = {"image_size": 16, "patch_size": 8, "num_frames": 2, "embed_dim": 24, "depth": 1, "num_heads": 3}
    model = tsf.TimeSformer(3, **{**sizes, **fields})
    preprocess = tsf.Preprocess(num_frames=2, crop_size=16, sampling_rate=8.0)
    return Checkpoint(name, tsf.Pretrained(model, random_variables(model, seed)["params"], preprocess, LABELS))


@pytest.fixture(scope="module")
def checkpoints() -> list[Checkpoint]:
    return [checkpoint("divided", 0), checkpoint("space", 1, attention_type="space_only")]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    store = Store()
    yield store
    store.close()


@pytest.fixture
def upload(store: Store) -> Upload:
    upload = store.add("mine.mp4")
    write_video(upload.video, moving_square(0, 0, num_frames=60))
    return upload


def test_every_checkpoint_predicts_explains_and_follows(upload: Upload, checkpoints: list[Checkpoint]):
    analysis = Analysis(upload, checkpoints, LIMITS)
    steps = list(itertools.chain(analysis.predict(), analysis.explain(Choice()), analysis.follow()))
    assert {step.text.split()[0] for step in steps} >= {"divided", "Drawing"}
    for column, one in zip(analysis.columns, checkpoints, strict=True):
        expected = one.pretrained.predict(upload.video, num_crops=1)
        assert [label for label, _ in column.best] == [label for label, _ in expected]
        np.testing.assert_allclose([p for _, p in column.best], [p for _, p in expected], atol=1e-6)
        assert column.explained == column.best[0]
        assert len(column.frames) == 2
        assert column.scores is not None
        assert column.scores.ends[-1] == pytest.approx(2.0, abs=0.05)
        drawn = upload.served[str(column.drawn).rpartition("/")[2]]
        with open_video(drawn) as film:
            assert next(film.frames()).shape == (48, 64, 3)
    assert analysis.columns[0].best != analysis.columns[1].best


def test_another_choice_replaces_the_drawing(upload: Upload, checkpoints: list[Checkpoint]):
    analysis = Analysis(upload, checkpoints[:1], LIMITS)
    (column,) = analysis.columns
    list(itertools.chain(analysis.predict(), analysis.explain(Choice("back"))))
    before = upload.served[str(column.drawn).rpartition("/")[2]]
    assert (column.explained is not None and column.explained.label) == "back"
    list(analysis.explain(Choice(None, "rollout", 0.0)))
    assert (column.explained, column.method) == (None, "rollout")
    assert not before.exists()
    list(analysis.explain(Choice("unheard of")))
    assert column.drawn is None
    assert "doesn't know the label 'unheard of'" in column.note


def test_another_moment_has_its_own_labels_frames_and_map(upload: Upload, checkpoints: list[Checkpoint]):
    """A later change of the label or map stays at that moment; without one, the clip is that of the evaluation again."""
    analysis = Analysis(upload, checkpoints[:1], LIMITS)
    (column,) = analysis.columns
    list(itertools.chain(analysis.predict(), analysis.explain(Choice())))
    usual, seconds = column.best, column.seconds
    first = [upload.served[address.rpartition("/")[2]] for address in column.frames]
    assert analysis.latest == pytest.approx(2.0 - 16 / 30, abs=0.01)
    list(analysis.explain(Choice("back", moment=1.3)))
    clip = clip_at(checkpoints[0].pretrained.preprocess, upload.video, 1.3)
    expected = checkpoints[0].pretrained.view_scores(clip.views)
    assert (column.seconds, column.until) == (pytest.approx(1.3), pytest.approx(1.3 + 15 / 30))
    assert dict(column.best)["back"] == pytest.approx(expected[2])
    assert column.explained == ("back", pytest.approx(expected[2]))
    assert column.best != usual
    assert not any(path.exists() for path in first)
    assert len([name for name in upload.served if name.endswith(".jpg")]) == 2
    list(analysis.explain(Choice()))
    assert (column.best, column.seconds) == (usual, seconds)


def test_checkpoint_of_adjacent_clips_sees_a_single_one(upload: Upload):
    tiled = checkpoint("tiled", 0)
    preprocess = dataclasses.replace(tiled.pretrained.preprocess, placement="tiled")
    tiled = dataclasses.replace(tiled, pretrained=dataclasses.replace(tiled.pretrained, preprocess=preprocess))
    clip = tiled.see(upload.video, LIMITS).clip
    assert (clip.num_clips, clip.seconds) == (1, 0.0)


def test_later_choice_wins_over_an_earlier_one_that_takes_longer(upload: Upload, checkpoints: list[Checkpoint]):
    analysis = Analysis(upload, checkpoints[:1], LIMITS)
    list(analysis.predict())
    earlier = analysis.explain(Choice("across"))
    next(earlier)
    list(analysis.explain(Choice("down")))
    list(earlier)
    explained = analysis.columns[0].explained
    assert explained is not None
    assert explained.label == "down"
    assert len([name for name in upload.served if name.endswith(".mp4")]) == 1


def test_work_ends_when_the_page_is_closed(store: Store, upload: Upload, checkpoints: list[Checkpoint]):
    analysis = Analysis(upload, checkpoints, LIMITS)
    steps = itertools.chain(analysis.predict(), analysis.explain(Choice()))
    next(steps)
    next(steps)
    store.remove(upload)
    with pytest.raises(InputError):
        list(steps)
    with pytest.raises(RemovedError):
        next(analysis.predict())
    assert not upload.folder.exists()


def test_short_videos_have_no_timeline(store: Store, checkpoints: list[Checkpoint]):
    upload = store.add("short.mp4")
    write_video(upload.video, moving_square(0, 0, num_frames=1))
    analysis = Analysis(upload, checkpoints[:1], LIMITS)
    list(itertools.chain(analysis.predict(), analysis.explain(Choice()), analysis.follow()))
    assert analysis.columns[0].scores is None
    assert analysis.latest is None
    assert analysis.columns[0].drawn is not None


def test_unreadable_and_too_long_videos_raise_errors(store: Store, upload: Upload, checkpoints: list[Checkpoint]):
    broken = store.add("broken.mp4")
    broken.video.write_bytes(upload.video.read_bytes()[:300])
    with pytest.raises(UnreadableVideoError) as error:
        list(Analysis(broken, checkpoints, LIMITS).predict())
    assert broken.said(error.value).startswith("Can't read broken.mp4 as a video: ")
    with pytest.raises(OverLimitError, match="max_seconds=1"):
        list(Analysis(upload, checkpoints, Limits(max_seconds=1.0)).predict())


@pytest.mark.slow
def test_convolutional_networks_are_explained_by_grad_cam_alone(upload: Upload):
    model = tsf.create("i3d-8x8-r50", num_classes=3, image_size=32, num_frames=4, width=8, depths=(1, 1, 1, 1))
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 4, 32, 32, 3)))
    draw = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: jnp.asarray(draw.uniform(0.01, 0.3, leaf.shape), leaf.dtype), shapes)
    preprocess = tsf.Preprocess(num_frames=4, crop_size=32, sampling_rate=4.0)
    pretrained = tsf.Pretrained(model, variables["params"], preprocess, LABELS, batch_stats=variables["batch_stats"])
    analysis = Analysis(upload, [Checkpoint("i3d", pretrained)], LIMITS)
    (column,) = analysis.columns
    list(itertools.chain(analysis.predict(), analysis.explain(Choice())))
    assert column.drawn is not None
    list(analysis.explain(Choice(None, "rollout")))
    assert column.note == "i3d has no attention to roll out: choose relevance for a label."


def test_examples_are_videos_and_are_copied(store: Store):
    examples = Examples(store.folder / "examples")
    assert list(examples.thumbnails) == [example.title for example in EXAMPLES]
    tokens = [examples.add(number, store) for number in range(len(EXAMPLES))]
    for token, example in zip(tokens, EXAMPLES, strict=True):
        with open_video(store.get(token).video) as video:
            assert video.fps == 30
            assert sum(1 for _ in video.frames()) == 8 * len(example.clips)
    for number in (len(EXAMPLES), -1, "0", None, 1.5, [0]):
        assert examples.add(number, store) is None
