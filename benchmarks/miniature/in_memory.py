"""Run cells of moving digits in worker processes, one thread each; cells of one program follow each other in one worker."""

import concurrent.futures
import concurrent.futures.process
import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.miniature.experiments import Cell, Size
from timesformer_jax.errors import InputError

FLAGS = "--xla_cpu_multi_thread_eigen=false"
"""XLA flags of a worker. Small products gain nothing from several threads."""
MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**34),
    "MALLOC_TOP_PAD_": str(2**26),
}
"""Environment of a worker: glibc keeps the memory of a step for the next one. Fetching it again from the kernel, page by page,
took a fifth of the time."""

Train = Callable[[Cell, Size, Path, Path], Mapping[str, Any]]


def run_groups(
    cells: Sequence[Cell], size: Size, *, results: Path, workdirs: Path, say: Callable[[str], None], workers: int
) -> None:
    """Train and evaluate cells; image models come first, since others start from them."""
    groups: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.program, []).append(cell)
    environment = {**MEMORY, "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}".strip()}
    done, began = 0, time.perf_counter()
    with _environment(environment):
        for batch in _in_turns(list(groups.values())):
            pool = concurrent.futures.ProcessPoolExecutor(
                workers, multiprocessing.get_context("spawn"), initializer=_begin, initargs=(str(workdirs / "compiled"),)
            )
            with pool:
                try:
                    pending = [pool.submit(_run, group, size, results, workdirs) for group in batch]
                    for future in concurrent.futures.as_completed(pending):
                        for line in future.result():
                            done += 1
                            minutes = (time.perf_counter() - began) / 60
                            say(f"{done}/{len(cells)} after {minutes:.1f} minutes: {line}")
                except concurrent.futures.process.BrokenProcessPool as error:
                    raise InputError(
                        "A worker was killed, perhaps for lack of memory: repeat the command to resume."
                    ) from error
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)
                    for process in multiprocessing.active_children():
                        process.terminate()
                    raise


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables, which new processes inherit, for a while."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _in_turns(groups: Sequence[list[Cell]]) -> Iterator[list[list[Cell]]]:
    """Yield the groups without the cells that start from image models, then those cells."""
    for needs in (False, True):
        chosen = [[cell for cell in group if cell.needs_image_model == needs] for group in groups]
        if batch := [group for group in chosen if group]:
            yield batch


def _begin(compiled: str) -> None:
    """Prepare a worker: it ends on Ctrl-C without a word, and keeps compiled programs for a repeated command."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    import jax

    jax.config.update("jax_compilation_cache_dir", compiled)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)


def _run(group: Sequence[Cell], size: Size, results: Path, workdirs: Path) -> list[str]:
    from benchmarks.miniature.running import train_cell

    lines = []
    for cell in group:
        result = train_cell(cell, size, results=results, workdirs=workdirs)
        lines.append(f"{cell.name} took {result['seconds']} s")  # no accuracy, which would be an interim look
    return lines
