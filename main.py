"""Train and evaluate a TimeSformer on a data set: `python main.py --config=configs/moving_digits.py --workdir=runs/demo`.

Any field of the config can be set on the command line: `--config.train.batch_size=64`, or `--config.init_from=None` to unset an
optional one. The same command, started once per machine, trains on all machines (docs/scale.md).
"""

import logging
import sys
import traceback
from collections.abc import Collection
from pathlib import Path
from typing import Any, NoReturn

import jax

from timesformer_jax.errors import InputError, check_utf8
from timesformer_jax.extras import JOBS as NEEDS
from timesformer_jax.extras import MissingPackageError, check_installed

try:
    check_installed("main.py")  # before importing any of them
except MissingPackageError as missing:
    sys.exit(f"Error: {missing}")

from absl import app, flags
from ml_collections import config_flags

from experiment.command_line import (
    INTERRUPTED,
    end_process,
    log_to_stderr,
    name_flags,
    next_commands,
    no_config_file,
    parse_flags,
    second_interrupt_exits,
)
from experiment.modes import MODES
from timesformer_jax.devices import describe_devices
from timesformer_jax.os_errors import job_failed
from timesformer_jax.peers import Peers, watch_peers
from timesformer_jax.processes import wait_for_all, with_rank
from timesformer_jax.run_lock import locks_released
from timesformer_jax.training.distributed import MODES as DISTRIBUTED_MODES
from timesformer_jax.training.distributed import start_distributed

log = logging.getLogger("timesformer_jax")

CONFIG = config_flags.DEFINE_config_file("config", help_string="The configuration, such as configs/folder.py; required.")
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder for checkpoints, metrics and results, local or gs://...; required, except with --mode=plan."
)
MODE = flags.DEFINE_enum(
    "mode",
    "train",
    list(MODES),
    "; ".join(f"{name}: {mode.summary}" for name, mode in MODES.items()) + ".",
)
flags.DEFINE_bool("version", False, "Print the version and exit.")
DISTRIBUTED = flags.DEFINE_enum(
    "distributed",
    "auto",
    DISTRIBUTED_MODES,
    "Whether this process is one of several: on, off, or auto to detect it from the environment.",
)
STOPPED = flags.DEFINE_integer(
    "exit_code_if_stopped",
    0,
    "Exit code after SIGTERM, with everything saved, by which launchers recognise unfinished runs and start them again.",
)


@locks_released()
def run(config: Any, workdir: str, mode: str, typed: Collection[str] = ()) -> None:
    """Run one job from beginning to end.

    Args:
        config: The config; fields that follow the weights may be unset.
        workdir: The run's folder, local or in a bucket.
        mode: The job, a key of `MODES`.
        typed: Dotted paths of the fields that the command line sets.

    Raises:
        InputError: If the input can't be used.
    """
    from experiment.follow import follow_weights
    from experiment.setup import set_up
    from input_pipeline import SharePrepared

    if (job_name := f"main.py --mode={mode}") in NEEDS:
        check_installed(job_name)
    if alone := MODES[mode].run_alone:
        alone(config, typed)
        return
    log.info("%s", describe_devices())
    check_utf8("--workdir", workdir)
    if "://" not in workdir:  # paths in buckets are already absolute
        workdir = str(Path(workdir).expanduser().resolve())
    if config.data.get("shard") and mode != "prepare":
        raise InputError(f"data.shard={config.data.shard} is only for --mode=prepare; drop it for --mode={mode}.")
    if mode == "prepare" and jax.process_count() > 1:
        raise InputError(
            "--mode=prepare runs as single processes: give --distributed=off, and each process its own --config.data.shard."
        )
    config, workdir = MODES[mode].adjust(config, workdir)
    config = follow_weights(config, workdir, mode, typed)
    MODES[mode].check(config, workdir)
    try:
        this = set_up(config, workdir, mode)
    except SharePrepared as done:
        log.info("%s", done)
        return
    try:
        MODES[mode].run(this)
    finally:
        this.files.checkpoints.close()
    if left_out := sum(this.data.dataset.num_left_out.values()):
        log.warning("%d video(s) could not be read and were skipped.", left_out)


def said_of(error: Exception) -> str | None:
    """Message for an error that the user can fix; None for a bug."""
    if isinstance(error, MissingPackageError):
        return str(error.within("main.py"))
    if isinstance(error, InputError):
        return name_flags(str(error), CONFIG.value)
    return job_failed(error, f"--mode={MODE.value}")


def end_with_peers(peers: Peers, error: Exception) -> NoReturn:
    """End one of several processes after an exception, with a message, or with a traceback for a bug."""
    message = said_of(error) or peers.explain(error)
    if message is None:
        print(with_rank(traceback.format_exc().rstrip()), file=sys.stderr)
    peers.end(message, 1)


def main(argv: list[str]) -> int:
    """Return the exit code: 0, 1 for an error, 130 after Ctrl-C, or `--exit_code_if_stopped` after SIGTERM with all saved."""
    file = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")[0]
    if not Path(file).is_file():
        sys.exit(no_config_file(file))
    message, code = None, 0
    resumes = f"The same command {MODES[MODE.value].when_repeated}."
    second_interrupt_exits(f"Interrupted again: stopped at once. {resumes}")
    try:
        log_to_stderr()
        start_distributed(DISTRIBUTED.value)  # before JAX initialises its devices
        from timesformer_jax.preemption import Preempted

        with watch_peers() as peers:
            try:
                typed = config_flags.get_override_values(flags.FLAGS["config"])
                run(CONFIG.value, str(WORKDIR.value), str(MODE.value), typed)
                if commands := next_commands(str(MODE.value), sys.orig_argv, CONFIG.value, str(WORKDIR.value)):
                    log.info("Next:\n%s", "\n".join(f"  {command}" for command in commands))
            except Preempted as stopped:
                log.warning("%s", stopped)
                code = INTERRUPTED if stopped.interrupted else STOPPED.value
            except Exception as error:
                if peers is None:
                    raise
                end_with_peers(peers, error)
            wait_for_all("the other processes to end")
    except Exception as error:
        said = said_of(error)
        if said is None:
            raise
        message, code = f"Error: {said}", 1
    except KeyboardInterrupt:
        message, code = f"Interrupted. {resumes}", INTERRUPTED
    if message:
        print(with_rank(message), file=sys.stderr)
    return code


if __name__ == "__main__":
    app.run(lambda argv: end_process(main(argv)), flags_parser=parse_flags)
