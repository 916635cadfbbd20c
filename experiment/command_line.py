"""Command line of main.py: usage, one-line errors for flags and configs, and log lines above the progress bar."""

import atexit
import contextlib
import functools
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
from typing import Any, NoReturn

from absl import app, flags
from absl import logging as absl_logging
from etils import epath
from ml_collections import ConfigDict, FieldReference, config_flags
from tqdm import tqdm

import timesformer_jax
from experiment.modes import MODES
from timesformer_jax.errors import InputError, did_you_mean
from timesformer_jax.preemption import SAME_INTERRUPT
from timesformer_jax.printable import escape_unencodable, printable
from timesformer_jax.processes import rank, with_rank
from timesformer_jax.state_files import parse_json

log = logging.getLogger("timesformer_jax")

USAGE = """\
usage: python main.py --config=FILE[:VARIANT] --workdir=FOLDER [--mode=MODE] [--config.FIELD=VALUE ...]

example, which fine-tunes a published model on a folder of videos, LABEL/*.mp4:
  python main.py --config=configs/folder.py:video_folder,finetune --config.data.root=FOLDER --workdir=runs/mine

modes:
{modes}

`python main.py --help` describes the flags. The configs are in configs/; the first lines of each describe its purpose.
For jobs over single files, such as `timesformer predict`, see `timesformer --help`.
"""

REQUIRED = {"config": "FILE", "workdir": "FOLDER"}
"""Maps a required flag to the name of its value."""

OF_LAUNCHERS = "mode|distributed|exit_code_if_stopped"
"""Flags that are not repeated for the next job: the mode, and flags added by launchers."""

INTERRUPTED = 130
"""Exit code after Ctrl-C, as in shells: 128 + SIGINT."""


def parse_flags(argv: list[str]) -> list[str]:
    """Parse the flags with absl; usage errors exit with 2 and unusable config files with 1, each with a one-line error."""
    escape_unencodable()
    if len(argv) == 1:
        sys.stderr.write(USAGE.format(modes="\n".join(f"  {name:<9} {mode.summary}" for name, mode in MODES.items())))
        sys.exit(2)
    if "--version" in argv:
        print(f"timesformer_jax {timesformer_jax.__version__}")
        sys.exit(0)
    if "--help" in argv:  # absl would exit with 1
        app.usage(shorthelp=True, writeto_stdout=True)
        sys.exit(0)
    for kind in (str, int, float):
        config_flags.register_flag_parser_for_type(kind, _OrNone(kind))
    try:
        rest = flags.FLAGS(argv)
    except OSError:
        # Raised only if a field of the config is given as well; otherwise the file is looked up later.
        found = re.search(r"--?config[= ]([^\s:]+)", " ".join(argv))
        if found is None or Path(found[1]).is_file():
            raise
        sys.exit(no_config_file(found[1]))
    except flags.UnrecognizedFlagError as error:
        _stop(_unknown_flag(error.flagname))
    except flags.Error as error:
        inner = error.__context__  # ml_collections puts a failing config's whole traceback into its message
        _refuse(str(inner.args[0]) if isinstance(inner, InputError) else str(error))
    except (AttributeError, KeyError) as error:
        if "ml_collections" not in traceback.extract_tb(error.__traceback__)[-1].filename:
            raise
        _stop(_unknown_field(argv))
    if len(rest) > 1:
        _stop(f"unknown argument {rest[1]!r}: flags begin with --.")
    alone = MODES[str(flags.FLAGS["mode"].value)].run_alone is not None
    required = {name: takes for name, takes in REQUIRED.items() if name != "workdir" or not alone}
    if missing := [f"--{name}={takes}" for name, takes in required.items() if flags.FLAGS[name].value is None]:
        _stop(f"{' and '.join(missing)} must be given; `python main.py` shows an example.")
    _check_unset(flags.FLAGS["config"])
    return rest


