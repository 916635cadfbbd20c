"""Presentation times of frames in files whose containers announce others."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from timesformer_jax.video import UnreadableVideoError, VideoFile, open_video, sample_frames
from timesformer_jax.video import eval_clips as clips_of

BITS = 8


def numbered(number: int) -> np.ndarray:
    """A frame that shows its number as eight bars."""
    bars = [255 * (number >> bit & 1) for bit in range(BITS)]
    return np.repeat(np.broadcast_to(np.repeat(bars, 8), (32, 8 * BITS))[..., None], 3, axis=2).astype(np.uint8)


def number(frame: np.ndarray) -> int:
    return sum(1 << bit for bit in range(BITS) if frame[8:24, 8 * bit + 2 : 8 * bit + 6].mean() > 127)


def write(
    path: Path, numbers: Sequence[int], *, times: Sequence[float] | None = None, codec: str = "libx264", **options: str
) -> Path:
    """Encode numbered frames, 30 per second or at `times` (seconds, kept to the millisecond)."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=30 if times is None else 1000, options=options)
        stream.height, stream.width, stream.pix_fmt = 32, 8 * BITS, "yuv420p"
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for place, each in enumerate(numbers):
            frame = av.VideoFrame.from_ndarray(numbered(each), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = round(1000 * times[place]), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def shown(path: Path, **options: Any) -> list[int]:
    with open_video(path) as video:
        return [number(frame) for frame in video.frames(**options)]


X264 = {"preset": "veryfast", "sc_threshold": "0"}
FILES = {
    "long groups in MPEG-TS": ("a.ts", {"g": "250", **X264}),
    "short groups in MPEG-TS": ("a.ts", {"g": "12", **X264}),
    "MPEG-2 in MPEG-PS": ("a.mpg", {"codec": "mpeg2video", "g": "15", "bf": "2"}),
    "MPEG-2 in M2TS": ("a.m2ts", {"codec": "mpeg2video", "g": "15", "bf": "2"}),
    "MP4": ("a.mp4", {"g": "20", **X264}),
    "Matroska": ("a.mkv", {"g": "20", **X264}),
    "AVI": ("a.avi", {"codec": "mpeg4", "g": "10"}),
    "VP9": ("a.webm", {"codec": "libvpx-vp9", "deadline": "realtime", "cpu-used": "8", "g": "20"}),
}


@pytest.mark.parametrize("kind", FILES)
def test_segment_has_exactly_its_frames(tmp_path: Path, kind: str):
    name, options = FILES[kind]
    path = write(tmp_path / name, range(90), **options)
    assert shown(path) == list(range(90))
    assert shown(path, span=(0, 0.5)) == list(range(15))
    assert shown(path, span=(1, 2)) == list(range(30, 60))
    assert shown(path, span=(2.5, 99)) == list(range(75, 90))
    with open_video(path) as video:
        assert video.fps == pytest.approx(30, rel=1e-3)
        assert video.seconds == pytest.approx(3, abs=0.04)
        assert video.count_packets() == 90


def test_segments_of_avi_with_b_frames_have_exactly_their_frames(tmp_path: Path):
    """FFmpeg guesses the presentation times in AVI, those of B-frames wrongly."""
    path = write(tmp_path / "a.avi", range(120), g="30", bf="2", **X264, **{"x264-params": "b-adapt=0"})
    with av.open(str(path)) as container:
        guessed = [frame.pts for frame in container.decode(video=0)]
    assert guessed != sorted(guessed)  # else there are no B-frames
    for span in ((0, 0.5), (1, 2), (2.5, 3.2), (3.5, 4)):
        assert shown(path, span=span) == list(range(round(30 * span[0]), round(30 * span[1])))
    with open_video(path) as video:
        times = [video.shown for _ in video.frames()]
        assert times == pytest.approx(video.times.tolist(), abs=1e-6)
        assert times[-1] <= video.seconds


@pytest.mark.parametrize(("first", "end"), [(0, 15), (60, 90), (61, 63), (118, 122), (181, 183)])
def test_segment_that_begins_during_a_gradual_refresh_is_complete(tmp_path: Path, first: int, end: int):
    """With intra refresh, the decoder shows no frame between a key frame and the end of the refresh that it begins."""
    options = {"x264-params": "intra-refresh=1:keyint=60:scenecut=0"}
    path = write(tmp_path / "a.mp4", range(183), preset="veryfast", **options)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        container.seek(round(2.03 / stream.time_base), stream=stream)
        assert next(container.decode(stream)).time > 2.01  # else there is no refresh to wait for
    with open_video(path) as video:
        assert [number(frame) for frame in video.frames(span=(first / 30, end / 30))] == list(range(first, end))
        assert video.num_damaged == 0


def test_damaged_key_frame_of_a_segment_is_counted_once(tmp_path: Path):
    path = write(tmp_path / "a.mp4", range(60), codec="mpeg4", g="10")
    with av.open(str(path)) as container:
        key = next(packet for packet in container.demux(video=0) if packet.is_keyframe and packet.pts * packet.time_base > 0.9)
        second, damaged = float(key.pts * key.time_base), bytes(key)
    data = path.read_bytes()
    assert data.count(damaged) == 1
    path.write_bytes(data.replace(damaged, bytes(len(damaged))))
    with open_video(path) as video:
        assert video.entry_point(second) == pytest.approx(second)
        assert len(list(video.frames(span=(second, second + 0.5)))) == 14
        assert video.num_damaged == 1


def test_seeking_is_used_if_possible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A segment at the end of a file with many key frames is reached without decoding earlier frames."""
    path = write(tmp_path / "a.mp4", range(90), g="10", **X264)
    decoded = []
    with open_video(path) as video:
        whole = video._from_key

        def counted(key: Any) -> Any:
            for packet in whole(key):
                decoded.append(packet)
                yield packet

        monkeypatch.setattr(video, "_from_key", counted)
        assert [number(frame) for frame in video.frames(span=(2.8, 3))] == list(range(84, 90))
    assert len(decoded) <= 12


def test_late_seek_falls_back_to_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write(tmp_path / "a.mp4", range(60), g="10", **X264)
    seek = VideoFile._seek
    monkeypatch.setattr(VideoFile, "_seek", lambda self, stamp: seek(self, stamp and stamp + 10**6))
    assert shown(path, span=(1, 1.5)) == list(range(30, 45))
    monkeypatch.setattr(VideoFile, "_seek", lambda self, stamp: False)
    assert shown(path, span=(1, 1.5)) == list(range(30, 45))
    assert shown(path) == list(range(60))


def test_joined_recordings_continue_after_their_clock_restarts(tmp_path: Path):
    parts = [write(tmp_path / f"{start}.ts", range(start, start + 30), g="12", **X264) for start in (0, 30)]
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    assert shown(path) == list(range(60))
    assert shown(path, span=(0.5, 1.5)) == list(range(15, 45))
    with open_video(path) as video:
        assert video.fps == pytest.approx(30, rel=0.01)
        assert video.seconds == pytest.approx(2, abs=0.05)


@pytest.mark.parametrize(
    ("name", "codec"), [("a.webm", "libvpx"), ("a.mkv", "libx264"), ("a.mp4", "libx264"), ("a.gif", "gif")]
)
def test_frame_rate_is_derived_from_timestamps(tmp_path: Path, name: str, codec: str):
    """With uneven times, containers announce 1000 frames per second or twice the rate."""
    if codec == "gif":
        path = tmp_path / name
        with av.open(str(path), "w") as container:
            stream: Any = container.add_stream("gif", rate=100)
            stream.height, stream.width, stream.pix_fmt = 32, 8 * BITS, "rgb8"
            for place in range(30):
                frame = av.VideoFrame.from_ndarray(numbered(place), format="rgb24").reformat(format="rgb8")
                frame.pts, frame.time_base = 10 * place + 3 * (place % 2), Fraction(1, 100)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        rate = 10.0
    else:
        path = write(tmp_path / name, range(90), times=[n / 30 + 0.012 * (n % 3 == 1) for n in range(90)], codec=codec)
        rate = 30.0
    with open_video(path) as video:
        assert video.fps == pytest.approx(rate, rel=0.03)


def test_hidden_frames_are_not_counted(tmp_path: Path):
    """VP8's alternate reference frames have their own packets and are never shown."""
    path = tmp_path / "a.webm"
    write(path, [n % 64 for n in range(120)], codec="libvpx", **{"auto-alt-ref": "1", "lag-in-frames": "16", "b": "200k"})
    with av.open(str(path)) as container:
        packets = sum(packet.size > 0 for packet in container.demux(video=0))
    real = len(shown(path))
    with open_video(path) as video:
        assert video.count_packets() == real == 120
    assert packets >= real


class Announces(VideoFile):
    """A file whose packets announce more frames than it has, without certainty."""

    def count_packets(self) -> int:
        return super().count_packets() + 7

    count_is_certain = False


@pytest.mark.parametrize(("sampling", "placement", "clips"), [("segments", "official", 1), ("uniform", "centre", 2)])
def test_clips_are_placed_by_the_existing_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sampling: str, placement: str, clips: int
):
    path = write(tmp_path / "a.mp4", range(50), **X264)
    options: dict[str, Any] = {"num_clips": clips, "num_frames": 4, "sampling": sampling, "sampling_rate": 2.0}

    def choose(count: int, fps: float) -> np.ndarray:
        return clips_of(count, fps, placement=placement, **options)

    monkeypatch.setattr("timesformer_jax.video.opening.VideoFile", Announces)
    kept, indices = sample_frames(path, choose, number)
    assert indices.tolist() == choose(50, 30.0).tolist()
    assert all(kept[index] == index for index in kept)


