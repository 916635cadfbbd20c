"""Work by several processes: in order, errors as results, and a crash that costs one item."""

import os
import signal

import pytest

from timesformer_jax.datasets import map_in_processes
from timesformer_jax.datasets.parallel import CrashError
from timesformer_jax.errors import InputError


def work(number: int) -> int:
    """The square; refuses 3, and kills its own process over 5."""
    if number == 3:
        raise InputError("not three")
    if number == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return number**2


def test_results_come_in_order_and_errors_among_them():
    results = dict(map_in_processes(work, iter([0, 1, 2, 3, 4]), num_workers=2))
    assert list(results) == [0, 1, 2, 3, 4]
    assert isinstance(error := results.pop(3), InputError)
    assert str(error) == "not three"
    assert results == {0: 0, 1: 1, 2: 4, 4: 16}


@pytest.mark.filterwarnings("ignore:A worker stopped while some jobs were given")
def test_a_process_that_dies_costs_its_own_item_alone():
    results = dict(map_in_processes(work, range(12), num_workers=2))
    assert [number for number, result in results.items() if isinstance(result, CrashError)] == [5]
    assert results[6] == 36
    assert len(results) == 12
    assert str(results[5]) == "the process that read it died"
