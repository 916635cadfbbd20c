"""Encoding of RGB frames as one bytes object per frame: JPEG images, or H.264 with a key frame every few frames.

Frame i is entry i of the list, so reading a clip touches only the frames that it needs.
"""

import threading
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any

from timesformer_jax._typing import UInt8, ndarray


def encode_jpeg(frames: Iterable[UInt8[ndarray, "H W 3"]], *, quality: int) -> list[bytes]:
    """Encode each frame as a JPEG image; `quality` is from 1 to 95, as in libjpeg."""
    import io

    from PIL import Image

    pictures = []
    for frame in frames:
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "JPEG", quality=quality)
        pictures.append(buffer.getvalue())
    return pictures


def encode_h264(frames: Iterable[UInt8[ndarray, "H W 3"]], *, key_frame_every: int, crf: int) -> list[bytes]:
    """Encode each frame as an H.264 packet, tuned for fast decoding.

    Frames refer backwards only, and each key frame repeats the stream's headers, so the concatenated packets are a playable
    .h264 stream.

    Args:
        frames: Frames of even height and width.
        key_frame_every: Distance n between key frames, which can be decoded on their own (0, n, 2n, ...).
        crf: x264's constant rate factor; lower is better.
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
            encoder.thread_count = 1  # videos are encoded in parallel
        picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
        picture.pts = number
        packets += map(bytes, encoder.encode(picture))
    return packets + ([] if encoder is None else [bytes(packet) for packet in encoder.encode(None)])


def packets_needed(indices: Sequence[int], key_frame_every: int) -> list[int]:
    """Return the packets to decode, in order, for the frames `indices` (ascending, without duplicates)."""
    needed: list[int] = []
    for index in indices:
        key = index - index % key_frame_every
        first = needed[-1] + 1 if needed and needed[-1] >= key else key
        needed += range(first, index + 1)
    return needed


class _Decoder(threading.local):
    """Decoder and reformatter of a thread, reused because creating them takes as long as decoding a frame."""

    def __init__(self) -> None:
        import av
        from av.video.reformatter import VideoReformatter

        self.codec: Any = av.CodecContext.create("h264", "r")
        self.codec.thread_count = 1  # clips are decoded in parallel
        self.reformatter = VideoReformatter()


_decoder: _Decoder | None = None


def decode_h264(packets: Sequence[bytes], numbers: Sequence[int], indices: Sequence[int]) -> list[UInt8[ndarray, "H W 3"]]:
    """Decode the frames `indices` from the packets that `packets_needed` lists.

    Args:
        packets: The encoded packets.
        numbers: Frame number of each packet.
        indices: Frames to return, ascending.

    Raises:
        ValueError: If a frame can't be decoded because the packets are damaged.
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
