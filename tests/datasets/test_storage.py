"""Storage of videos: rates, sizes, segments, damage, and the report of a check."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from tests.support import moving_square, write_video
from timesformer_jax.datasets import CODECS, Entry, Storage, StoredVideo, inspect_video, store_video
from timesformer_jax.datasets.layouts import read_video_list
from timesformer_jax.errors import InputError
from timesformer_jax.video import Limits, OverLimitError, UnreadableVideoError
from timesformer_jax.video.encoding import decode_h264, encode_jpeg, packets_needed

FRAMES = moving_square(0, 0)  # 40 frames of 48 x 64


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("videos") / "a video.mp4", FRAMES)


def stored(path: Path, codec: str = "jpeg", short_side: int = 48, **changes) -> list[StoredVideo]:
    piece = {name: changes.pop(name) for name in ("start", "end", "fps", "perhaps_cut") if name in changes}
    entry = Entry(name="a", path=path, labels=("x",), **piece)
    return store_video(entry, Storage(codec=codec, short_side=short_side, **changes))


def pixels(video: StoredVideo, codec: str = "jpeg") -> np.ndarray:
    if codec == "h264":
        numbers = list(range(len(video.frames)))
        return np.stack(decode_h264(video.frames, numbers, numbers))
    import io

    from PIL import Image

    return np.stack([np.asarray(Image.open(io.BytesIO(frame))) for frame in video.frames])


@pytest.mark.parametrize("codec", ["jpeg", "h264"])
def test_storage_keeps_every_frame(file: Path, codec: str):
    (video,) = stored(file, codec)
    assert (video.fps, video.source_fps, video.height, video.width, video.num_damaged) == (30, 30, 48, 64, 0)
    assert len(video.frames) == 40
    got = pixels(video, codec)
    assert np.abs(got.astype(float) - FRAMES).mean() < 6
    for number in (3, 20, 39):  # each is the right frame, not a neighbour
        errors = [np.abs(got[number].astype(float) - frame).mean() for frame in FRAMES]
        assert np.argmin(errors) == number


@pytest.mark.parametrize(("max_fps", "count"), [(30.0, 40), (15.0, 20), (10.0, 14), (100.0, 40)])
def test_lower_frame_rate_selects_frames_evenly(file: Path, max_fps: float, count: int):
    (video,) = stored(file, max_fps=max_fps)
    assert (video.fps, video.source_fps) == (min(max_fps, 30.0), 30.0)
    assert len(video.frames) == count
    (whole,) = stored(file)
    step = 30 / min(max_fps, 30.0)
    assert video.frames == [whole.frames[round(number * step)] for number in range(count)]


def test_frames_are_shrunk_to_the_short_side_with_even_sizes_for_h264(file: Path):
    assert stored(file, short_side=24)[0][3:5] == (24, 32)
    assert stored(file, short_side=100)[0][3:5] == (48, 64)
    assert stored(file, short_side=21)[0][3:5] == (21, 28)
    (video,) = stored(file, "h264", short_side=21)
    assert (video.height, video.width) == (20, 28)
    assert pixels(video, "h264").shape == (40, 20, 28, 3)


def test_segment_is_cut_out_of_a_longer_file(file: Path):
    """In 40 frames at 30 fps, the segment from 0.2 s to 0.3 s is the frames 6, 7 and 8."""
    long = [frame for _ in range(3) for frame in FRAMES]
    path = write_video(file.with_name("long.mp4"), np.stack(long))
    (piece,) = stored(path, start=1.6, end=1.7)
    assert len(piece.frames) == 3
    assert np.abs(pixels(piece).astype(float) - FRAMES[8:11]).mean() < 6
    with pytest.raises(UnreadableVideoError, match="no frame that can be decoded from 30 to 31 s"):
        stored(path, start=30.0, end=31.0)


def test_segments_are_cut_out_of_short_files(tmp_path: Path):
    """Two segments of one second each, listed for a file of two seconds: neither may be taken for the whole file."""
    video = write_video(tmp_path / "two.mp4", np.concatenate([moving_square(0, 0, num_frames=30), moving_square(1, 1, 30)]))
    lists = [tmp_path / f"{split}.csv" for split in ("train", "val")]
    for path in lists:
        path.write_text(f"path,label,start,end\n{video.name},a,0,1\n{video.name},b,1,2\n")
    entries = read_video_list(*lists).splits["train"]
    pieces = [store_video(entry, Storage(codec="jpeg", short_side=48))[0] for entry in entries]
    assert [len(piece.frames) for piece in pieces] == [30, 30]
    assert not set(pieces[0].frames) & set(pieces[1].frames)
    assert [inspect_video(entry).num_frames for entry in entries] == [30, 30]


def test_trimmed_file_as_long_as_its_segment_is_kept_whole(file: Path):
    (whole,) = stored(file, start=12.0, end=13.0, perhaps_cut=True)
    assert len(whole.frames) == 40
    with pytest.raises(UnreadableVideoError, match="no frame that can be decoded from 12 to 13 s"):
        stored(file, start=12.0, end=13.0)
    (piece,) = stored(file, start=0.0, end=0.1, perhaps_cut=True)
    assert len(piece.frames) == 3


def test_long_videos_are_split_into_segments(file: Path):
    parts = stored(file, part_seconds=0.5)
    assert [len(part.frames) for part in parts] == [15, 15, 10]
    assert [frame for part in parts for frame in part.frames] == stored(file)[0].frames
    assert [len(part.frames) for part in stored(file, part_seconds=0.5, max_fps=15.0)] == [8, 8, 4]


def test_folder_of_images_is_a_video(tmp_path: Path):
    """Images are ordered by the numbers in their names, at the given rate; other files are ignored."""
    for number, picture in enumerate(encode_jpeg(FRAMES[:12], quality=95)):
        (tmp_path / f"frame{number}.jpg").write_bytes(picture)
    (tmp_path / "notes.txt").write_text("no picture")
    (video,) = stored(tmp_path, fps=12.0)
    assert (len(video.frames), video.fps) == (12, 12.0)
    assert np.abs(pixels(video).astype(float) - FRAMES[:12]).mean() < 4
    assert len(stored(tmp_path, fps=12.0, start=0.25, end=0.5)[0].frames) == 3
    (tmp_path / "frame5.jpg").write_bytes(b"broken")
    (video,) = stored(tmp_path, fps=12.0)
    assert (len(video.frames), video.num_damaged) == (11, 1)
    for path in tmp_path.glob("*.jpg"):
        path.write_bytes(b"broken")
    with pytest.raises(UnreadableVideoError, match="no frame that can be decoded"):
        stored(tmp_path)


def test_check_describes_a_video(file: Path, broken_clips: Path):
    assert inspect_video(Entry(name="a", path=file, labels=())) == (40, 30.0, 48, 64, 0)
    with pytest.raises(UnreadableVideoError, match="the file is empty"):
        inspect_video(Entry(name="a", path=broken_clips / "empty.mp4", labels=()))


def test_only_packets_that_lead_to_a_frame_are_decoded():
    assert packets_needed([0, 1, 2, 6, 7], 1) == [0, 1, 2, 6, 7]
    assert packets_needed([0, 3, 4, 9], 2) == [0, 2, 3, 4, 8, 9]
    assert packets_needed([5, 6, 7], 4) == [4, 5, 6, 7]
    assert packets_needed([2, 9], 4) == [0, 1, 2, 8, 9]


def test_h264_frames_are_found_without_decoding_the_others(file: Path):
    (video,) = stored(file, "h264")
    whole = pixels(video, "h264")
    for indices in ([0], [39], [3, 4, 20], [1, 38, 39]):
        numbers = packets_needed(indices, 2)
        got = decode_h264([video.frames[number] for number in numbers], numbers, indices)
        np.testing.assert_array_equal(got, whole[indices])
    with pytest.raises(ValueError, match=r"Invalid data|can't be decoded"):
        decode_h264([b"nothing"], [0], [0])
    np.testing.assert_array_equal(decode_h264(video.frames[:1], [0], [0])[0], whole[0])  # and the decoder still works


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"codec": "png"}, "data.storage must be one of jpeg, h264, got 'png'"),
        ({"short_side": 0}, "data.short_side must be at least 1 pixel"),
        ({"max_fps": 0.0}, "data.max_fps must be above 0"),
        ({"part_seconds": -1.0}, "data.part_seconds must be above 0"),
    ],
)
def test_impossible_storage_is_rejected(changes: dict, words: str):
    with pytest.raises(InputError, match=words):
        Storage(**{"codec": "jpeg", "short_side": 48, **changes})


@pytest.mark.parametrize("limits", [Limits(max_pixels=3000), Limits(max_seconds=1), Limits(max_bytes=99)])
def test_storage_applies_limits(file: Path, limits: Limits):
    with pytest.raises(OverLimitError):
        stored(file, limits=limits)


def test_encoder_failure_skips_only_its_video(file: Path, monkeypatch: pytest.MonkeyPatch):
    def refuses(frames: Iterable[np.ndarray]) -> list[bytes]:
        raise ValueError("too wide")

    monkeypatch.setitem(CODECS, "jpeg", refuses)
    with pytest.raises(UnreadableVideoError, match="its frames can't be kept as jpeg: ValueError: too wide"):
        stored(file)
