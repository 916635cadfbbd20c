"""Worker process: runs measurements one after another and reports each immediately."""

import gc
import json
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from benchmarks.accelerator import timing
from benchmarks.accelerator.record import read_record
from benchmarks.accelerator.running import SIGN, failure
from benchmarks.accelerator.sections import SECTIONS
from benchmarks.accelerator.sizes import SIZES
from benchmarks.accelerator.timing import Skipped

TOO_LITTLE_MEMORY = ("RESOURCE_EXHAUSTED", "Out of memory", "out of memory")


def work(*, size: str, output: Path, compile_only: bool) -> None:
    """Run the measurements asked for on stdin, lines of JSON `[section, name]`; earlier results are read from `output`.

    With `compile_only`, each ends where its timing would begin.
    """
    timing.compile_only = compile_only
    jax.devices()
    _report({"result": {}})  # started
    for line in sys.stdin:
        section, name = json.loads(line)
        measurement = next(each for each in SECTIONS[section].measurements(SIZES[size]) if each.name == name)
        _report(_outcome(measurement, read_record(output)))
        jax.clear_caches()
        gc.collect()


def _outcome(measurement: Any, results: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return {"result": measurement.run(results)}
    except timing.Compiled as compiled:
        return {"result": compiled.figures}
    except Skipped as reason:
        return failure("skipped", str(reason))
    except Exception as error:  # a failed measurement is a finding, and must not stop the others
        words = f"{type(error).__name__}: {error}"
        traceback.print_exc(file=sys.stderr)
        return failure("out of memory" if any(sign in words for sign in TOO_LITTLE_MEMORY) else "failed", words[:1500])


def _report(outcome: Mapping[str, Any]) -> None:
    print(SIGN + json.dumps(outcome), flush=True)
