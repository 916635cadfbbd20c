"""Opens a video file or a folder of pictures, with one kind of error for whatever is wrong with it."""

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
    """Opens a video file, or a folder of pictures at `fps` (30); raises `UnreadableVideoError` with the reason where it can't,
    and where the video goes beyond `limits`, here or when its frames are read. A `ReadError`, here or then, says nothing about
    the video: no more files may be open, or the disk fails.

    Needs the extra `video`.
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
    except Exception as error:  # a file may make the libraries raise anything; it must not end what reads many
        check_disk(error, path)
        raise UnreadableVideoError(path, getattr(error, "strerror", None) or f"{type(error).__name__}: {error}") from error
    with contextlib.closing(video):
        yield video
