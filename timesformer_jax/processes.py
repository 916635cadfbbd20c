"""Let one process of a job work while the others wait, for hours if necessary."""

import itertools
import json
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import jax

from timesformer_jax.errors import InputError

log = logging.getLogger("timesformer_jax")

PATIENCE = 7 * 24 * 3600.0
"""Seconds that a process waits for the work of another one, such as preparing a data set."""
REMINDER = 60.0
"""Seconds between two log lines of a waiting process."""
ROOT = "timesformer_jax"
"""Prefix of this library's keys and barriers in JAX's coordination service."""

_BARRIERS, _RESULTS = itertools.count(), itertools.count()


def wait_for_all(task: str) -> None:
    """Wait until every process calls this, with a log line every minute.

    Unlike `multihost_utils.sync_global_devices`, this is not a computation on the devices, which would time out (with Gloo,
    after 30 seconds).

    Args:
        task: Event to wait for, such as "the data set to be prepared"; the same in every process.
    """
    if jax.process_count() == 1:
        return
    name = f"{ROOT}/{next(_BARRIERS)}/{task}"
    done = threading.Event()
    failed: list[Exception] = []

    def wait() -> None:
        try:
            coordination_service().wait_at_barrier(name, int(PATIENCE * 1000))
        except Exception as error:  # of a type that JAX doesn't export; raised below
            failed.append(error)
        done.set()

    # In another thread, so that signals reach this one.
    threading.Thread(target=wait, daemon=True).start()
    started = time.monotonic()
    while not done.wait(REMINDER):
        log.warning("Waiting for %s, %.0f min so far.", task, (time.monotonic() - started) / 60)
    if failed:
        raise failed[0]


def from_first(make: Callable[[], Any], task: str) -> Any:
    """Call `make` in the first process only, while the others wait, and return its result in every process.

    Args:
        make: Function without arguments, which may take hours; its result must be JSON.
        task: Event that the others wait for, such as "the data set to be prepared".

    Raises:
        InputError: In every process, if `make` raises it in the first.
    """
    if jax.process_count() == 1:
        return make()
    found: dict[str, Any] = {}
    if jax.process_index() == 0:
        try:
            found = {"value": make()}
        except InputError as error:
            found = {"error": str(error)}
    # Through the coordination service as well: a broadcast must be compiled, which on a busy machine exceeds Gloo's time limit.
    key = f"{ROOT}/found/{next(_RESULTS)}"
    if jax.process_index() == 0:
        coordination_service().key_value_set(key, json.dumps(found))
    wait_for_all(task)
    found = json.loads(coordination_service().blocking_key_value_get(key, 60_000))
    if "error" in found:
        raise InputError(found["error"])
    return found["value"]


def rank() -> int:
    """Index of this process; unlike `jax.process_index`, it is available before the processes have joined."""
    return joining_state().process_id or 0


def with_rank(text: str) -> str:
    """Prefix each line with the rank, such as "[2] ", if there are several processes."""
    state = joining_state()
    is_joining = state.coordinator_address is not None and state.client is None
    if state.num_processes == 1 and not is_joining:
        return text
    return "\n".join(f"[{rank()}] {line}" for line in text.split("\n"))


def coordination_service() -> Any:
    """Client of JAX's coordination service, through which the processes joined."""
    return joining_state().client


def joining_state() -> Any:
    """JAX's state of joining the processes: address, index and connections; JAX has no public name for it."""
    from jax._src import distributed

    return distributed.global_state
