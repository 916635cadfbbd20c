"""Opening of video files and folders of images, with a single error type for anything wrong with them."""

import contextlib
import importlib.util
import stat
from collections.abc import Iterator
from pathlib import Path

from timesformer_jax.extras import MissingPackageError
from timesformer_jax.video.decoding import VideoFile, check_disk
from timesformer_jax.video.frame_folder import FrameFolder
from timesformer_jax.video.limits import DEFAULT_LIMITS, Limits, UnreadableVideoError
from timesformer_jax.video.timeline import DEFAULT_FPS


@contextlib.contextmanager
def open_video(path: str | Path, fps: float | None = None, *, limits: Limits = DEFAULT_LIMITS) -> Iterator[VideoFile]:
    """Open a video file or a folder of images as a context manager.

    Needs the extra `video`.

    Args:
        path: A video file, or a folder of images that are its frames.
        fps: Frames per second of a folder of images, 30 by default.
        limits: Largest frame, duration and file size to accept.

    Raises:
        UnreadableVideoError: If the video can't be opened or exceeds `limits`; the latter may only show when frames are read.
        ReadError: If file descriptors ran out or the disk fails, here or when frames are read. The video may be intact.
    """
    if importlib.util.find_spec("av") is None:
        raise MissingPackageError("av", "Reading videos")
    try:
        status = Path(path).stat()
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            raise UnreadableVideoError(path, "it is a device or a pipe, not a file")
        if not status.st_size:
            raise UnreadableVideoError(path, "the file is empty")
        folder = stat.S_ISDIR(status.st_mode)
        video = FrameFolder(Path(path), fps or DEFAULT_FPS, limits) if folder else VideoFile(path, limits)
    except UnreadableVideoError:
        raise
    except Exception as error:  # a damaged file can make the libraries raise anything, and must not stop readers of many files
        check_disk(error, path)
        raise UnreadableVideoError(path, getattr(error, "strerror", None) or f"{type(error).__name__}: {error}") from error
    with contextlib.closing(video):
        yield video
