"""Frames by number: seeking and decoding from the beginning yield the same frames."""

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from tests.support import moving_square, write_video
from timesformer_jax.video import Entry, UnreadableVideoError, VideoFile, open_video
from timesformer_jax.video.frame_reader import FrameReader
from timesformer_jax.video.views import Video, Windows


def whole(frames: list[int]):
    """Plan for these frames at full size."""

    def plan(video: Video) -> Windows:
        box, nothing = np.array([0, 0, video.height, video.width]), np.zeros((1, 1), np.float32)
        return Windows(frames, box, np.arange(len(frames))[None], np.zeros((1, 2), np.int64), nothing, nothing)

    return plan


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of 100 frames with a key frame every 12."""
    frames = np.concatenate([moving_square(0, 0), moving_square(1, 1), moving_square(2, 2)])[:100]
    return write_video(tmp_path_factory.mktemp("keyed") / "a.mp4", frames, codec="mpeg4")


def decoded(path: Path) -> np.ndarray:
    with open_video(path) as video:
        return np.stack(list(video.frames()))


def entry_of(path: Path, **fields) -> Entry:
    return Entry(name="a", path=path, labels=("label",), **fields)


@pytest.mark.parametrize("frames", [[0], [99], [11, 12, 13], [5, 50, 95], [30, 31, 40, 90]])
def test_frames_equal_those_of_a_full_decode_and_few_are_decoded(
    keyed: Path, frames: list[int], monkeypatch: pytest.MonkeyPatch
):
    counts: list[int] = []
    make = VideoFile.frames

    def counting(self, *args, **options):
        for frame in make(self, *args, **options):
            yield frame
            counts.append(self.num_decoded)

    monkeypatch.setattr(VideoFile, "frames", counting)
    video, _, pixels = FrameReader(short_side=100).read(entry_of(keyed), whole(frames))
    assert video == (100, 30.0, 48, 64)
    monkeypatch.undo()
    np.testing.assert_array_equal(pixels, decoded(keyed)[frames])
    assert sum(counts) <= 40


def test_frames_of_a_thinned_and_shrunk_segment(keyed: Path):
    reader = FrameReader(short_side=24, max_fps=15.0)
    video, _, pixels = reader.read(entry_of(keyed, start=1.0, end=2.5), whole([0, 7, 20]))
    assert video == (23, 15.0, 24, 32)
    with open_video(keyed) as file:
        frames = np.stack(list(file.frames(24)))
    kept = [index for index in range(45) if index == 0 or index // 2 > (index - 1) // 2]
    np.testing.assert_array_equal(pixels, frames[30:75][kept][[0, 7, 20]])


def test_damaged_video_is_counted_once_damage_is_met(keyed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Frames before the damage follow the number of packets, those after it the number of remaining frames."""
    data = bytearray(keyed.read_bytes())
    with av.open(str(keyed)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0)]
    first, size = places[60]
    data[first : first + size] = bytes(size)
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(data)
    left = decoded(damaged)
    for reader in (FrameReader(short_side=100), FrameReader(short_side=100)):
        video, _, pixels = reader.read(entry_of(damaged), whole([3, 20]))
        assert video.num_frames == 100
        np.testing.assert_array_equal(pixels, left[[3, 20]])
        video, _, pixels = reader.read(entry_of(damaged), whole([58, 66]))
        assert video.num_frames == len(left)
        np.testing.assert_array_equal(pixels, left[[58, 66]])
        assert reader.read(entry_of(damaged), whole([3, 20]))[0].num_frames == 100  # the order of reading changes nothing
        assert reader.inspect(entry_of(damaged)) == video
    assert [record.getMessage()[:20] for record in caplog.records] == ["Used, though damaged"] * 2


def test_gradual_refresh_is_not_a_seek_point(tmp_path: Path):
    """x264's intra refresh marks packets as key frames that are complete only some frames later."""
    frames = np.concatenate([moving_square(0, 0), moving_square(1, 1)])
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"x264-params": "intra-refresh=1:keyint=20"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    _, _, pixels = FrameReader(short_side=100).read(entry_of(tmp_path / "a.mp4"), whole([4, 63, 68]))
    np.testing.assert_array_equal(pixels, decoded(tmp_path / "a.mp4")[[4, 63, 68]])


@pytest.mark.parametrize("joined", [False, True])
def test_videos_with_uncertain_frame_times(tmp_path: Path, joined: bool):
    """A broadcast that begins between key frames, whose first packets yield no frame; or one joined to another."""
    path = write_video(tmp_path / "a.ts", moving_square(0, 0), fps=25, codec="mpeg2video")
    with av.open(str(path)) as container:
        place = [packet.pos for packet in container.demux(video=0)][3]
    whole_file = path.read_bytes()
    path.write_bytes(2 * whole_file if joined else whole_file[place:])
    frames = decoded(path)
    with open_video(path) as file:
        assert not len(file.times)
    video, _, pixels = FrameReader(short_side=100).read(entry_of(path), whole([10, len(frames) - 1]))
    assert video.num_frames == len(frames)
    np.testing.assert_array_equal(pixels, frames[[10, -1]])


def test_images_of_a_folder_are_read_individually(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    frames = moving_square(0, 0, num_frames=30)
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"{number}.png")
    for number in (7, 8, 20):
        (tmp_path / f"{number}.png").write_bytes(b"damaged, but not asked for")
    video, _, pixels = FrameReader(short_side=100).read(entry_of(tmp_path, fps=29.97), whole([0, 6, 9, 29]))
    assert video == (30, float(np.float32(29.97)), 48, 64)
    np.testing.assert_array_equal(pixels, frames[[0, 6, 9, 29]])


def test_unreadable_input_is_named(tmp_path: Path):
    (tmp_path / "a.mp4").write_text("this is no video")
    for path in (tmp_path / "a.mp4", tmp_path / "missing.mp4"):
        with pytest.raises(UnreadableVideoError, match=rf"Can't read .*/{path.name} as a video: "):
            FrameReader(short_side=100).read(entry_of(path), whole([0]))
