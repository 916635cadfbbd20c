"""Presentation times of a video's frames, derived from the timestamps of its packets.

The rate, duration and number of packets that a container announces are often wrong: recordings claim 1000 frames per second,
edit lists and codecs hide frames, and joined files restart their clock. So all packets are read once, without decoding them.
"""

import bisect
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from timesformer_jax._typing import Float, ndarray

JUMPING_FORMATS = ("mpegts", "mpeg")
"""Formats whose clock may jump ahead where recordings were joined."""
DTS_FORMATS = ("avi",)
"""Formats that store no presentation timestamps: FFmpeg guesses those of B-frames wrongly."""
LARGEST_GAP = 10.0
"""Longest pause between frames in seconds; in `JUMPING_FORMATS` a longer gap is a jump of the clock."""
RATES_AGREE = 0.02
"""Relative difference from the measured rate up to which the announced rate, which is exact, is used."""
DEFAULT_FPS = 30.0


class Key(NamedTuple):
    """A key frame, at which decoding can start.

    Attributes:
        time: Presentation time in seconds of the container's clock.
        pts: Presentation timestamp.
        dts: Decoding timestamp, if any.
    """

    time: float
    pts: int
    dts: int | None


class Timeline(NamedTuple):
    """Timing of a video according to its packets.

    Attributes:
        first: Time of the first frame on the container's clock, in seconds.
        seconds: Duration from the beginning of the first frame to the end of the last.
        fps: Frames per second, on average.
        num_frames: Number of packets that should decode to a frame.
        certain: Whether exactly `num_frames` frames result unless packets are damaged.
        keys: Key frames at which decoding can start, ascending; empty if seeking isn't safe.
        head: PTS, DTS and size of the first packet.
        times: Presentation time of each frame, in seconds from the first; empty unless `certain` and seeking is safe.
    """

    first: float
    seconds: float
    fps: float
    num_frames: int
    certain: bool
    keys: Sequence[Key]
    head: tuple[int | None, int | None, int]
    times: Float[ndarray, "num_frames"]

    def key_before(self, second: float) -> Key | None:
        """Return the last key frame at or before `second`, counted from the first frame; None for the start of the file."""
        place = bisect.bisect_right(self.keys, self.first + second + 1e-6, key=lambda key: key.time)
        return self.keys[place - 1] if place > 1 else None


class Clock:
    """Presentation times of decoded frames, in seconds from the first frame; monotonic even if the container's clock jumps.

    Args:
        timeline: The file's timeline.
        jumps_ahead: True for the formats `JUMPING_FORMATS`.
        by_dts: Advance from the first frame's time by the decoding timestamps; True for the formats `DTS_FORMATS`.
    """

    def __init__(self, timeline: Timeline, jumps_ahead: bool, by_dts: bool = False):
        self._offset = -timeline.first
        self._by_dts = by_dts
        self._dts_lead: float | None = None
        self._frame_seconds = 1 / timeline.fps
        self._largest_gap = LARGEST_GAP if jumps_ahead else math.inf
        self._last: float | None = None

    def time(self, frame: Any) -> float:
        """Return the time of the next frame; a frame without a timestamp follows its predecessor by one frame period."""
        follows = 0.0 if self._last is None else self._last + self._frame_seconds
        stamp = self._dts_time(frame) if self._by_dts else frame.time
        now = follows if stamp is None else stamp + self._offset
        if self._last is not None and not 0 < now - self._last <= self._largest_gap:
            self._offset += follows - now
            now = follows
        self._last = now
        return now

    def _dts_time(self, frame: Any) -> float | None:
        """Return a frame's time on the container's clock, according to its DTS; None if it has none, as when flushed."""
        if frame.dts is None:
            return frame.time if self._last is None else None
        # A decoded frame has the DTS of the packet that released it, which ascends at a fixed distance from its time. The first
        # frame is a key frame, for which FFmpeg's guess is right.
        seconds = float(frame.dts * frame.time_base)
        lead = self._dts_lead
        if lead is None:
            lead = self._dts_lead = 0.0 if frame.time is None else seconds - frame.time
        return seconds - lead


def read_timeline(packets: Iterable[Any], stream: Any, *, jumps_ahead: bool) -> Timeline:
    """Read the timeline of a stream from all its packets; `jumps_ahead` is True for the formats `JUMPING_FORMATS`."""
    base = float(stream.time_base or 0) or 1.0
    rate = stream.average_rate or stream.guessed_rate
    usual = 1 / float(rate) if rate else 1 / DEFAULT_FPS
    times: list[float] = []
    keys: list[Key] = []
    head, offset, last, jumped, certain = None, 0.0, None, False, True
    for packet in packets:
        pts, dts = packet.pts, packet.dts
        if head is None:
            head = (pts, dts, packet.size)
            certain = packet.is_keyframe
        if dts is not None:  # DTS increase from packet to packet
            now = dts * base + offset
            if last is not None and not -1e-9 <= now - last <= (LARGEST_GAP if jumps_ahead else math.inf):
                offset += last + usual - now
                now, jumped = last + usual, True
            last = now
        if packet.is_discard or _is_hidden(packet, stream):
            continue
        certain = certain and pts is not None and not packet.is_corrupt
        shown = dts if pts is None else pts
        times.append(shown * base + offset if shown is not None else times[-1] + usual if times else 0.0)
        if packet.is_keyframe and pts is not None:
            keys.append(Key(times[-1], pts, dts))
    order = sorted(times)
    decodable = _from_first_key(times, keys)
    first = decodable[0] if decodable else 0.0
    # Frames before the first key frame, or with a duplicate time, may or may not be decoded.
    certain = certain and len(decodable) == len(times) and all(a < b for a, b in itertools.pairwise(order))
    span = order[-1] - first if order else 0.0
    fps = _rate(len(decodable), span, float(rate) if rate else None, base)
    safe = not jumped and all(a.time < b.time for a, b in itertools.pairwise(keys))
    shown = np.array(order if certain and safe else []) - first
    return Timeline(first, span + 1 / fps, fps, len(times), certain, keys if safe else [], head or (None, None, 0), shown)


def _from_first_key(times: Sequence[float], keys: Sequence[Key]) -> list[float]:
    """Sort the times, without those before the first key frame: these frames lack their reference frames."""
    first = keys[0].time if keys else -math.inf
    return sorted(time for time in times if time >= first)


def _rate(num_frames: int, span: float, announced: float | None, base: float) -> float:
    """Return the announced frames per second if the timestamps confirm it, else the rate measured from them."""
    if num_frames < 2 or span <= 0:
        return announced or DEFAULT_FPS
    measured = (num_frames - 1) / span
    tolerance = max(RATES_AGREE, 2 * base / span)  # timestamps are rounded
    return announced if announced and abs(measured / announced - 1) <= tolerance else measured


def _is_hidden(packet: Any, stream: Any) -> bool:
    """Return True for a VP8 packet with a reference frame that is never shown (RFC 6386, section 9.1)."""
    return stream.codec_context.name in ("vp8", "libvpx") and not memoryview(packet)[0] >> 4 & 1
