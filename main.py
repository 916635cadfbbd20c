"""Train and evaluate a TimeSformer on a data set: `python main.py --config=configs/moving_digits.py --workdir=runs/demo`.

Any field of the config can be given on the command line: `--config.train.batch_size=64`, or `--config.init_from=None` to unset
an optional one. The same command, started once on every machine, trains on all of them (docs/scale.md).
"""

import contextlib
import gc
import logging
import sys
from pathlib import Path
from typing import Any

import jax
from absl import app, flags
from etils import epath
from ml_collections import config_flags

from experiment.command_line import MODES as JOBS
from experiment.command_line import log_to_stderr, no_config_file, parse_flags
from timesformer_jax.errors import InputError
from timesformer_jax.training.distributed import MODES, start_distributed

log = logging.getLogger("timesformer_jax")

CONFIG = config_flags.DEFINE_config_file("config", help_string="The configuration, such as configs/folder.py; required.")
WORKDIR = flags.DEFINE_string("workdir", None, "Where checkpoints, metrics and results go, a folder or gs://...; required.")
MODE = flags.DEFINE_enum(
    "mode",
    "train",
    list(JOBS),
    "; ".join(f"{mode}: {text}" for mode, text in JOBS.items()) + ".",
)
flags.DEFINE_bool("version", False, "Print the version and exit.")
DISTRIBUTED = flags.DEFINE_enum(
    "distributed", "auto", MODES, "Whether this process is one of several: on, off, or auto for what the environment says."
)

GOES_ON = {
    "train": "goes on from the newest checkpoint",
    "eval": "goes on with the test",
    "report": "draws it again",
    "probe": "begins the probe again",
    "features": "goes on behind the last shard that is whole",
    "show": "draws them again",
}
"""Mode -> what the same command does after Ctrl-C."""


def run(config: Any, workdir: str, mode: str) -> None:
    """One job from beginning to end; raises `InputError` for input that can't work."""
    from experiment.features import check_features, write_features
    from experiment.follow import check_fit, follow_weights
    from experiment.probe import check_probe, probe
    from experiment.report import report
    from experiment.setup import Job
    from experiment.show import show
    from experiment.testing import test
    from experiment.train import adjust, train

    read_only = mode in ("eval", "report")
    if "://" not in workdir:  # else it lies in a bucket, and the path is whole
        workdir = str(Path(workdir).expanduser().resolve())
    if mode == "train":
        config, workdir = adjust(config, workdir)
    config = follow_weights(given := config, workdir, mode)
    if mode == "probe":
        check_probe(config, workdir)
    if mode == "features":
        check_features(config, workdir)
    if config is given:
        check_fit(config, workdir, mode)
    if not read_only:
        try:
            epath.Path(workdir).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"--workdir={workdir} can't be used as a folder: {error.strerror}.") from error
    job = Job(config, workdir, read_only=read_only, trains=mode == "train", draws=mode != "features")
    try:
        if mode == "train":
            with contextlib.ExitStack() as stack:
                if config.debug:
                    stack.enter_context(jax.debug_nans(True))
                    stack.enter_context(jax.debug_infs(True))
                train(job)
        elif mode == "show":
            show(job)
        elif mode == "probe":
            probe(job)
        elif mode == "features":
            write_features(job)
        elif mode == "report":
            report(job)
        else:
            test(job, *job.restore_params())
    finally:
        job.checkpoints.close()
    if left_out := sum(map(len, job.data.left_out.values())):
        log.warning("%d video(s) could not be read and were left out.", left_out)


def main(argv: list[str]) -> None:
    file = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")[0]
    if not Path(file).is_file():
        sys.exit(no_config_file(file))
    message = None
    try:
        start_distributed(DISTRIBUTED.value)  # before anything that asks JAX for its devices
        log_to_stderr()
        from timesformer_jax.training.preemption import Preempted

        try:
            run(CONFIG.value, str(WORKDIR.value), str(MODE.value))
        except Preempted as told:
            log.warning("%s", told)
    except InputError as error:
        message = f"Error: {error}"
    except KeyboardInterrupt:
        message = f"Interrupted. The same command {GOES_ON[MODE.value]}."
    # Only now, and with the frames of the exception gone: a data pipeline that still lives when the interpreter shuts down
    # waits for the interpreter, and the process never ends.
    gc.collect()
    if message:
        sys.exit(message)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
