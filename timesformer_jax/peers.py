"""Detect lost processes of a job, and report one error for all processes."""

import contextlib
import itertools
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import NoReturn

import jax

from timesformer_jax.printable import printable
from timesformer_jax.processes import ROOT, coordination_service, joining_state, with_rank

log = logging.getLogger("timesformer_jax")

BEAT = 5.0
"""Seconds between two heartbeats of a process."""
LOST = 40.0
"""Seconds without a heartbeat after which a process counts as lost; a busy machine can delay heartbeats by many seconds."""
GRACE = 10.0
"""Seconds that this process has to end by itself once another one is lost."""
FAREWELL = BEAT + 3.0
"""Seconds that the first process, which relays heartbeats, stays alive after an error, so that the others learn of it."""
ENDED = "ended"
"""Last heartbeat of a process that ends by itself."""

LOST_PROCESS = (
    "{name} was lost: it was killed, or its machine or network failed; its own log may say more. "
    "The same command resumes from the newest checkpoint."
)
ENDED_WITH_ERROR = "{name} has ended with an error."
OF_PEERS = ("gloo", "nccl", "coordination", "barrier", "heartbeat", "unavailable", "deadline_exceeded", "closed by peer")
"""Words in the exceptions of JAX and Orbax, which have many types, if another process doesn't respond."""

LAST_WORDS = """
import os, socket, sys
if not os.read(0, 1):  # the process has ended without a word, as JAX ends it if the coordinator is gone
    try:
        socket.create_connection((sys.argv[1], int(sys.argv[2])), 5).close()  # it is there: the process itself was killed
    except OSError:
        os.write(2, (sys.argv[3] + "\\n").encode())
"""


class Peers:
    """Heartbeats of all processes of a job, exchanged by a thread through JAX's coordination service.

    Attributes:
        hosts: Maps the index of each process heard of so far to the name of its host.
    """

    def __init__(self, index: int):
        self.hosts: dict[int, str] = {index: socket.gethostname()}
        self._index = index
        self._heard: dict[int, tuple[str, float]] = {}
        self._ended = threading.Event()
        self._noticed = threading.Event()
        self._lost: int | None = None
        self._ending = threading.Lock()
        self._last_words = _leave_last_words(index)
        self._thread = threading.Thread(target=self._exchange, daemon=True, name="peers")

    def start(self) -> None:
        """Start exchanging heartbeats."""
        self._thread.start()

    def stop(self) -> None:
        """Stop exchanging heartbeats; the other processes won't consider this one lost."""
        self._ended.set()
        self._thread.join(BEAT)
        with contextlib.suppress(Exception):  # the service is gone if the first process has ended
            coordination_service().key_value_set(f"{ROOT}/beat/{self._index}", ENDED, allow_overwrite=True)
        self._say_nothing()

    def explain(self, error: BaseException) -> str | None:
        """Message for an exception caused by the end of another process; None for any other exception.

        Waits until the lost process is known.
        """
        if not any(word in str(error).lower() for word in OF_PEERS):
            return None
        deadline = time.monotonic() + LOST + 3 * BEAT
        while time.monotonic() < deadline:
            if self._noticed.wait(0.5):
                return LOST_PROCESS.format(name=self._name(self._lost))
            if failed := self._failed_elsewhere():
                return ENDED_WITH_ERROR.format(name=failed)
        return None

    def end(self, message: str | None, code: int) -> NoReturn:
        """End this process at once with an error, which only the first process to fail prints.

        JAX's own shutdown would wait for lost processes.
        """
        with self._ending:
            is_first = self._is_first_to_fail()  # needed even after a traceback, to end the others
            if message is not None:
                if is_first:
                    print(with_rank(f"Error: {printable(message)}"), file=sys.stderr)
                else:
                    log.warning("Stopped: %s", message)
            self._ended.set()
            self._say_nothing()
            if self._index == 0:
                time.sleep(FAREWELL)
            logging.shutdown()
            sys.stderr.flush()
            os._exit(code)

    def _is_first_to_fail(self) -> bool:
        try:
            coordination_service().key_value_set(f"{ROOT}/error/first", self._name(self._index))
        except Exception as error:  # of a type that JAX doesn't export
            return "exists" not in str(error).lower()
        return True

    def _failed_elsewhere(self) -> str | None:
        """Name of the first process to fail, if it is another one."""
        with contextlib.suppress(Exception):  # the service is gone if the first process has ended
            for _, failed in coordination_service().key_value_dir_get(f"{ROOT}/error"):
                if failed != self._name(self._index):
                    return failed
        return None

    def _name(self, index: int | None) -> str:
        return f"process {index} on {self.hosts.get(-1 if index is None else index, 'an unknown host')}"

    def _exchange(self) -> None:
        unheard_since = None
        for beat in itertools.count():
            now = time.monotonic()
            try:
                service = coordination_service()
                service.key_value_set(f"{ROOT}/beat/{self._index}", f"{beat} {self.hosts[self._index]}", allow_overwrite=True)
                said = {int(key.rpartition("/")[2]): value for key, value in service.key_value_dir_get(f"{ROOT}/beat")}
                unheard_since = None
            except Exception:  # of types that JAX doesn't export: the service, and thus the first process, is gone
                said, unheard_since = {}, now if unheard_since is None else unheard_since
                if now - unheard_since > LOST:
                    self._notice(0)
            for index, value in said.items():
                if value != ENDED:
                    self.hosts[index] = value.partition(" ")[2]
                if value == ENDED or self._heard.get(index, ("", now))[0] != value:
                    self._heard[index] = value, now
                elif now - self._heard[index][1] > LOST:
                    self._notice(index)
            if (failed := self._failed_elsewhere()) and not self._ended.wait(1.0):
                self.end(ENDED_WITH_ERROR.format(name=failed), 1)
            if self._noticed.is_set() or self._ended.wait(BEAT):
                break
        if self._noticed.is_set() and not self._ended.wait(GRACE):
            self.end(LOST_PROCESS.format(name=self._name(self._lost)), 1)

    def _notice(self, index: int) -> None:
        self._lost = index
        self._noticed.set()

    def _say_nothing(self) -> None:
        if self._last_words is not None and self._last_words.stdin is not None:
            with contextlib.suppress(OSError):
                self._last_words.stdin.write(b".")
                self._last_words.stdin.close()


@contextlib.contextmanager
def watch_peers() -> Iterator[Peers | None]:
    """Detect lost processes within a minute while the block runs; yields None if there is a single process."""
    if not jax.distributed.is_initialized() or jax.process_count() == 1:
        yield None
        return
    peers = Peers(jax.process_index())
    peers.start()
    try:
        yield peers
    finally:
        peers.stop()


def _leave_last_words(index: int) -> "subprocess.Popen[bytes] | None":
    """Start a small process that reports the loss of the first process, in which case JAX aborts this process."""
    host, _, port = (joining_state().coordinator_address or "").rpartition(":")
    if index == 0 or not host or os.name != "posix":
        return None
    message = LOST_PROCESS.format(name=f"process 0 on {host}")
    message = with_rank(f"{'Error' if index == 1 else 'Stopped'}: {message}")
    command = [sys.executable, "-I", "-S", "-c", LAST_WORDS, host.strip("[]"), port, message]
    # In a separate session, since signals that end this process are often sent to its whole group.
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)
