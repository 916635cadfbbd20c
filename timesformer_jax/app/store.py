"""Uploaded videos: files on disk under names that only their sessions know, removed after use."""

import dataclasses
import re
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from timesformer_jax.errors import InputError

Result = TypeVar("Result")

IDLE_SECONDS = 3600.0
"""Seconds without a request or a running analysis after which an upload is removed, even if its page is still open."""
PREFIX = "timesformer-app-"
"""Beginning of the name of a server's folder of uploads, in the system's folder for temporary files."""


class RemovedError(InputError):
    """Raised if an upload has been removed, because its page was closed, idle or got another video."""


@dataclasses.dataclass(eq=False)
class Upload:
    """One uploaded video and everything made of it. Its token is the only way to reach it.

    Attributes:
        token: Unguessable name.
        folder: Folder of the video and of the files made of it.
        name: Name that the user's file had, which is only shown.
        kept: Intermediate results, by whatever they depend on.
        session: Session of the page that uses it; None until one does.
        used: Time of the latest request or the end of the latest analysis, in seconds of `time.monotonic`.
        running: A mark for each analysis that has steps left.
        removed: Whether the files are gone.
        served: Files that the server gives to browsers, by name.
    """

    token: str
    folder: Path
    name: str
    kept: dict[Any, Any] = dataclasses.field(default_factory=dict)
    session: str | None = None
    used: float = 0.0
    running: set[object] = dataclasses.field(default_factory=set)
    removed: bool = False
    served: dict[str, Path] = dataclasses.field(default_factory=dict)

    @property
    def video(self) -> Path:
        """The uploaded file. Its name ends as the user's did, by which FFmpeg recognises a few formats."""
        suffix = Path(self.name).suffix.lower()
        return self.folder / f"video{suffix if re.fullmatch('[.][a-z0-9]{1,8}', suffix) else ''}"

    def said(self, error: Exception) -> str:
        """Return an error's message for the user, with the user's name of the file instead of its path on the server."""
        return str(error).replace(str(self.video), self.name)

    def check(self) -> None:
        """Raise `RemovedError` if the upload is gone."""
        if self.removed:
            raise RemovedError(f"{self.name} has been removed from the server: choose it again.")

    def serve(self, suffix: str, content: bytes | None = None) -> tuple[Path, str]:
        """Return a new file and the address at which the server gives it to browsers.

        Args:
            suffix: End of the file's name, such as ".mp4".
            content: Content to write; None if the caller writes it.
        """
        self.check()
        name = f"{secrets.token_urlsafe(9)}{suffix}"
        path = self.folder / name
        if content is not None:
            path.write_bytes(content)
        self.served[name] = path
        return path, f"media/{self.token}/{name}"

    def drop(self, address: str | None) -> None:
        """Remove a file that `serve` made; None for none."""
        if address is not None and (path := self.served.pop(address.rpartition("/")[2], None)) is not None:
            path.unlink(missing_ok=True)


class Store:
    """All uploads of a server, in one temporary folder.

    Args:
        clock: Monotonic clock in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self.folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        self._uploads: dict[str, Upload] = {}
        self._lock = threading.Lock()
        self._clock = clock

    def add(self, name: str) -> Upload:
        """Make room for a video; the caller writes it to `Upload.video`."""
        token = secrets.token_urlsafe(24)
        upload = Upload(token, self.folder / token, name, used=self._clock())
        upload.folder.mkdir(mode=0o700)
        with self._lock:
            self._uploads[token] = upload
        return upload

    def get(self, token: Any) -> Upload:
        """Return the upload with this token; raises `RemovedError` if there is none."""
        with self._lock:
            upload = self._uploads.get(token) if isinstance(token, str) else None
        if upload is None:
            raise RemovedError("This video has been removed from the server: choose it again.")
        self.touch(upload)
        return upload

    def touch(self, upload: Upload) -> None:
        """Note that an upload is in use."""
        upload.used = self._clock()

    def while_used(self, upload: Upload, steps: Iterable[Result]) -> Iterator[Result]:
        """Pass on the steps of an analysis; the upload isn't idle until they end, however long they take."""
        this = object()
        upload.running.add(this)  # without the lock, which the thread may hold as it collects an abandoned generator
        try:
            yield from steps
        finally:
            upload.running.discard(this)
            self.touch(upload)

    def claim(self, token: Any, session: str | None) -> Upload:
        """Return the upload for a session's page, and remove the session's earlier uploads."""
        upload = self.get(token)
        if session is not None:
            self.release(session, but=upload)
            upload.session = session
        return upload

    def release(self, session: str | None, but: Upload | None = None) -> None:
        """Remove the uploads of a session, whose page was closed, except `but`."""
        with self._lock:
            gone = [upload for upload in self._uploads.values() if upload.session == session and upload is not but]
        for upload in gone if session is not None else []:
            self.remove(upload)

    def remove(self, upload: Upload) -> None:
        """Remove an upload and everything made of it. A computation that still uses it stops at its next step."""
        with self._lock:
            self._uploads.pop(upload.token, None)
        upload.removed = True
        upload.kept.clear()
        upload.served.clear()
        shutil.rmtree(upload.folder, ignore_errors=True)

    def remove_idle(self) -> None:
        """Remove uploads without a request or a running analysis for `IDLE_SECONDS`."""
        latest = self._clock() - IDLE_SECONDS
        with self._lock:
            idle = [upload for upload in self._uploads.values() if not upload.running and upload.used < latest]
        for upload in idle:
            self.remove(upload)

    def close(self) -> None:
        """Remove everything."""
        with self._lock:
            uploads = list(self._uploads.values())
        for upload in uploads:
            self.remove(upload)
        shutil.rmtree(self.folder, ignore_errors=True)
