"""Uploads: reached by token only, removed with their page, when idle, and at the end."""

from pathlib import Path

import pytest

from timesformer_jax.app.store import IDLE_SECONDS, RemovedError, Store, Upload


@pytest.fixture
def now() -> list[float]:
    return [0.0]


@pytest.fixture
def store(now: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return Store(clock=lambda: now[0])


def filled(store: Store, name: str = "a.mp4") -> Upload:
    upload = store.add(name)
    upload.video.write_bytes(b"video")
    return upload


def test_same_video_of_two_users_is_kept_apart(store: Store):
    one, other = filled(store), filled(store)
    store.claim(one.token, "first page")
    store.claim(other.token, "second page")
    assert one.video != other.video
    store.release("first page")
    assert (one.video.exists(), other.video.read_bytes()) == (False, b"video")
    assert store.get(other.token) is other


def test_new_video_of_a_page_replaces_the_earlier_one(store: Store):
    earlier, later = filled(store), filled(store)
    store.claim(earlier.token, "page")
    assert store.claim(later.token, "page") is later
    assert not earlier.folder.exists()
    assert later.video.exists()
    assert store.claim(later.token, "page") is later
    assert later.video.exists()


def test_page_that_closes_without_a_video_removes_nothing(store: Store):
    unclaimed = filled(store)
    store.release(None)
    store.release("another page")
    assert unclaimed.video.exists()


def test_idle_uploads_are_removed(store: Store, now: list[float]):
    idle, used = filled(store), filled(store)
    now[0] = IDLE_SECONDS * 0.9
    store.get(used.token)
    now[0] = IDLE_SECONDS * 1.1
    store.remove_idle()
    assert (idle.folder.exists(), used.folder.exists()) == (False, True)
    with pytest.raises(RemovedError, match="choose it again"):
        store.get(idle.token)


def test_running_analysis_counts_as_use(store: Store, now: list[float]):
    """However long a step takes; afterwards, or if nobody reads on, the upload is idle again."""
    long, left = filled(store), filled(store)
    running, abandoned = (store.while_used(upload, iter(["first", "second"])) for upload in (long, left))
    assert (next(running), next(abandoned)) == ("first", "first")
    abandoned.close()
    now[0] = IDLE_SECONDS * 1.5
    store.remove_idle()
    assert (long.video.exists(), left.video.exists()) == (True, False)
    assert list(running) == ["second"]
    now[0] += IDLE_SECONDS * 0.9
    store.remove_idle()
    assert long.video.exists()
    now[0] += IDLE_SECONDS * 0.2
    store.remove_idle()
    assert not long.video.exists()


def test_work_on_a_removed_upload_stops(store: Store):
    upload = filled(store)
    upload.serve(".mp4", b"drawn")
    store.remove(upload)
    with pytest.raises(RemovedError, match=r"^a.mp4 has been removed from the server: choose it again.$"):
        upload.check()
    with pytest.raises(RemovedError):
        upload.serve(".mp4")
    assert (upload.served, upload.kept) == ({}, {})


@pytest.mark.parametrize("token", [None, "", "..", 3, ["a"], "../" * 9 + "etc/passwd"])
def test_unknown_tokens_reach_nothing(store: Store, token: object):
    filled(store)
    with pytest.raises(RemovedError):
        store.get(token)


def test_nothing_is_left_at_the_end(store: Store, tmp_path: Path):
    filled(store).serve(".jpg", b"picture")
    assert list(tmp_path.iterdir()) == [store.folder]
    store.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "stored"),
    [("a.MP4", "video.mp4"), ("a", "video"), ("a.m/p", "video"), ("a.mp4\0", "video"), ("a.<b>", "video"), ("..", "video")],
)
def test_stored_name_keeps_only_a_plain_suffix(store: Store, name: str, stored: str):
    upload = store.add(name)
    assert upload.video == upload.folder / stored


def test_messages_name_the_users_file(store: Store):
    upload = filled(store, "mine.mp4")
    assert upload.said(ValueError(f"Can't read {upload.video} as a video.")) == "Can't read mine.mp4 as a video."
