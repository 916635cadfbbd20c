"""One program on many processes: finding the others, before anything else is done with JAX."""

import os
from typing import Any

import jax

from timesformer_jax.errors import InputError

MODES = ("auto", "on", "off")


def start_distributed(mode: str = "auto") -> None:
    """Joins the processes of this job, where it has several.

    "auto": if JAX recognises where it runs (Slurm, Open MPI, Kubernetes, TPU virtual machines), or if
    JAX_COORDINATOR_ADDRESS (host:port), NUM_PROCESSES and PROCESS_ID are set; a single process otherwise. "on": the same,
    and an error where it can't. "off": a single process in any case. Slurm and Open MPI get one device a process, as JAX
    has it; where JAX_LOCAL_DEVICE_IDS is set ("0,1,2,3,4,5,6,7"), these.

    Must run before any other call of JAX.
    """
    if mode not in MODES:
        raise InputError(f"--distributed must be one of {', '.join(MODES)}, got {mode!r}.")
    if mode == "off":
        return
    given = {name: os.environ.get(name) for name in ("NUM_PROCESSES", "PROCESS_ID")}
    explicit: dict[str, Any] = {name.lower(): _number(name, value) for name, value in given.items() if value is not None}
    if "JAX_COORDINATOR_ADDRESS" not in os.environ:
        explicit = {}
    try:
        jax.distributed.initialize(**explicit)
    except ValueError as error:
        if mode == "auto" and "coordinator_address should be defined" in str(error):
            return
        raise InputError(
            f"--distributed={mode}: this process can't find the others ({error}). Set JAX_COORDINATOR_ADDRESS=HOST:PORT, "
            "NUM_PROCESSES and PROCESS_ID, start it by Slurm or Open MPI, or use --distributed=off."
        ) from error
    except RuntimeError as error:
        raise InputError(f"--distributed={mode}: the processes can't join: {str(error).splitlines()[0]}.") from error


def _number(name: str, value: str) -> int:
    if not value.isdigit():
        raise InputError(f"The environment's {name} must be a whole number, got {value!r}.")
    return int(value)