def test_default_stream_is_read(tmp_path: Path):
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as container:
        streams: list[Any] = [container.add_stream("libx264", rate=30) for _ in range(2)]
        for height, stream in zip((64, 32), streams, strict=True):
            stream.height, stream.width, stream.pix_fmt = height, 64, "yuv420p"
        kinds: Any = type(streams[0].disposition)
        streams[0].disposition, streams[1].disposition = 0, kinds.default.value
        for stream in streams:
            for _ in range(3):
                container.mux(stream.encode(av.VideoFrame(stream.width, stream.height, "yuv420p")))
            container.mux(stream.encode())
    with open_video(path) as video:
        assert next(video.frames()).shape == (32, 64, 3)


def test_album_cover_is_not_a_video(tmp_path: Path):
    """An MP3 file with an image in its ID3 tag."""
    from timesformer_jax.video.encoding import encode_jpeg

    song = tmp_path / "a.mp3"
    with av.open(str(song), "w") as container:
        stream = container.add_stream("mp3", rate=44100)
        for place in range(20):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 44100, 1152 * place
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    picture = b"\0image/jpeg\0\x03\0" + encode_jpeg(numbered(3)[None], quality=90)[0]
    tag = b"APIC" + len(picture).to_bytes(4, "big") + b"\0\0" + picture
    size = bytes(len(tag) >> shift & 127 for shift in (21, 14, 7, 0))
    song.write_bytes(b"ID3\x03\0\0" + size + tag + song.read_bytes())
    with av.open(str(song)) as container:
        assert len(container.streams.video) == 1
    with pytest.raises(UnreadableVideoError, match="only image is cover art"), open_video(song):
        pass


