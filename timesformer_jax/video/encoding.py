"""RGB frames -> a list of bytes, one for each frame, and back: JPEG pictures, or H.264 with a key frame every few frames.

Frame i is entry i of the list, so that reading a clip touches its own frames and nothing else.
"""

import threading
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any

from timesformer_jax._typing import UInt8, ndarray


def encode_jpeg(frames: Iterable[UInt8[ndarray, "H W 3"]], *, quality: int) -> list[bytes]:
    """A JPEG picture of each frame; `quality` from 1 to 95, as in libjpeg."""
    import io

    from PIL import Image

    pictures = []
    for frame in frames:
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "JPEG", quality=quality)
        pictures.append(buffer.getvalue())
    return pictures


def encode_h264(frames: Iterable[UInt8[ndarray, "H W 3"]], *, key_frame_every: int, crf: int) -> list[bytes]:
    """An H.264 packet of each frame, of even height and width; every `key_frame_every`th stands alone (0, n, 2n, ...).

    Frames refer backwards only, and each key frame repeats the stream's headers: joined together the packets are a stream that
    players know as .h264. `crf`: x264's constant rate factor, lower is better. Tuned for fast decoding.
    """
    import av

    settings = f"keyint={key_frame_every}:min-keyint={key_frame_every}:scenecut=0:repeat-headers=1"
    encoder: Any = None
    packets: list[bytes] = []
    for number, frame in enumerate(frames):
        if encoder is None:
            encoder = av.CodecContext.create("libx264", "w")
            encoder.height, encoder.width = frame.shape[:2]
            encoder.pix_fmt = "yuv420p"
            encoder.framerate, encoder.time_base = Fraction(30), Fraction(1, 30)
            encoder.options = {"crf": str(crf), "preset": "medium", "tune": "fastdecode", "bf": "0", "x264-params": settings}
            encoder.thread_count = 1  # videos are encoded side by side
        picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
        picture.pts = number
        packets += map(bytes, encoder.encode(picture))
    return packets + ([] if encoder is None else [bytes(packet) for packet in encoder.encode(None)])


def packets_needed(indices: Sequence[int], key_frame_every: int) -> list[int]:
    """Which packets have to be decoded for the frames `indices` (ascending, each once), in order."""
    needed: list[int] = []
    for index in indices:
        key = index - index % key_frame_every
        first = needed[-1] + 1 if needed and needed[-1] >= key else key
        needed += range(first, index + 1)
    return needed


class _Decoder(threading.local):
    """A decoder and a reformatter for each thread, for all its clips: making new ones takes as long as a frame does."""

    def __init__(self) -> None:
        import av
        from av.video.reformatter import VideoReformatter

        self.codec: Any = av.CodecContext.create("h264", "r")
        self.codec.thread_count = 1  # clips are decoded side by side
        self.reformatter = VideoReformatter()


_decoder: _Decoder | None = None


def decode_h264(packets: Sequence[bytes], numbers: Sequence[int], indices: Sequence[int]) -> list[UInt8[ndarray, "H W 3"]]:
    """The frames `indices` out of `packets`, which are those of `packets_needed`; `numbers` says which packet is whose.

    Raises `ValueError` where a frame doesn't come out: the packets are damaged.
    """
    global _decoder
    import av
    from av.error import FFmpegError

    _decoder = _decoder or _Decoder()
    codec, reformatter = _decoder.codec, _decoder.reformatter
    wanted = set(indices)
    frames = []
    try:
        for number, data in [*zip(numbers, packets, strict=True), (0, None)]:
            packet = None if data is None else av.Packet(data)
            if packet is not None:
                packet.pts = packet.dts = number
            for frame in codec.decode(packet):
                if frame.pts in wanted and not frame.is_corrupt:
                    frames.append(reformatter.reformat(frame, format="rgb24").to_ndarray())
    except FFmpegError as error:
        raise ValueError(str(error)) from error
    finally:
        codec.flush_buffers()
    if len(frames) != len(indices):
        raise ValueError(f"{len(indices) - len(frames)} of {len(indices)} frames can't be decoded")
    return frames
