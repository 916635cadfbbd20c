"""Files that exceed the limits, and files that refer to others instead of containing a video."""

import dataclasses
import http.server
import struct
import threading
from pathlib import Path

import av
import numpy as np
import pytest

import timesformer_jax as tsf
from tests.support import moving_square, write_video
from timesformer_jax.video import CONTAINERS, VIDEO_SUFFIXES, Limits, OverLimitError, UnreadableVideoError, open_video
from timesformer_jax.video.encoding import encode_jpeg

FRAMES = moving_square(0, 0, num_frames=20)  # 48 x 64


def patched(path: Path, marker: bytes, offset: int, layout: str, *values: int) -> Path:
    """Copy the file with other numbers at an offset after a marker."""
    data = bytearray(path.read_bytes())
    struct.pack_into(layout, data, data.index(marker) + offset, *values)
    path.write_bytes(data)
    return path


def write_gif(path: Path) -> Path:
    from PIL import Image

    pictures = [Image.fromarray(frame) for frame in FRAMES[:3]]
    pictures[0].save(path, save_all=True, append_images=pictures[1:])
    return path


def oversized(folder: Path, kind: str, width: int, height: int) -> Path:
    """A small file that announces frames of this size."""
    if kind == "gif":
        return patched(write_gif(folder / "a.gif"), b"GIF8", 6, "<HH", width, height)
    if kind == "avi":
        return patched(write_video(folder / "a.avi", FRAMES, codec="rawvideo"), b"strf", 12, "<ii", width, height)
    return patched(write_video(folder / "a.mp4", FRAMES), b"avc1\0\0\0\0\0\0\0\1", 28, ">HH", width, height)


@pytest.mark.parametrize("kind", ["gif", "avi", "mp4"])
@pytest.mark.parametrize("size", [(30000, 1), (12000, 12000), (65535, 65535)])
def test_oversized_frames_are_rejected_before_decoding(tmp_path: Path, kind: str, size: tuple[int, int]):
    path = oversized(tmp_path, kind, *size)
    with pytest.raises(OverLimitError, match=rf"its frames have {size[0]} x {size[1]} pixels"), open_video(path):
        pass


@pytest.mark.parametrize("name", ["a.ts", "a.flv", "a.mkv", "a.h264"])
def test_sizes_known_only_to_the_codec_are_checked(tmp_path: Path, name: str):
    path = write_video(tmp_path / name, FRAMES)
    with pytest.raises(OverLimitError, match="64 x 48 pixels"), open_video(path, limits=Limits(max_pixels=64 * 48 - 1)):
        pass
    with open_video(path, limits=Limits(max_pixels=64 * 48)) as video:
        assert len(list(video.frames())) == 20


def test_frames_that_grow_midway_are_not_decoded(tmp_path: Path):
    large = FRAMES.repeat(4, axis=1).repeat(4, axis=2)
    parts = [write_video(tmp_path / f"{name}.h264", frames) for name, frames in (("small", FRAMES), ("large", large))]
    path = tmp_path / "joined.h264"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    with open_video(path) as video:
        assert len(list(video.frames())) == 40
    with open_video(path, limits=Limits(max_pixels=64 * 64)) as video:
        assert len(list(video.frames())) == 20
        assert video.num_damaged


def test_too_long_or_too_large_videos_are_rejected(tmp_path: Path):
    path = write_video(tmp_path / "a.mp4", FRAMES)
    with pytest.raises(OverLimitError, match=r"lasts 1 s or more, and max_seconds=0.5"):
        open_video(path, limits=Limits(max_seconds=0.5)).__enter__()
    size = path.stat().st_size
    with pytest.raises(OverLimitError, match=f"it has {size} bytes or more, and max_bytes={size - 1}"):
        open_video(path, limits=Limits(max_bytes=size - 1)).__enter__()


def test_video_longer_than_announced_ends_at_the_limits(tmp_path: Path):
    path = write_video(tmp_path / "a.mp4", FRAMES)
    with open_video(path) as video:
        video._limits = Limits(max_seconds=0.5)
        frames = video.frames()
        for _ in range(15):
            next(frames)
        with pytest.raises(OverLimitError, match="max_seconds"):
            list(frames)
    with open_video(path) as video:
        video._limits = Limits(max_bytes=500)
        with pytest.raises(OverLimitError, match="max_bytes"):
            list(video.frames())


def test_limits_apply_to_image_folders(tmp_path: Path):
    for number, picture in enumerate(encode_jpeg(FRAMES[:3], quality=90)):
        (tmp_path / f"{number}%d.jpg").write_bytes(picture)  # not expanded to many files
    with open_video(tmp_path) as video:
        assert len(list(video.frames())) == 3
    for limits in (Limits(max_bytes=500), Limits(max_seconds=0.05)):
        with pytest.raises(OverLimitError), open_video(tmp_path, limits=limits):
            pass
    large = pytest.raises(UnreadableVideoError, match=r"64 x 48|or only ones of more than max_pixels=3000")
    with large, open_video(tmp_path, limits=Limits(max_pixels=3000)) as video:
        list(video.frames())


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Limits)])
def test_limits_must_be_positive(field: str):
    with pytest.raises(tsf.InputError, match=f"{field} must be above 0, got 0"):
        Limits(**{field: 0})


