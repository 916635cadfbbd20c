"""Video files of several codecs, damaged ones, and files that aren't videos."""

import errno
import gc
import os
import pickle
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.support import moving_square, write_video
from timesformer_jax.os_errors import ReadError
from timesformer_jax.video import UnreadableVideoError, decoding, open_video
from timesformer_jax.video.encoding import encode_jpeg


@pytest.mark.parametrize(("suffix", "codec"), [("mp4", "libx264"), ("webm", "libvpx-vp9"), ("avi", "mpeg4"), ("mkv", "mjpeg")])
def test_frames_are_decoded_from_any_codec(tmp_path: Path, suffix: str, codec: str):
    frames = moving_square(0, 0, num_frames=12)
    path = write_video(tmp_path / f"a.{suffix}", frames, fps=25, codec=codec)
    with open_video(path) as video:
        decoded = list(video.frames())
    assert video.fps == 25
    assert video.num_damaged == 0
    assert len(decoded) == 12
    assert np.abs(np.stack(decoded).astype(float) - frames).mean() < 12  # red, green and blue in the right order
    assert decoded[0].dtype == np.uint8


@pytest.mark.parametrize("name", ["12:30.mp4", "file:a.mp4", "http:a.mp4"])
def test_colon_in_a_name_is_not_a_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "a.mp4", moving_square(0, 0, num_frames=3)).rename(name)
    with open_video(name) as video:
        assert len(list(video.frames())) == 3
    Path(name).write_text("no video")
    with pytest.raises(UnreadableVideoError) as caught, open_video(name):
        pass
    assert str(caught.value).startswith(f"Can't read {name} as a video: Invalid data")


def test_colon_in_the_name_of_an_image_folder_is_not_a_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("12:30").mkdir()
    Path("12:30/1.jpg").write_bytes(encode_jpeg(moving_square(0, 0, num_frames=1), quality=90)[0])
    with open_video("12:30") as video:
        assert len(list(video.frames())) == 1
    assert not video.num_damaged


def test_only_large_frames_are_shrunk(tmp_path: Path):
    path = write_video(tmp_path / "a.mp4", moving_square(0, 0, num_frames=2, height=48, width=96))
    for limit, shape in ((24, (24, 48, 3)), (48, (48, 96, 3)), (100, (48, 96, 3)), (None, (48, 96, 3))):
        with open_video(path) as video:
            assert next(video.frames(limit)).shape == shape


def test_frames_keep_the_first_size_if_the_stream_changes_it(tmp_path: Path):
    small = write_video(tmp_path / "small.ts", moving_square(0, 0, num_frames=5))
    large = write_video(tmp_path / "large.ts", moving_square(0, 0, num_frames=5, height=96, width=128))
    both = tmp_path / "both.ts"
    both.write_bytes(small.read_bytes() + large.read_bytes())
    with open_video(both) as video:
        frames = list(video.frames())
    assert len(frames) > 5
    assert {frame.shape for frame in frames} == {(48, 64, 3)}


@pytest.mark.parametrize(
    ("matrix", "shown"),
    [
        ((0, 1, 0, -1, 0, 0), lambda frame: np.rot90(frame, -1)),
        ((-1, 0, 0, 0, -1, 0), lambda frame: frame[::-1, ::-1]),
        ((0, -1, 0, 1, 0, 0), lambda frame: np.rot90(frame)),
        ((1, 0, 0, 0, 1, 0), lambda frame: frame),
        ((-1, 0, 0, 0, 1, 0), lambda frame: frame[:, ::-1]),
        ((1, 0, 0, 0, -1, 0), lambda frame: frame[::-1]),
        ((0, 1, 0, 1, 0, 0), lambda frame: frame.transpose(1, 0, 2)),
        ((0, -1, 0, -1, 0, 0), lambda frame: frame[::-1, ::-1].transpose(1, 0, 2)),
    ],
    ids=[
        *("90 clockwise", "180", "90 counter-clockwise", "upright"),
        *("mirrored", "flipped", "transposed", "anti-transposed"),
    ],
)
def test_videos_of_rotated_phones_are_upright(matrix: tuple[int, ...], shown: Any, tmp_path: Path):
    """Rotation, and mirroring by front cameras, are recorded in the header instead of the pixels."""
    upright = write_video(tmp_path / "a.mp4", moving_square(0, 0, num_frames=3))
    with open_video(upright) as video:
        expected = shown(next(video.frames()))
    data = bytearray(upright.read_bytes())
    place = data.index(b"tkhd") + 44  # after version, times, id, length, layer and volume
    data[place : place + 36] = struct.pack(">9i", *(65536 * value for value in matrix), 0, 0, 1 << 30)
    upright.write_bytes(data)
    with open_video(upright) as video:
        turned = next(video.frames())
    np.testing.assert_array_equal(turned, expected)
    assert turned.flags.c_contiguous


