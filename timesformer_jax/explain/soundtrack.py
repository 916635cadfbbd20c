"""Sound of a video's stretches, encoded in step with the drawn pictures."""

from fractions import Fraction
from typing import Any

import numpy as np

from timesformer_jax.video.decoding import VideoFile
from timesformer_jax.video.sound import Sound

DRIFT = 0.03
"""Seconds by which a block of sound may miss its place before silence is added or sound dropped; timestamps are rounded."""


class Soundtrack:
    """Sound encoded as AAC, placed by its timestamps to the sample; nothing if the video has no sound.

    Sound is encoded anew rather than copied: so it begins where the pictures begin, not at the packet before, and any codec
    plays in a browser.

    Args:
        container: PyAV container to write to.
        source: The video.
        begin: Second of the source at which the first stretch begins.

    Attributes:
        rate: Samples per second; 0 without sound.
    """

    def __init__(self, container: Any, source: VideoFile, begin: float):
        self._container, self._source = container, source
        self._opened: Sound | None = source.sound(begin)
        self.rate = self._opened.rate if self._opened else 0
        self._layout = self._opened.layout if self._opened else ""
        self._stream: Any = container.add_stream("aac", rate=self.rate, layout=self._layout) if self._opened else None
        self._samples: Any = iter(())
        self._waiting: tuple[int, np.ndarray] | None = None
        self._written, self._shift, self._drift = 0, 0.0, 0

    def begin(self, second: float, at: float) -> None:
        """Begin a stretch: the sound at `second` of the source belongs to second `at` of the output."""
        if not self.rate:
            return
        self._silence(round(at * self.rate))
        opened, self._opened = self._opened or self._source.sound(second), None
        self._samples = opened.samples if opened else iter(())
        self._waiting, self._shift = None, at - second
        self._drift = 0  # the first block of a stretch is cut to the sample

    def write(self, until: float) -> None:
        """Encode up to second `until` of the output, as far as the source has sound."""
        end = round(until * self.rate)
        while self._written < end:
            if self._waiting is None:
                block = next(self._samples, None)
                if block is None:
                    return
                self._waiting = round((block[0] + self._shift) * self.rate), block[1]
            place, samples = self._waiting
            if place - self._written > self._drift:
                self._silence(min(place, end))
                continue
            if self._written - place > self._drift:
                samples = samples[:, self._written - place :]
            now = samples[:, : end - self._written]
            self._encode(now)
            rest = samples[:, now.shape[1] :]
            self._waiting = (self._written, rest) if rest.size else None
            if now.size:
                self._drift = round(DRIFT * self.rate)

    def close(self) -> None:
        """Encode what the encoder still holds."""
        if self._stream is not None:
            self._container.mux(self._stream.encode(None))

    def _silence(self, until: int) -> None:
        missing = until - self._written
        if missing > 0:
            self._encode(np.zeros((1 if self._layout == "mono" else 2, missing), np.float32))

    def _encode(self, samples: np.ndarray) -> None:
        from av import AudioFrame

        if not samples.size:
            return
        frame = AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout=self._layout)
        frame.sample_rate, frame.pts, frame.time_base = self.rate, self._written, Fraction(1, self.rate)
        self._written += samples.shape[1]
        self._container.mux(self._stream.encode(frame))