WRITTEN_AS = {
    ".3g2": ("3gp", "mpeg4"),
    ".divx": ("avi", "mpeg4"),
    ".f4v": ("mov", "mpeg4"),
    ".flv": ("flv", "flv"),
    ".m1v": ("m1v", "mpeg1video"),
    ".m2t": ("ts", "mpeg2video"),
    ".m2v": ("m2v", "mpeg2video"),
    ".mk3d": ("mkv", "mpeg4"),
    ".mpe": ("mpg", "mpeg2video"),
    ".mpeg": ("mpg", "mpeg2video"),
    ".mpg": ("mpg", "mpeg2video"),
    ".mpv": ("m2v", "mpeg2video"),
    ".mxf": ("mxf", "mpeg2video"),
    ".ogm": ("ogg", "libvpx"),
    ".ogv": ("ogg", "libvpx"),
    ".qt": ("mov", "mpeg4"),
    ".vob": ("vob", "mpeg2video"),
    ".webm": ("webm", "libvpx"),
    ".wmv": ("wmv", "wmv2"),
    ".xvid": ("avi", "mpeg4"),
}
"""Maps suffixes to FFmpeg's suffix for the muxer and a codec; the others use (the same, "mpeg4")."""

READ_AS = {".amv": "avi", ".dv": "dv", ".rm": "rm", ".rmvb": "rm", ".y4m": "yuv4mpegpipe"}
"""Maps suffixes of files that aren't written here to FFmpeg's demuxer."""


@pytest.mark.parametrize("suffix", sorted(VIDEO_SUFFIXES - READ_AS.keys()))
def test_usual_container_of_each_suffix_is_read(tmp_path: Path, suffix: str):
    path = tmp_path / f"a{suffix}"
    if suffix == ".gif":
        write_gif(path)
    else:
        muxer, codec = WRITTEN_AS.get(suffix, (suffix[1:], "mpeg4"))
        write_video(tmp_path / f"written.{muxer}", FRAMES, codec=codec, fps=25).rename(path)
    with open_video(path) as video:
        assert len(list(video.frames())) >= 3


def test_other_containers_are_allowed():
    assert set(READ_AS.values()) <= set(CONTAINERS)


def playlist(kind: str, target: str) -> str:
    return {
        "hls": f"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:9\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n",
        "hls behind blanks": f"\n\n#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n",
        "concat": f"ffconcat version 1.0\nfile {target}\n",
        "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" '
        'profiles="urn:mpeg:dash:profile:isoff-live:2011">'
        f"<Period><AdaptationSet><Representation><BaseURL>{target}</BaseURL></Representation></AdaptationSet></Period></MPD>",
        "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
        "text": f"see {target}\n" * 20,
    }[kind]


@pytest.mark.parametrize("kind", ["hls", "hls behind blanks", "concat", "dash", "sdp", "text"])
@pytest.mark.parametrize("name", ["a.mp4", "a.m3u8", "a.ts", "a.mpd"])
@pytest.mark.parametrize("known", [True, False])
def test_files_that_reference_other_files_are_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, name: str, known: bool
):
    """Either recognized by its first bytes or refused by FFmpeg's whitelists."""
    if not known:
        monkeypatch.setattr("timesformer_jax.video.containers.POINTERS", {})
    write_video(tmp_path / "other.ts", FRAMES)
    (tmp_path / name).write_text(playlist(kind, "other.ts"))
    with pytest.raises(UnreadableVideoError) as caught, open_video(tmp_path / name):
        pass
    assert "Errno" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["hls", "concat", "dash"])
@pytest.mark.parametrize("known", [True, False])
def test_nothing_outside_the_file_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, known: bool):
    asked = []

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *arguments: object) -> None: ...

    if not known:
        monkeypatch.setattr("timesformer_jax.video.containers.POINTERS", {})
    with http.server.HTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        path = tmp_path / "a.mp4"
        path.write_text(playlist(kind, f"http://127.0.0.1:{server.server_port}/a.ts"))
        with pytest.raises(UnreadableVideoError), open_video(path):
            pass
        server.shutdown()
    assert not asked


def test_whitelist_has_only_names_known_to_ffmpeg():
    """A misspelt name would match nothing; older and newer FFmpegs lack a few."""
    known = {name for names in av.formats_available for name in names.split(",")}
    assert len(set(CONTAINERS) - known) <= 8, sorted(set(CONTAINERS) - known)
    assert not set(CONTAINERS) & {
        "hls",
        "dash",
        "concat",
        "sdp",
        "image2",
        "vobsub",
        "lavfi",
        "tty",
        "rtsp",
        "webm_dash_manifest",
    }


@pytest.mark.parametrize(("height", "width"), [(1, 16384), (16384, 1), (3, 9000)])
def test_crops_of_thin_frames_are_cut_before_scaling(height: int, width: int):
    """Scaled as a whole, the frame would have 224 x 3,670,016 pixels, and the weights 480 GB."""
    ramp = np.linspace(0, 255, max(height, width)).astype(np.uint8)
    frame = np.broadcast_to((ramp[None, :] if width > height else ramp[:, None])[..., None], (height, width, 3))
    preprocess = tsf.Preprocess(num_frames=1, crop_size=224, mean=(0, 0, 0), std=(1, 1, 1))
    left, centre, right = preprocess.crops(frame, 3)
    assert left.shape == (224, 224, 3)
    assert left.mean() < centre.mean() < right.mean()


def test_unknown_codec_is_reported(tmp_path: Path):
    path = write_video(tmp_path / "a.mp4", FRAMES)
    path.write_bytes(path.read_bytes().replace(b"avc1\0\0\0\0\0\0\0\1", b"zzzz\0\0\0\0\0\0\0\1"))
    with pytest.raises(UnreadableVideoError, match="FFmpeg doesn't know its codec"), open_video(path):
        pass
