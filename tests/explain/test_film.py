"""Maps drawn on original videos: where, when, with which sound, and as which file."""

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

import timesformer_jax as tsf
from tests.support import moving_square, write_video
from timesformer_jax.explain import MappedClip, draw_on_video
from timesformer_jax.explain.caption import MapPanel
from timesformer_jax.explain.encoders import ENCODERS
from timesformer_jax.explain.film import draw_panels, join_stretches
from timesformer_jax.explain.mapped_clip import Overlay, dimmed
from timesformer_jax.explain.video_sheet import draw_sheet
from timesformer_jax.video import open_video

RATE = 8000
MAPS = np.zeros((2, 2, 2))
WHOLE = np.array([0.0, 0.0, 1.0, 1.0])


def flash_and_beep(path: Path, times: Sequence[float], flash: float, *, start: float = 0.0, aspect: Any = None) -> Path:
    """Write a video that is white, and beeps, for 0.2 s from `flash` on; `start` is the first timestamp."""
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream("libx264", rate=20)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        video.codec_context.time_base = Fraction(1, 1000)
        if aspect:
            video.codec_context.sample_aspect_ratio = Fraction(*aspect)
        audio: Any = container.add_stream("aac", rate=RATE, layout="mono")
        for time in times:
            picture = np.full((48, 64, 3), 255 if flash - 1e-6 <= time < flash + 0.2 else 30, np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = round(1000 * (time + start)), Fraction(1, 1000)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        seconds = np.arange(round(RATE * (times[-1] + 0.05))) / RATE
        wave = np.where((seconds >= flash) & (seconds < flash + 0.2), 0.5 * np.sin(2 * np.pi * 700 * seconds), 0)
        sound = av.AudioFrame.from_ndarray(wave[None].astype(np.float32), format="fltp", layout="mono")
        sound.sample_rate, sound.pts, sound.time_base = RATE, round(start * RATE), Fraction(1, RATE)
        container.mux(audio.encode(sound))
        container.mux(audio.encode(None))
    return path


def decoded(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the times and the frames of a video."""
    with av.open(str(path)) as container:
        found = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    return np.array([time for time, _ in found]), np.stack([frame for _, frame in found])


def beep_of(path: Path) -> tuple[float, float]:
    """Return the seconds at which a sound begins and ends."""
    with av.open(str(path)) as container:
        blocks = [(frame.time, np.abs(frame.to_ndarray()).max(axis=0)) for frame in container.decode(audio=0)]
    loud = [time + place / RATE for time, block in blocks for place in np.flatnonzero(block > 0.25)]
    return min(loud), max(loud)


TIMES = [number / 20 for number in range(100)]
UNEVEN = np.cumsum(np.random.default_rng(0).uniform(0.02, 0.09, 60)).round(3).tolist()


@pytest.mark.parametrize(
    ("times", "start", "sampled", "flash"),
    [
        (TIMES, 0.0, (0.0, 2.0), 1.0),
        (TIMES, 3.0, (0.0, 2.0), 1.0),
        (TIMES, 0.0, (2.5, 3.5), 3.0),
        ([0.0, *UNEVEN], 0.0, (0.0, UNEVEN[40]), UNEVEN[20]),
    ],
    ids=["begins with the clip", "first timestamp is late", "only the clip's stretch", "uneven rate"],
)
def test_pictures_and_sound_stay_together(tmp_path: Path, times: list[float], start: float, sampled: Any, flash: float):
    suffix = "mkv" if start else "mp4"
    video = flash_and_beep(tmp_path / f"a.{suffix}", times, flash, start=start)
    film = draw_on_video(video, tmp_path / "b.mp4", [MappedClip(np.array(sampled), np.zeros((2, 3, 3)))])
    begin = max(sampled[0] - 1, 0)
    kept = np.array([time for time in times if begin - 1e-6 <= time < sampled[1] + 1 - 1e-6])
    shown, frames = decoded(tmp_path / "b.mp4")
    np.testing.assert_allclose(shown, kept - kept[0], atol=2e-3)
    bright = shown[frames.mean(axis=(1, 2, 3)) > 70]
    assert abs(bright.min() - (flash - kept[0])) < 2e-3
    moved = np.subtract(beep_of(tmp_path / "b.mp4"), beep_of(video))
    assert np.abs(moved + kept[0] + start).max() < 0.01  # AAC smears a beep by some milliseconds
    assert film.has_sound
    assert (film.width, film.height) == (64, 48)


def test_distant_clips_are_joined_with_their_sound(tmp_path: Path):
    assert join_stretches([(8, 9), (0, 2), (2.5, 3), (20, 21)]) == [(0, 4), (7, 10), (19, 22)]
    video = flash_and_beep(tmp_path / "a.mp4", [number / 20 for number in range(200)], 8.0)
    maps = np.zeros((2, 3, 3))
    draw_on_video(video, tmp_path / "b.mp4", [MappedClip(np.array(times), maps) for times in ((0.0, 1.0), (7.5, 8.5))])
    shown, frames = decoded(tmp_path / "b.mp4")
    assert len(shown) == 40 + 60  # the second clip begins with the margin before it, at 6.5 s
    assert np.diff(shown).max() < 0.06
    flash = shown[frames.mean(axis=(1, 2, 3)) > 70].min()
    assert abs(flash - 3.5) < 2e-3
    assert np.abs(np.subtract(beep_of(tmp_path / "b.mp4"), beep_of(video)) + 4.5).max() < 0.01


def test_film_has_square_upright_pixels_and_even_sides(tmp_path: Path):
    """Anamorphic pixels are stretched and turned phones' videos are turned; odd sides repeat their last row."""
    video = flash_and_beep(tmp_path / "a.mp4", TIMES[:4], 9.0, aspect=(4, 3))
    data = bytearray(video.read_bytes())
    place = data.index(b"tkhd") + 44
    data[place : place + 36] = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)
    video.write_bytes(data)
    clips = [MappedClip(np.array([0.0]), np.zeros((1, 2, 2)))]
    film = draw_on_video(video, tmp_path / "b.mp4", clips)
    assert (film.width, film.height) == (48, 86)  # 64 * 4 / 3 = 85
    assert decoded(tmp_path / "b.mp4")[1].shape[1:] == (86, 48, 3)
    assert draw_on_video(video, tmp_path / "b.mp4", clips, max_side=40)[1:3] == (24, 40)  # 40 / 85 * 48 = 23


def test_film_repeats_the_browser_settings(tmp_path: Path):
    """H.264 in yuv420p with its index first; BT.709 is named, since players would guess by the size."""
    frames = moving_square(1, 0, num_frames=8)
    video = write_video(tmp_path / "a.mp4", frames)
    film = draw_on_video(video, tmp_path / "b.mp4", [MappedClip(np.array([0.0, 0.2]), np.zeros((2, 2, 2)))])
    assert not film.has_sound
    data = (tmp_path / "b.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    with av.open(str(tmp_path / "b.mp4")) as container:
        codec = container.streams.video[0].codec_context
        assert (codec.name, codec.pix_fmt, codec.colorspace, len(container.streams)) == ("h264", "yuv420p", 1, 1)
    assert np.abs(decoded(tmp_path / "b.mp4")[1][:7].astype(int) - frames[:7]).mean() < 4  # colours survive


def test_gif_has_its_own_size_and_rate(tmp_path: Path):
    from PIL import Image

    frames = np.repeat(np.repeat(moving_square(2, 0, num_frames=40), 8, axis=1), 10, axis=2)  # 384 x 640
    video = write_video(tmp_path / "a.mp4", frames)
    film = draw_on_video(video, tmp_path / "b.gif", [MappedClip(np.array([0.0, 0.5, 1.3]), np.zeros((3, 2, 2)))])
    assert (film.width, film.height) == (400, 240)
    with Image.open(tmp_path / "b.gif") as picture:
        assert (picture.n_frames, picture.info["loop"], picture.info["duration"]) == (14, 0, 100)
        drawn = np.asarray(picture.convert("RGB"))
    expected = frames[0, 1::8, 2::10]  # the middles of the enlarged pixels
    assert np.abs(drawn[2::5, 3::6][:48, :64].astype(int) - expected[: len(drawn[2::5])]).mean() < 12


def test_gif_of_a_fast_video_keeps_its_frames(tmp_path: Path):
    """Frames closer than a GIF's hundredths of a second follow each other at once."""
    video = write_video(tmp_path / "a.mp4", moving_square(2, 0, num_frames=20), fps=240)
    panels = [MapPanel("", [MappedClip(np.array([0.0]), MAPS[:1])])]
    draw_panels(video, tmp_path / "b.gif", panels, fps=240.0)
    times, _ = decoded(tmp_path / "b.gif")
    np.testing.assert_allclose(np.diff(times), 0.01)


@pytest.mark.parametrize("place", [0.3, 0.6, 0.9])
def test_damaged_sound_doesnt_end_the_drawing(tmp_path: Path, place: float):
    video = flash_and_beep(tmp_path / "a.mkv", TIMES[:40], 1.0)
    data = bytearray(video.read_bytes())
    start = int(place * len(data))
    data[start : start + 40] = np.random.default_rng(0).bytes(40)
    video.write_bytes(data)
    film = draw_on_video(video, tmp_path / "b.mp4", [MappedClip(np.array([0.0, 1.5]), MAPS)])
    assert film.seconds > 1
    assert len(decoded(tmp_path / "b.mp4")[0]) > 20


FRAME = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def test_maps_are_drawn_where_and_when_the_model_looked():
    maps = np.zeros((3, 4, 4))
    maps[1, :2, :2] = 1  # at 2 s, in the top left quarter of the crop
    overlay = Overlay([MappedClip(np.array([1.0, 2.0, 4.0]), maps, (0.25, 0.5, 0.75, 1.0))])
    for outside in (0.99, 4.01):
        np.testing.assert_array_equal(overlay.draw(FRAME, outside), dimmed(FRAME))
    drawn = overlay.draw(FRAME, 2.0)
    np.testing.assert_array_equal(drawn[:10], dimmed(FRAME)[:10])
    np.testing.assert_array_equal(drawn[:, :30], dimmed(FRAME)[:, :30])
    np.testing.assert_array_equal(drawn[22:29, 50:59], FRAME[22:29, 50:59])  # the map is 0, and within the outline
    bright = np.array([252, 255, 164])  # inferno's brightest
    np.testing.assert_allclose(drawn[12:14, 32:34], 0.35 * FRAME[12:14, 32:34] + 0.65 * bright, atol=2)
    change = [np.abs(overlay.draw(FRAME, time)[12:14, 32:34].astype(int) - FRAME[12:14, 32:34]).sum() for time in (1, 1.5, 3)]
    assert change[0] == 0
    assert 0 < change[1] == change[2]  # halfway between the sampled frames on either side


def test_overlapping_clips_take_turns_without_jumps():
    """Each clip has its own scale; the mean moves from one to the other, and crops share a frame."""
    on, off = np.zeros((2, 2, 2)), np.zeros((2, 2, 2))
    on[:, 0, 0], off[:, 1, 1] = 5.0, 0.1
    overlay = Overlay([MappedClip(np.array([0.0, 4.0]), on), MappedClip(np.array([2.0, 6.0]), off)])
    grey = np.full((20, 20, 3), 99, np.uint8)
    top = [overlay.draw(grey, time)[2, 2].astype(int) for time in np.linspace(0, 6, 61)]
    assert np.abs(np.diff(top, axis=0)).max() < 45
    assert np.abs(top[0] - 99).max() > 50
    assert (top[60] == 99).all()
    halves = [MappedClip(np.array([0.0]), on[:1], box) for box in ((0, 0, 1, 0.6), (0, 0.4, 1, 1))]
    drawn = Overlay(halves).draw(grey, 0.0)
    assert np.abs(drawn[2, [1, 9]].astype(int) - 99).max(axis=1).min() > 20  # the hot corner of either crop
    assert (drawn[18] == 99).all()


def test_strength_sets_the_opacity():
    clip = MappedClip(np.array([0.0, 0.0]), np.eye(2)[None].repeat(2, axis=0))
    np.testing.assert_array_equal(Overlay([clip], 0.0).draw(FRAME, 0.0), FRAME)
    np.testing.assert_allclose(Overlay([clip], 1.0).draw(FRAME, 0.0)[0, 0], [252, 255, 164], atol=1)


def test_gif_of_a_varying_rate_keeps_the_slow_part(tmp_path: Path):
    times = [0.0, 1.0, *(2 + np.arange(50) / 50)]
    video = write_video(tmp_path / "a.mkv", moving_square(0, 0, num_frames=2)[np.arange(52) % 2], times=times)
    draw_on_video(video, tmp_path / "a.gif", [MappedClip(np.array([0.0, 3.0]), MAPS, WHOLE)])
    drawn, _ = decoded(tmp_path / "a.gif")
    np.testing.assert_allclose(drawn[:3], [0, 1, 2], atol=0.01)
    np.testing.assert_allclose(np.diff(drawn[2:]), 0.1, atol=0.03)  # as even as frames 0.02 s apart allow


@pytest.mark.parametrize("name", ["a.gif", "a.mp4"])
def test_frames_of_several_sizes_are_drawn_on_one_page(tmp_path: Path, name: str):
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(300):
        size = (64, 48) if number < 150 else (32, 40)
        Image.new("RGB", size).save(folder / f"{number}.png")
    clips = [MappedClip(np.array([at, at + 0.1]), MAPS, WHOLE) for at in (0.5, 8.0)]
    film = draw_on_video(folder, tmp_path / name, clips)
    assert (film.width, film.height) == decoded(tmp_path / name)[1].shape[2:0:-1]
    sheet = draw_sheet(folder, [MapPanel("map", clips)], title="frames")
    assert sheet.shape[2] == 3


def test_drawing_needs_its_folder(tmp_path: Path):
    video = write_video(tmp_path / "a.mp4", moving_square(0, 0, num_frames=4))
    with pytest.raises(tsf.InputError, match=r"There is no folder .*missing to write b\.mp4 to"):
        draw_on_video(video, tmp_path / "missing" / "b.mp4", [MappedClip(np.array([0.0, 0.1]), MAPS, WHOLE)])


def test_failed_drawing_leaves_no_file(tmp_path: Path):
    video = write_video(tmp_path / "a.mp4", moving_square(0, 0))
    before = (tmp_path / "b.mp4").write_bytes(b"as it was")

    def stop(done: float) -> None:
        if done > 0.3:
            raise KeyboardInterrupt

    clips = [MappedClip(np.array([0.0, 1.0]), np.zeros((2, 2, 2)))]
    with pytest.raises(KeyboardInterrupt):
        draw_on_video(video, tmp_path / "b.mp4", clips, progress=stop)
    assert (tmp_path / "b.mp4").stat().st_size == before
    assert {path.name for path in tmp_path.iterdir()} == {"a.mp4", "b.mp4"}


@pytest.mark.parametrize(
    ("clips", "options", "words"),
    [
        ([MappedClip(np.array([0.0, 1.0]), MAPS)], {"strength": 1.5}, "strength must be from 0 to 1, got 1.5"),
        ([MappedClip(np.array([0.0, 1.0]), MAPS)], {"max_side": 0}, "max_side must be above 0, got 0"),
        ([], {}, "There is no clip to draw"),
        ([MappedClip(np.array([0.0]), MAPS)], {}, r"one time per map, got \(2, 2, 2\) and \(1,\)"),
        ([MappedClip(np.array([0.0, 1.0]), MAPS * np.nan)], {}, "must be finite"),
        ([MappedClip(np.array([0.0, 1.0]), MAPS, (0.5, 0, 0.5, 1))], {}, "box must be"),
        ([MappedClip(np.array([50.0, 51.0]), MAPS)], {}, "no frame that can be decoded from 49 to 52 s"),
    ],
)
def test_impossible_drawings_are_rejected(tmp_path: Path, clips: Any, options: dict[str, Any], words: str):
    video = write_video(tmp_path / "a.mp4", moving_square(0, 0, num_frames=4))
    with pytest.raises(tsf.InputError, match=words):
        draw_on_video(video, tmp_path / "b.mp4", clips, **options)
    assert not (tmp_path / "b.mp4").exists()


def test_video_is_not_overwritten_by_its_drawing(tmp_path: Path):
    video = write_video(tmp_path / "a.mp4", moving_square(0, 0, num_frames=4))
    clips = [MappedClip(np.array([0.0]), MAPS[:1])]
    with pytest.raises(tsf.InputError, match="is the video itself"):
        draw_on_video(video, video, clips)
    with pytest.raises(tsf.InputError, match=r"must end in \.mp4 or \.gif, got b\.avi"):
        draw_on_video(video, tmp_path / "b.avi", clips)


def test_panels_have_titles_and_a_caption(tmp_path: Path):
    """Small videos are enlarged for the text, and long text is broken into lines."""
    video = write_video(tmp_path / "a.mp4", moving_square(0, 0, num_frames=4))
    panels = [MapPanel(title, [MappedClip(np.array([0.0]), MAPS[:1])]) for title in ("one", "a long title " * 9)]
    film = draw_panels(video, tmp_path / "b.mp4", panels, caption="What it is. " * 40)
    picture = decoded(tmp_path / "b.mp4")[1][0]
    assert picture.shape == (film.height, film.width, 3)
    assert 640 <= film.width < 660
    lines = (picture.max(axis=(1, 2)) > 120).astype(int)
    assert (np.diff(lines[-200:]) == 1).sum() >= 4  # lines of text below
    assert film.height > 240 + 100


def test_pictures_that_the_codec_refuses_end_in_a_sentence(tmp_path: Path):
    """A video of a few pixels' width, enlarged for its caption, may exceed what H.264 allows."""
    video = flash_and_beep(tmp_path / "a.mp4", [0.0, 0.1], 9.0)
    refused = pytest.raises(tsf.InputError, match="libx264 can't encode pictures of 64 x 20000 pixels")
    with open_video(video) as source, refused, ENCODERS[".mp4"](tmp_path / "b.mp4", source, 0.0) as film:
        film.add(np.zeros((20_000, 64, 3), np.uint8), 0.0)