@pytest.mark.parametrize("error", [ValueError("31 is not a valid Type"), IndexError("list index"), RuntimeError("odd")])
def test_any_exception_on_opening_becomes_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception):
    path = write(tmp_path / "a.mp4", range(3), **X264)

    def fails(*arguments: Any, **options: Any) -> Any:
        raise error

    monkeypatch.setattr("timesformer_jax.video.decoding.read_timeline", fails)
    with pytest.raises(UnreadableVideoError, match=str(error)), open_video(path):
        pass


def test_any_exception_on_a_frame_loses_that_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write(tmp_path / "a.mp4", range(10), **X264)
    upright, calls = "timesformer_jax.video.decoding.VideoFile._upright", []

    def fail_sometimes(video: Any, rgb: np.ndarray, frame: Any) -> np.ndarray:
        calls.append(rgb)
        if len(calls) == 4:
            raise ZeroDivisionError
        return rgb

    monkeypatch.setattr(upright, fail_sometimes)
    with open_video(path) as video:
        assert [number(frame) for frame in video.frames()] == [0, 1, 2, 4, 5, 6, 7, 8, 9]
        assert video.num_damaged == 1


def test_timestamps_may_wrap_around(tmp_path: Path):
    """MPEG-TS counts in 33 bits, which wrap around after 26.5 hours."""
    path = tmp_path / "a.ts"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=30, options={"g": "12", **X264})
        stream.height, stream.width, stream.pix_fmt = 32, 8 * BITS, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 90_000)
        for place in range(90):
            frame = av.VideoFrame.from_ndarray(numbered(place), format="rgb24")
            frame.pts, frame.time_base = 2**33 - 45 * 3000 + place * 3000, Fraction(1, 90_000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert shown(path) == list(range(90))
    assert shown(path, span=(1, 2)) == list(range(30, 60))
    with open_video(path) as video:
        assert video.fps == pytest.approx(30, rel=0.01)
