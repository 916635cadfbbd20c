"""Join the processes of a job, before any other use of JAX."""

import contextlib
import errno
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from timesformer_jax.checks import check_choice
from timesformer_jax.errors import InputError
from timesformer_jax.processes import joining_state, rank, with_rank

MODES = ("auto", "on", "off")

ADDRESS, COUNT, NUMBER = "JAX_COORDINATOR_ADDRESS", "NUM_PROCESSES", "PROCESS_ID"
"""Environment variables: address of the first process (host:port), number of processes, and number of this one."""
PORT = "JAX_COORDINATOR_PORT"
"""JAX's environment variable for the port alone, if a scheduler provides the host."""

PATIENCE = 300.0
"""Seconds to wait for the other processes, whose machines may still be booting."""


def start_distributed(mode: str = "auto") -> None:
    """Join the processes of this job, if it has several.

    Must run before any other call of JAX. Under Slurm and Open MPI, JAX assigns one device to each process; set
    JAX_LOCAL_DEVICE_IDS ("0,1,2,3,4,5,6,7") to assign others.

    Args:
        mode: "auto" joins the others if JAX recognises its environment (Slurm, Open MPI, Kubernetes, TPU virtual machines), or
            if JAX_COORDINATOR_ADDRESS (host:port), NUM_PROCESSES and PROCESS_ID are set, and otherwise runs a single process.
            "on" does the same, but fails instead of running a single process. "off" always runs a single process.

    Raises:
        InputError: If some of the variables are missing or invalid, or the other processes can't be found.
    """
    check_choice("--distributed", mode, MODES)
    if mode == "off":
        return
    try:
        found = _detected(os.environ)
        _check_port(os.environ, found)
        with _patience():
            jax.distributed.initialize(**found, initialization_timeout=round(2 * PATIENCE))
    except InputError:
        raise
    except ValueError as error:
        if mode == "auto" and "coordinator_address should be defined" in str(error):
            return
        raise InputError(
            f"--distributed={mode}: this process can't find the others ({error}). Set JAX_COORDINATOR_ADDRESS=HOST:PORT, "
            "NUM_PROCESSES and PROCESS_ID, start it by Slurm or Open MPI, or use --distributed=off."
        ) from error
    except RuntimeError as error:
        raise InputError(f"--distributed={mode}: the processes can't join: {str(error).splitlines()[0]}.") from error


@contextlib.contextmanager
def _patience() -> Iterator[None]:
    """End the process with a clear error if the others don't join during the block, before JAX aborts with a stack trace."""
    timer = threading.Timer(PATIENCE, _give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _give_up() -> None:
    address = joining_state().coordinator_address
    if rank() == 0:
        message = (
            f"Error: the other processes haven't joined at {address} within {PATIENCE / 60:.0f} minutes. Check that each was "
            "started and can reach this address, and that all have the same number of processes."
        )
    else:  # not an error here: the first process reports what is wrong, if it runs
        message = (
            f"Stopped: process 0 hasn't answered at {address} within {PATIENCE / 60:.0f} minutes. If it runs, its log says "
            "why; otherwise start it, or check that this address is right and not blocked."
        )
    os.write(2, f"{with_rank(message)}\n".encode())
    os._exit(1)


def _detected(environment: Mapping[str, str]) -> dict[str, Any]:
    """Coordinator address, number of processes and index of this one, from variables or from the scheduler that JAX detects."""
    from jax._src import clusters

    given = _given(environment)
    names = ("coordinator_address", "num_processes", "process_id")
    before = (environment.get(ADDRESS), given.get(names[1]), given.get(names[2]))
    if None in before:
        detect = clusters.ClusterEnv.auto_detect_unset_distributed_params
        before = detect(*before, local_device_ids=[], cluster_detection_method=None, initialization_timeout=round(PATIENCE))
    return dict(zip(names, before, strict=False))


def _check_port(environment: Mapping[str, str], found: Mapping[str, Any]) -> None:
    """Raise `InputError` if the first process can't listen on the port where the others expect it; JAX would crash."""
    host, _, port = (found["coordinator_address"] or "").rpartition(":")
    if found["process_id"] != 0 or found["num_processes"] == 1 or not port.isdecimal():
        return
    if environment.get("JAX_COORDINATOR_BIND_ADDRESS"):  # one of several networks
        host, _, port = environment["JAX_COORDINATOR_BIND_ADDRESS"].rpartition(":")
        if not port.isdecimal():
            return
    other = f"{ADDRESS}={host}:PORT" if environment.get(ADDRESS) else f"{PORT}=PORT"
    if not 0 < int(port) < 1 << 16:
        raise InputError(f"Expected a port from 1 to 65535 for the processes to join, got {host}:{port}: set {other}.")
    for family, everywhere in ((socket.AF_INET6, "::"), (socket.AF_INET, "")):
        try:
            with socket.socket(family) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # like JAX: ignore runs that have just ended
                probe.bind((everywhere, int(port)))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise InputError(
                    f"Port {port} of {host}, where the processes join, is in use by another program or by a run that hasn't "
                    f"ended: set {other} to a free one, the same for every process."
                ) from None


def _given(environment: Mapping[str, str]) -> dict[str, Any]:
    """Number of processes and index of this one, if the variables are set; an incomplete set is an error."""
    address = environment.get(ADDRESS)
    numbers = {name: _number(name, environment[name]) for name in (COUNT, NUMBER) if name in environment}
    if numbers and not address:
        raise InputError(
            f"{' and '.join(f'{name}={value}' for name, value in numbers.items())} without {ADDRESS}: this process would train "
            f"alone. Set {ADDRESS}=HOST:PORT as well, or unset {' and '.join(numbers)}; --distributed=off ignores them."
        )
    if len(numbers) == 1:
        (there,), (missing,) = numbers, {COUNT, NUMBER} - set(numbers)
        raise InputError(f"{there}={numbers[there]} without {missing}: set both, or neither if a scheduler sets them.")
    if numbers and numbers[COUNT] < 1:
        raise InputError(f"{COUNT} must be at least 1, got {numbers[COUNT]}.")
    if numbers and numbers[NUMBER] >= numbers[COUNT]:
        raise InputError(
            f"{NUMBER}={numbers[NUMBER]} with {COUNT}={numbers[COUNT]}: processes are numbered from 0 to {numbers[COUNT] - 1}."
        )
    return {name.lower(): value for name, value in numbers.items()}


def _number(name: str, value: str) -> int:
    if not value.isdecimal():
        raise InputError(f"The environment's {name} must be a whole number, got {value!r}.")
    return int(value)
