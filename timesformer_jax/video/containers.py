"""Open video files with PyAV, restricted to containers that hold the video themselves and to frames within the limits."""

import errno
import io
import os
from pathlib import Path
from typing import Any

from timesformer_jax.video.limits import Limits, OverLimitError, UnreadableVideoError

CONTAINERS = (
    # Containers of audio and video, and the streams of discs and broadcasters.
    *("3dostr", "apv", "asf", "asf_o", "avi", "dv", "dvd", "f4v", "flv", "gxf", "ifv", "ismv", "ivr", "kux", "live_flv", "lxf"),
    *("matroska", "mov", "mp4", "mpeg", "mpegts", "mpegtsraw", "mxf", "nsv", "nut", "nuv", "obu", "ogg", "ogv", "pva", "rm"),
    *("swf", "ty", "viv", "vivo", "vividas", "vob", "webm", "wtv"),
    # Raw streams of a single codec.
    *("av1", "avs2", "avs3", "cavsvideo", "dirac", "dnxhd", "evc", "h261", "h263", "h264", "hevc", "ivf", "m4v", "mjpeg"),
    *("mjpeg_2000", "mpegvideo", "obu", "vc1", "vc1test", "vvc", "yuv4mpegpipe"),
    # Animations, cameras and recorders.
    *("apng", "avif", "amv", "cine", "dhav", "flic", "gif", "jpegxl_anim", "lmlm4", "mlv", "mtv", "pmp", "r3d", "ser", "webp"),
    *("gif_pipe", "ingenient", "iv8", "moflex", "smjpeg", "webp_pipe"),
    # Games and discs of the 1990s.
    *("4xm", "anm", "argo_brp", "avs", "bethsoftvid", "bfi", "bink", "bmv", "c93", "cdg", "cdxl", "dfa", "dsicin", "dxa", "ea"),
    *("film_cpk", "filmstrip", "frm", "gdv", "hnm", "idcin", "iff", "ipmovie", "ipu", "iss", "jv", "luodat", "mm", "mv", "mvi"),
    *(
        "mxg",
        "nc",
        "paf",
        "pdv",
        "psxstr",
        "rl2",
        "roq",
        "rpl",
        "sga",
        "siff",
        "smk",
        "smush",
        "thp",
        "tiertexseq",
        "tmv",
        "txd",
    ),
    *("usm", "vmd", "wc3movie", "wsvqa", "xmv", "yop"),
    # Audio, possibly with cover art. Listed so that the error names a better reason than "unknown file".
    *("aac", "aiff", "ape", "au", "caf", "flac", "mp3", "oga", "tta", "wav", "w64", "wv"),
)
"""FFmpeg demuxers of files that contain their own video. Excluded are demuxers that open other files by name (hls, dash,
concat, sdp, image2, vobsub), devices, and scripts and text that FFmpeg renders (tty, bin, xbin)."""

PICTURES = ("jpeg_pipe", "png_pipe", "mjpeg", "webp_pipe", "gif", "bmp_pipe", "tiff_pipe")
"""FFmpeg demuxers of still images, whatever their suffix."""

POINTERS = {
    b"#EXTM3U": "an HLS playlist",
    b"ffconcat": "a concat script",
    b"<?xml": "XML, such as a DASH manifest",
    b"<MPD": "a DASH manifest",
    b"v=0": "a description of a stream (SDP)",
    b"[playlist]": "a playlist",
    b"<smil": "a playlist",
    b"RTSPtext": "a reference to a stream",
    b"#!": "a script",
}
"""Maps the first bytes of files that only refer to other files to a description of the format."""


def open_container(path: str | Path, limits: Limits, *, picture: bool = False) -> Any:
    """Open a file as a PyAV container after checking its frame size against `limits`.

    Metadata in an unknown encoding is accepted.

    Args:
        path: The file.
        limits: Limits on the frame size.
        picture: Accept the image formats `PICTURES` instead of the video formats `CONTAINERS`.

    Raises:
        UnreadableVideoError: If the file only refers to other files.
        OverLimitError: If the frames are too large.
        Exception: Whatever PyAV raises for a damaged file.
    """
    _check_beginning(path)
    # FFmpeg decodes the first frames while it probes a file, so the file is opened twice. The first time all decoders are
    # disabled, and the sizes are taken from the container and the stream headers.
    try:
        with _open(path, picture, {"codec_whitelist": "none"}) as announced:
            _check_sizes(path, announced, limits)
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) != errno.EINVAL:
            raise
        raise UnreadableVideoError(path, "it is damaged or not a video (playlists, scripts and text aren't read)") from error
    probing = {"max_pixels": str(limits.max_pixels)}
    container = _open(path, picture, {}, probing)
    try:
        _check_sizes(path, container, limits)
    except OverLimitError:
        container.close()
        raise
    for stream in container.streams.video:
        if (codec := stream.codec_context) is not None:
            codec.options = probing
    return container


def _check_beginning(path: str | Path) -> None:
    with open(path, "rb") as file:
        start = file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()
    if kind := next((kind for pattern, kind in POINTERS.items() if start.startswith(pattern)), None):
        raise UnreadableVideoError(path, f"it is {kind}, which contains no video itself")


def _open(path: str | Path, picture: bool, more: dict[str, str], probing: dict[str, str] | None = None) -> Any:
    import av

    version = int(av.__version__.partition(".")[0])
    # PyAV up to version 18 decodes metadata strictly by default. From version 19 it keeps any bytes and has no such option.
    options: dict[str, Any] = {"metadata_errors": "ignore"} if version < 19 else {}
    # Before version 18, PyAV writes out of bounds if options are given and streams appear late, as in FLV.
    options |= {"options": probing} if probing and version >= 18 else {}
    closed = {"format_whitelist": ",".join(PICTURES if picture else CONTAINERS), "protocol_whitelist": "file"}
    # FFmpeg would parse the text before a colon, as in 12:30.mp4, as a protocol, which the absolute path prevents. It would
    # expand a%d.jpg to many images, so images are passed as bytes, without a name.
    source = io.BytesIO(Path(path).read_bytes()) if picture else os.path.abspath(path)
    return av.open(source, container_options={**closed, **more}, **options)


def _check_sizes(path: str | Path, container: Any, limits: Limits) -> None:
    for stream in container.streams.video:
        if (codec := stream.codec_context) is not None:  # None: FFmpeg has no decoder
            limits.check_size(path, codec.width, codec.height)
