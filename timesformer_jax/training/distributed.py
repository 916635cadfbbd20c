"""One program on many processes: finding the others, before anything else is done with JAX."""

import os
from collections.abc import Mapping
from typing import Any

import jax

from timesformer_jax.errors import InputError

MODES = ("auto", "on", "off")

ADDRESS, COUNT, NUMBER = "JAX_COORDINATOR_ADDRESS", "NUM_PROCESSES", "PROCESS_ID"
"""Environment variables: where the first process listens (host:port), how many there are, which one this is."""


def start_distributed(mode: str = "auto") -> None:
    """Joins the processes of this job, where it has several.

    "auto": if JAX recognises where it runs (Slurm, Open MPI, Kubernetes, TPU virtual machines), or if
    JAX_COORDINATOR_ADDRESS (host:port), NUM_PROCESSES and PROCESS_ID are set; a single process otherwise. "on": the same,
    and an error where it can't. "off": a single process in any case. Slurm and Open MPI get one device a process, as JAX
    has it; where JAX_LOCAL_DEVICE_IDS is set ("0,1,2,3,4,5,6,7"), these.

    Must run before any other call of JAX. Raises `InputError` for variables of which some are missing or make no sense, and if
    the others can't be found.
    """
    if mode not in MODES:
        raise InputError(f"--distributed must be one of {', '.join(MODES)}, got {mode!r}.")
    if mode == "off":
        return
    try:
        jax.distributed.initialize(**_given(os.environ))
    except ValueError as error:
        if mode == "auto" and "coordinator_address should be defined" in str(error):
            return
        raise InputError(
            f"--distributed={mode}: this process can't find the others ({error}). Set JAX_COORDINATOR_ADDRESS=HOST:PORT, "
            "NUM_PROCESSES and PROCESS_ID, start it by Slurm or Open MPI, or use --distributed=off."
        ) from error
    except RuntimeError as error:
        raise InputError(f"--distributed={mode}: the processes can't join: {str(error).splitlines()[0]}.") from error


def _given(environment: Mapping[str, str]) -> dict[str, Any]:
    """The number of processes and this one's, if the variables give them; a part of the three is an error."""
    address = environment.get(ADDRESS)
    numbers = {name: _number(name, environment[name]) for name in (COUNT, NUMBER) if name in environment}
    if numbers and not address:
        raise InputError(
            f"{' and '.join(f'{name}={value}' for name, value in numbers.items())} without {ADDRESS}: this process would train "
            f"alone. Set {ADDRESS}=HOST:PORT as well, or unset {' and '.join(numbers)}; --distributed=off ignores them."
        )
    if len(numbers) == 1:
        (there,), (missing,) = numbers, {COUNT, NUMBER} - set(numbers)
        raise InputError(f"{there}={numbers[there]} without {missing}: set both, or neither where a scheduler says them.")
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
