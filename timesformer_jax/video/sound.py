"""Decoding of the sound that accompanies a video, on the clock of the video's frames."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from timesformer_jax._typing import Float, ndarray
from timesformer_jax.printable import printable
from timesformer_jax.video.containers import open_container
from timesformer_jax.video.limits import Limits
from timesformer_jax.video.timeline import Clock, Timeline

log = logging.getLogger("timesformer_jax")

RATES = (48000, 44100, 32000, 24000, 22050, 16000, 11025, 12000, 8000)
"""Sampling rates that are kept, all of which AAC in MP4 and browsers support; others become the first."""


class Sound(NamedTuple):
    """Decoded sound.

    Attributes:
        rate: Samples per second.
        layout: "mono" or "stereo".
        samples: Iterator of (time of the first sample in seconds from the video's first frame, samples `[channels, n]`).
    """

    rate: int
    layout: str
    samples: Iterator[tuple[float, Float[ndarray, "channels n"]]]


def open_sound(path: str | Path, limits: Limits, timeline: Timeline, begin: float, *, jumps_ahead: bool) -> Sound | None:
    """Open the sound of a video from about `begin` seconds on; None if the file has none that can be decoded.

    The file is opened a second time, so that sound and frames can be read independently. It is closed with the iterator.
    Damaged packets are skipped.

    Args:
        path: The video file.
        limits: Limits on the file.
        timeline: Timeline of the video's frames.
        begin: Second to start at; up to a few seconds of earlier sound may be returned as well.
        jumps_ahead: True for the formats `JUMPING_FORMATS`.
    """
    container = open_container(path, limits)
    stream = container.streams.best("audio")
    if stream is None or stream.codec_context is None or not stream.codec_context.sample_rate:
        container.close()
        if stream is not None:
            log.warning("FFmpeg can't decode the sound of %s, which is dropped.", printable(path))
        return None
    codec = stream.codec_context
    rate = codec.sample_rate if codec.sample_rate in RATES else RATES[0]
    layout = "mono" if codec.channels == 1 else "stereo"
    if begin > 0:
        try:
            container.seek(round((timeline.first + begin) * 1_000_000))
        except Exception as error:  # whatever the demuxer raises, the sound can still be read from the file's start
            log.debug("%s: %s: %s", path, type(error).__name__, error)
            container.close()
            container = open_container(path, limits)
            stream = container.streams.best("audio")
    return Sound(rate, layout, _samples(container, stream, rate, layout, timeline, jumps_ahead))


def _samples(
    container: Any, stream: Any, rate: int, layout: str, timeline: Timeline, jumps_ahead: bool
) -> Iterator[tuple[float, np.ndarray]]:
    from av import AudioResampler

    clock = kind = None
    resampler: Any = None
    with container:
        for frame in _frames(container, stream):
            clock = clock or Clock(timeline._replace(fps=frame.sample_rate / max(frame.samples, 1)), jumps_ahead)
            now = clock.time(frame)
            if kind != (kind := (frame.format.name, frame.layout.name, frame.sample_rate)):  # a resampler accepts only one
                resampler = AudioResampler(format="fltp", layout=layout, rate=rate)
            try:
                blocks = [resampled.to_ndarray() for resampled in resampler.resample(frame)]
            except Exception as error:  # a damaged frame
                log.debug("Sound: %s: %s", type(error).__name__, error)
                continue
            for block in blocks:
                yield now, block
                now += block.shape[1] / rate


def _frames(container: Any, stream: Any) -> Iterator[Any]:
    """Decode frames until the container ends or breaks off."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except Exception as error:  # the container breaks off here; earlier packets stay valid
            log.debug("Sound: %s: %s", type(error).__name__, error)
            return
        if packet is None:
            return
        try:
            frames = packet.decode()
        except Exception as error:  # a damaged packet
            log.debug("Sound: %s: %s", type(error).__name__, error)
            continue
        yield from frames