class _OrNone(flags.ArgumentParser):
    """Parser of a config field in which "None" unsets the field; `_check_unset` refuses that if the field needs a value."""

    def __init__(self, kind: type):
        self.kind = kind
        self._parser = {str: flags.ArgumentParser, int: flags.IntegerParser, float: flags.FloatParser}[kind]()
        self.syntactic_help = self._parser.syntactic_help

    def parse(self, argument: Any) -> Any:
        """Parse a value of the field's type, or None."""
        return None if argument == "None" else self._parser.parse(argument)

    def flag_type(self) -> str:
        """Name of the type in absl's help."""
        return self._parser.flag_type()


def _check_unset(config_flag: Any) -> None:
    """Exit with an error if the command line unsets a field that needs a value; for strings, "None" is a value."""
    config = config_flag.value
    for path, value in config_flags.get_override_values(config_flag).items():
        *sections, field = path.split(".")
        section = config
        for name in sections:
            section = section[name]
        if value is not None or isinstance(dict(section.items(preserve_field_references=True))[field], FieldReference):
            continue
        parser: Any = flags.FLAGS[f"config.{path}"].parser
        if parser.kind is not str:
            _stop(f"--config.{path} needs a value and can't be None.")
        section[field] = "None"


def _unknown_flag(given: str) -> str:
    """Message about an unknown flag."""
    name, dot, field = given.partition(".")
    if name == "config":
        return "--config=FILE must be given, before any of its fields; `python main.py` shows an example."
    known = ["help", *(flag.name for flag in flags.FLAGS.get_key_flags_for_module(sys.argv[0]))]
    hint = did_you_mean(name, known)
    return f"there is no flag --{given}." + re.sub(r"'(\w+)'", rf"--\1{dot}{field}", hint)


def _unknown_field(argv: Sequence[str]) -> str:
    """Message about a config field on the command line that doesn't exist."""
    given = re.findall(r"(?<=^--config[= ])\S+|(?<=^-config[= ])\S+", "\n".join(argv), re.MULTILINE)
    known = _field_paths(flags.FLAGS["config"].parser.parse(given[-1]))  # parse again: the failed parse kept nothing
    for argument in argv:
        path = re.sub(r"^--?(no)?config\.", "", argument.partition("=")[0])
        if path != argument.partition("=")[0] and path not in known:
            hint = did_you_mean(path, known, count=1 if "." in path else 3)
            return f"the config has no field {path}." + re.sub(r"'([\w.]+)'", r"--config.\1", hint)
    return "the config has no such field; see the config file for its fields."


def _field_paths(section: Any, above: str = "") -> list[str]:
    """Dotted paths of a config's fields and sections."""
    found = []
    for name, value in section.items():
        found += [above + name, *(_field_paths(value, f"{above}{name}.") if isinstance(value, ConfigDict) else ())]
    return found


def name_flags(message: str, config: Any) -> str:
    """Spell the config fields in a message as flags: `train.batch_size` becomes `--config.train.batch_size`."""
    paths = _field_paths(config)
    dotted = "|".join(re.escape(path) for path in sorted(paths, key=len, reverse=True) if "." in path)
    others = "|".join(path for path in paths if "." not in path and not isinstance(config[path], ConfigDict))
    fields = rf"(?<![\w./-])(?:(?:{dotted})(?![\w/-]|\.\w)|(?:{others})(?==))"
    return re.sub(fields, lambda found: f"--config.{found[0]}", message)


def _refuse(reason: str) -> NoReturn:
    """Exit with absl's message; a failing config file is bad input rather than a usage error."""
    last_line = reason.strip().splitlines()[-1].strip()  # of a traceback, if the config fails
    message = re.sub(r"^[\w.]+Error: ", "", last_line)
    if message != last_line:
        sys.exit(f"Error: {message}")
    _stop(message)


def _stop(message: str) -> NoReturn:
    """Exit with a line on stderr and the exit code of a usage error."""
    print(f"Error: {printable(message)}", file=sys.stderr)
    sys.exit(2)


def no_config_file(path: str) -> str:
    """Message about a missing config file."""
    return f"Error: there is no config file {printable(path)}. This project's configs are in configs/."


