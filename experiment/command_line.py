"""What a command says: flags and configs refused in one sentence, log lines above the progress bar."""

import functools
import json
import logging
import os
import re
import shlex
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags
from absl import logging as absl_logging
from etils import epath
from tqdm import tqdm

from timesformer_jax.preemption import SAME_INTERRUPT

log = logging.getLogger("timesformer_jax")

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it: 128 + SIGINT."""


def parse_flags(argv: list[str]) -> list[str]:
    """absl's parsing, with one sentence for what a config file refuses or lacks, or a config file that isn't there."""
    try:
        return flags.FLAGS(argv)
    except OSError:
        # Only where a field of it is given, too: otherwise the file is looked for later.
        found = re.search(r"--?config[= ]([^\s:]+)", " ".join(argv))
        if found is None or Path(found[1]).is_file():
            raise
        sys.exit(no_config_file(found[1]))
    except flags.Error as error:
        last_line = str(error).strip().splitlines()[-1].strip()  # of a traceback, where the config itself has failed
        sys.exit("Error: " + re.sub(r"^[\w.]+Error: ", "", last_line))
    except (AttributeError, KeyError) as error:
        if "ml_collections" not in traceback.extract_tb(error.__traceback__)[-1].filename:
            raise
        reason = error.args[0]
        while isinstance(reason, Exception):  # ml_collections wraps its KeyError in an AttributeError
            reason = reason.args[0]
        unknown, _, nearest = reason.partition("\n")
        sys.exit(f"Error: the config has no field {unknown}. {nearest or 'See the config file for its fields.'}")


def no_config_file(path: str) -> str:
    """What is said where it isn't there."""
    return f"Error: there is no config file {path}. Those of this project are in configs/."


class _Lines(logging.Handler):
    """Log lines on stderr, above a progress bar if there is one: this project's, the metrics, and everyone's warnings.

    Of several processes the first one talks; warnings come from all.
    """

    def emit(self, record: logging.LogRecord) -> None:
        ours = record.name == log.name or record.module == "logging_writer"
        if record.levelno >= logging.WARNING or (ours and jax.process_index() == 0):
            tqdm.write(self.format(record), file=sys.stderr)


def log_to_stderr() -> None:
    """Sets the log up, once, after the processes have found each other."""
    handler = _Lines()
    logging.getLogger().handlers = [handler]  # before JAX looks for devices, and tells what it hasn't found
    logging.getLogger().setLevel(logging.INFO)
    absl_logging.set_verbosity(absl_logging.INFO)
    number = f"[{jax.process_index()}] " if jax.process_count() > 1 else ""
    handler.setFormatter(logging.Formatter(f"%(asctime)s {number}%(message)s", "%H:%M:%S"))


def next_commands(mode: str, typed: Sequence[str], config: Any, workdir: str) -> list[str]:
    """Commands that may follow a job that has ended, as they can be copied to the shell that it was started in.

    Args:
        mode: That of the job.
        typed: The job's own command, as in `sys.orig_argv`.
        config: Its config.
        workdir: Its folder, as it was given.
    """
    workdir = os.path.expanduser(workdir)

    def again(mode: str, *, without: str = "") -> str:
        flags, drop_next = [], False
        for argument in typed:
            if drop_next:
                drop_next = False
            elif re.fullmatch("--?mode", argument):
                drop_next = True
            elif not re.match("--?mode=" + (f"|--?config\\.({without})(=|$)" if without else ""), argument):
                flags.append(argument)
        return shlex.join([*flags, *([f"--mode={mode}"] if mode != "train" else [])])

    def library(job: str, *arguments: str) -> str:
        return shlex.join([typed[0], "-m", "timesformer_jax", job, *arguments])

    predict = functools.partial(library, "predict", _some_video(config, workdir))
    if mode == "train" and (config.debug or config.overfit_batch):
        return [again("train", without="debug|overfit_batch")]
    if mode in ("train", "eval"):
        return [again("report"), predict(f"--checkpoint={workdir}")]
    if mode == "show":
        return [again("train")]
    if mode == "probe" and config.probe.kind == "linear":
        return [predict(f"--checkpoint={os.path.join(workdir, 'probe')}")]
    if mode == "features":
        return [
            library("embed", os.path.join(workdir, "features", split), f"--output=features_{split}.png")
            for split in config.features.splits
        ]
    return []


def _some_video(config: Any, workdir: str) -> str:
    """A video that the test in the workdir has scored, if it is a file here; a placeholder else."""
    file, root = epath.Path(workdir) / "predictions.jsonl", config.data.get("root")
    if root and file.exists():
        with file.open() as lines:
            name = json.loads(next(iter(lines), "{}")).get("video", "")
        path = Path(root).expanduser() / name
        if name and path.is_file():
            return str(path)
    return "VIDEO"


def second_interrupt_exits(message: str) -> None:
    """From now on the second Ctrl-C prints `message` and ends the process at once, with the exit code `INTERRUPTED`.

    Also while it compiles, waits for a batch or writes a checkpoint, where no Python handler would run: a thread reads the
    signals that the interpreter's own handler has noted.
    """
    reads, writes = os.pipe()
    os.set_blocking(writes, False)
    signal.set_wakeup_fd(writes, warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))  # a terminal's Ctrl-C reaches child processes too

    def watch() -> None:
        first = None
        while byte := os.read(reads, 1):
            if byte[0] != signal.SIGINT:
                continue
            if first is None:
                first = time.monotonic()
            elif time.monotonic() - first > SAME_INTERRUPT:
                os.write(2, f"\n{message}\n".encode())
                os._exit(INTERRUPTED)

    threading.Thread(target=watch, daemon=True, name="second interrupt").start()