def test_decoded_frames_are_freed_without_the_garbage_collector(tmp_path: Path):
    """A cycle of references would keep every frame of a long video in memory."""
    import av

    path = write_video(tmp_path / "a.mp4", moving_square(0, 0, num_frames=30))
    gc.collect()
    gc.disable()
    try:
        with open_video(path) as video:
            assert len(list(video.frames())) == 30
            kept = [one for one in gc.get_objects() if isinstance(one, av.VideoFrame) and one.width > 2]
    finally:
        gc.enable()
    assert len(kept) < 3


def test_title_in_another_encoding_is_harmless(tmp_path: Path):
    path = write_video(tmp_path / "a.avi", moving_square(0, 0, num_frames=3), codec="mpeg4")
    data = path.read_bytes().replace(b"Lavf", b"\xe9\xe8\xff\xfe", 1)
    assert data != path.read_bytes()
    path.write_bytes(data)
    with open_video(path) as video:
        assert len(list(video.frames())) == 3


def test_truncated_file_keeps_its_first_frames(tmp_path: Path):
    path = write_video(tmp_path / "a.mkv", moving_square(0, 0), codec="mjpeg")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with open_video(path) as video:
        assert 0 < len(list(video.frames())) < 40


def test_damage_in_the_middle_loses_only_the_damaged_frames(tmp_path: Path):
    path = write_video(tmp_path / "a.mp4", moving_square(0, 0))
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 60] = bytes(60)
    path.write_bytes(data)
    with open_video(path) as video:
        assert 20 < len(list(video.frames())) <= 40
    assert video.num_damaged


@pytest.mark.parametrize(
    ("name", "reason"),
    [("empty", "the file is empty"), ("text", "Invalid data"), ("truncated", "Invalid data"), ("missing", "No such file")],
)
def test_unreadable_file_is_rejected_with_the_reason(broken_clips: Path, name: str, reason: str):
    with pytest.raises(UnreadableVideoError, match=reason) as caught, open_video(broken_clips / f"{name}.mp4"):
        pass
    assert f"{name}.mp4" in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # it can be pickled


def failing(number: int) -> Any:
    """Make a function that fails as FFmpeg does."""
    import av.error

    return lambda *arguments, **options: av.error.err_check(-number)


def failing_open(*arguments: Any, **options: Any) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_disk_errors_are_not_blamed_on_the_video(made_clips: Path, monkeypatch: pytest.MonkeyPatch):
    """FFmpeg's EIO is damage as long as the file can be read; lack of descriptors never is."""
    path = made_clips / "down" / "0.mp4"
    with monkeypatch.context() as patch:
        patch.setattr(decoding, "open_container", failing(errno.EMFILE))
        with (
            pytest.raises(ReadError, match=r"^Can't read .*0.mp4: this process has reached its limit .*ulimit -n"),
            open_video(path),
        ):
            pass
        patch.setattr(decoding, "open_container", failing(errno.EIO))
        with pytest.raises(UnreadableVideoError, match="Input/output error"), open_video(path):
            pass
    with open_video(path) as video:
        monkeypatch.setattr(video, "_reopen", lambda: None)
        monkeypatch.setattr(video, "_container", SimpleNamespace(demux=failing(errno.EIO), close=video._container.close))
        monkeypatch.setattr(decoding, "open", failing_open, raising=False)
        with pytest.raises(ReadError, match=r"0.mp4: the disk reports an input/output error; check"):
            list(video.frames())


def test_video_whose_frames_all_fail_conversion_is_rejected(made_clips: Path, monkeypatch: pytest.MonkeyPatch):
    from av.video import reformatter

    class Broken:
        def reformat(self, *arguments, **options):
            raise ValueError("unsupported pixel format")

    monkeypatch.setattr(reformatter, "VideoReformatter", Broken)
    with (
        pytest.raises(UnreadableVideoError, match="no frame that can be decoded"),
        open_video(made_clips / "across/0.mp4") as video,
    ):
        list(video.frames())
    assert video.num_damaged == 40


def test_animated_webp_is_rejected_with_a_remedy(tmp_path: Path):
    from PIL import Image

    first, *others = (Image.fromarray(frame) for frame in moving_square(0, 0, num_frames=3))
    first.save(tmp_path / "a.webp", save_all=True, append_images=others)
    with (
        pytest.raises(UnreadableVideoError, match=r"FFmpeg doesn't read animated WebP; convert it to GIF or MP4\.$"),
        open_video(tmp_path / "a.webp") as video,
    ):
        list(video.frames())


def test_audio_file_is_rejected(tmp_path: Path):
    import av

    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(UnreadableVideoError, match="no video stream"), open_video(path):
        pass
