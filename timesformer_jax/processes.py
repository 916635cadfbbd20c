"""Work that one process of a job does while the others wait, for hours if need be."""

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
"""Seconds between two log lines of a process that waits."""
ROOT = "timesformer_jax"
"""Prefix of our keys and barriers in JAX's coordination service."""

_BARRIERS, _RESULTS = itertools.count(), itertools.count()


def wait_for_all(task: str) -> None:
    """Wait until every process gets here; once a minute the log says that this one waits for `task`.

    In contrast to `multihost_utils.sync_global_devices` this is no computation on the devices, whose time limits are those of
    computations: Gloo's is 30 seconds.

    Args:
        task: What the other processes may still be doing, such as "the data set to be prepared"; the same in every process.
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

    # In another thread, so that a signal reaches this one.
    threading.Thread(target=wait, daemon=True).start()
    started = time.monotonic()
    while not done.wait(REMINDER):
        log.warning("Waiting for %s, %.0f min so far.", task, (time.monotonic() - started) / 60)
    if failed:
        raise failed[0]


def from_first(make: Callable[[], Any], task: str) -> Any:
    """`make()`, called in the first process alone while the others wait; every process receives its result, as JSON.

    Args:
        make: What to call; it may take hours.
        task: What the others wait for meanwhile, such as "the data set to be prepared".

    Raises:
        InputError: in every process if `make` raises it in the first.
    """
    if jax.process_count() == 1:
        return make()
    found: dict[str, Any] = {}
    if jax.process_index() == 0:
        try:
            found = {"value": make()}
        except InputError as error:
            found = {"error": str(error)}
    # By the coordination service, too: a broadcast is compiled, for longer on a busy machine than Gloo waits.
    key = f"{ROOT}/found/{next(_RESULTS)}"
    if jax.process_index() == 0:
        coordination_service().key_value_set(key, json.dumps(found))
    wait_for_all(task)
    found = json.loads(coordination_service().blocking_key_value_get(key, 60_000))
    if "error" in found:
        raise InputError(found["error"])
    return found["value"]


def rank() -> int:
    """Number of this process; in contrast to `jax.process_index` it may be asked before the processes have joined."""
    return joining_state().process_id or 0


def with_rank(text: str) -> str:
    """The text with "[2] " before each line in process 2 of several, and unchanged in a single process."""
    state = joining_state()
    is_joining = state.coordinator_address is not None and state.client is None
    if state.num_processes == 1 and not is_joining:
        return text
    return "\n".join(f"[{rank()}] {line}" for line in text.split("\n"))


def coordination_service() -> Any:
    """The client of JAX's coordination service, by which the processes found each other."""
    return joining_state().client


def joining_state() -> Any:
    """Address, number and connections of this process, as far as it has joined the others; JAX has no public name for it."""
    from jax._src import distributed

    return distributed.global_state