class _Lines(logging.Handler):
    """Handler that prints to stderr, above the progress bar: this project's log, the metrics, and all warnings.

    If there are several processes, only the first one logs; warnings come from all.
    """

    def emit(self, record: logging.LogRecord) -> None:
        ours = record.name == log.name or record.module == "logging_writer"
        if record.levelno >= logging.WARNING or (ours and rank() == 0):
            tqdm.write(self.format(record), file=sys.stderr)


class _Format(logging.Formatter):
    """Formatter with the time and, if there are several processes, the rank in each line."""

    def format(self, record: logging.LogRecord) -> str:
        first, *more = super().format(record).split("\n")
        clock = self.formatTime(record, "%H:%M:%S")
        return "\n".join([f"{clock} {with_rank(first)}", *map(with_rank, more)])


def log_to_stderr() -> None:
    """Set up the log, once, before the processes join."""
    handler = _Lines()
    logging.getLogger().handlers = [handler]  # before JAX looks for devices and logs what it hasn't found
    logging.getLogger().setLevel(logging.INFO)
    absl_logging.set_verbosity(absl_logging.INFO)
    handler.setFormatter(_Format())


def next_commands(mode: str, typed: Sequence[str], config: Any, workdir: str) -> list[str]:
    """Suggested commands after a finished job, ready to be pasted into the shell that started it.

    Args:
        mode: Mode of the job.
        typed: Command line of the job, as in `sys.orig_argv`.
        config: Config of the job.
        workdir: Folder of the job, as given.
    """
    workdir = os.path.expanduser(workdir)

    def again(mode: str, *, without: str = "") -> str:
        flags, drop_next = [], False
        for argument in typed:
            if drop_next:
                drop_next = False
            elif re.fullmatch(f"--?({OF_LAUNCHERS})", argument):
                drop_next = True
            elif not re.match(f"--?({OF_LAUNCHERS})=" + (f"|--?config\\.({without})(=|$)" if without else ""), argument):
                flags.append(argument)
        return shlex.join([*flags, *([f"--mode={mode}"] if mode != "train" else [])])

    def library(job: str, *arguments: str) -> str:
        return shlex.join([typed[0], "-m", "timesformer_jax", job, *arguments])

    predict = functools.partial(library, "predict", _some_video(config, workdir))
    if mode == "train" and (config.debug or config.overfit_batch):
        return [again("train", without="debug|overfit_batch")]
    if mode in ("train", "eval"):
        return [again("report"), predict(f"--checkpoint={workdir}")]
    if mode == "show" or (mode == "prepare" and not config.data.get("shard")):
        return [again("train")]
    if mode == "prepare":
        return [again("prepare", without="data.shard")]
    if mode == "probe" and config.probe.kind == "linear":
        return [predict(f"--checkpoint={os.path.join(workdir, 'probe')}")]
    if mode == "features":
        return [
            library("embed", os.path.join(workdir, "features", split), f"--output=features_{split}.png")
            for split in config.features.splits
        ]
    return []


def _some_video(config: Any, workdir: str) -> str:
    """Path of a video that the workdir's evaluation has scored, if it is a local file; else a placeholder."""
    file, root = epath.Path(workdir) / "predictions.jsonl", config.data.get("root")
    if root and file.exists():
        try:
            with file.open("rb") as lines:
                name = parse_json(next(iter(lines), b"{}"), file, remedy="evaluate again").get("video", "")
        except InputError:  # the video is only an example
            return "VIDEO"
        path = Path(root).expanduser() / name
        if name and path.is_file():
            return str(path)
    return "VIDEO"


def second_interrupt_exits(message: str) -> None:
    """Make the second Ctrl-C print `message` and end the process at once, with the exit code `INTERRUPTED`.

    This works even during compilation, while waiting for a batch or while writing a checkpoint, when no Python handler runs: a
    thread reads the signals recorded by the interpreter's C handler.
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


def end_process(code: int) -> NoReturn:
    """Run the exit handlers and end the process without the interpreter's shutdown.

    The shutdown would take seconds to free all modules and arrays, and wait forever for a running data pipeline.
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # the reader of the pipe is gone
            stream.flush()
    os._exit(code)
