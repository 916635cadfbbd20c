"""main.py as a separate process: its last line, its exit code, and the README's command."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from experiment.command_line import MODES, next_commands
from tests.runs import ROOT, config_of, on_devices, predictions, results
from timesformer_jax.preemption import SAME_INTERRUPT


def command(*arguments: str, devices: int = 1) -> subprocess.CompletedProcess[str]:
    whole = [sys.executable, "main.py", *arguments]
    return subprocess.run(whole, cwd=ROOT, capture_output=True, text=True, env=on_devices(devices), check=False)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--confg=configs/folder.py"], 2, r"there is no flag --confg. Did you mean --config\?"),
        (["--config=configs/folder.py", "--config.trian.batch_size=3"], 2, r"Did you mean --config\.train\.batch_size\?"),
        (["--config=configs/folder.py", "--config.batch_size=3"], 2, r"no field batch_size.* or --config\.train\.batch_size"),
        (["--config=configs/folder.py", "--config.seed=None"], 2, r"--config.seed needs a value and can't be None"),
        (["--config=configs/nothing.py"], 1, "there is no config file configs/nothing.py"),
        (["--config=configs/folder.py:base"], 1, "configs/folder.py:NAME must be one of kinetics400, .*video_list, got 'base'"),
        (["--config=configs/folder.py", "--config.data.root=/no/such/folder"], 1, "There is no folder /no/such/folder"),
        (["--config=configs/folder.py", "--config.eval.num_crops=2"], 1, r"^Error: --config\.eval\.num_crops must be 1"),
    ],
)
def test_command_fails_with_one_line_and_a_non_zero_exit_code(tmp_path: Path, arguments: list[str], code: int, words: str):
    """Usage errors exit with 2, invalid input with 1."""
    done = command(*arguments, f"--workdir={tmp_path}")
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    *before, last = done.stderr.strip().splitlines()
    assert re.search(words, last)
    assert len(before) == int("data.root" in str(arguments) or "eval" in str(arguments))  # the line about devices comes first


def test_command_without_arguments_shows_an_example_and_the_modes():
    done = command()
    assert (done.returncode, done.stdout) == (2, "")
    assert "--config=configs/folder.py:video_folder,finetune --config.data.root=FOLDER --workdir=runs/mine" in done.stderr
    assert re.findall(r"^  ([a-z]+) ", done.stderr, re.MULTILINE)[1:] == [*MODES]


def test_none_unsets_optional_fields():
    """For text fields, "none" is plain text."""
    fields = ["init_from", "data.max_fps", "probe.batch_size", "model.remat"]
    code = (
        "import main; from absl import app, flags\n"
        "def show(argv):\n    config = flags.FLAGS.config\n    print([config.init_from, config.data.max_fps, "
        "config.probe.batch_size, config.model.remat])\n"
        "app.run(show, flags_parser=main.parse_flags)"
    )
    given = ["--config=configs/ucf101.py", "--workdir=x", *(f"--config.{field}=None" for field in fields)]
    done = subprocess.run([sys.executable, "-c", code, *given], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[None, None, None, 'None']", done.stderr


@pytest.mark.slow
def test_interrupted_run_resumes(tmp_path: Path, made_clips: Path, data_dir: str):
    flags = [
        "--config=configs/folder.py",
        f"--config.data.root={made_clips}",
        f"--config.data.data_dir={data_dir}",
        "--config.train.num_epochs=1000.0",
        "--config.train.checkpoint_every_epochs=1.0",
        f"--workdir={tmp_path}",
    ]
    process = subprocess.Popen([sys.executable, "main.py", *flags], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("checkpoints/[0-9]*")) and time.monotonic() < deadline:
            time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=180)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "Interrupted: saving the next step, then stopping. Ctrl-C again stops at once" in errors
    saved = re.search(r"Interrupted: saved step (\d+) of \d+\. The same command resumes from there\.$", errors.strip())
    assert saved, errors
    assert (tmp_path / "checkpoints" / saved[1]).is_dir()


def test_second_interrupt_ends_the_process_at_once():
    """Even in C code that no Python handler can interrupt, such as compilation."""
    code = (
        "import hashlib, signal; from experiment.command_line import second_interrupt_exits; "
        "second_interrupt_exits('At once.'); signal.signal(signal.SIGINT, lambda *_: None); print('ready', flush=True); "
        "hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)"
    )
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, text=True, **pipes) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGINT)
            process.send_signal(signal.SIGINT)  # forwarded by a launcher for the same key press
            time.sleep(SAME_INTERRUPT + 0.2)
            assert process.poll() is None
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, errors) == (130, "\nAt once.\n")


@pytest.fixture(scope="module")
def partly_broken_clips(tmp_path_factory: pytest.TempPathFactory, clips: Path, broken_clips: Path) -> tuple[Path, str]:
    """Videos of several sizes and rates, with broken ones under one of their labels."""
    root = tmp_path_factory.mktemp("mixed") / "clips"
    shutil.copytree(clips, root)
    label = "walking" if "TIMESFORMER_CLIPS" in os.environ else "across"  # the source of the damaged videos
    for path in broken_clips.iterdir():
        shutil.copy(path, root / label / f"broken_{path.name}")
    return root, label


def test_readme_command_names_unreadable_files(tmp_path: Path, partly_broken_clips: tuple[Path, str], data_dir: str):
    """Training completes, and unreadable videos are counted in training and in evaluation."""
    root, label = partly_broken_clips
    flags = ["--config=configs/folder.py", f"--config.data.root={root}", f"--config.data.data_dir={data_dir}"]
    flags += ["--config.model.depth=1", "--config.train.num_epochs=1.0"]
    done = command(*flags, f"--workdir={tmp_path}/run", devices=2)
    assert done.returncode == 0, done.stderr
    for name in ("empty", "text", "truncated"):
        assert f"Skipped {label}/broken_{name}.mp4 of '" in done.stderr
    assert re.search(r"\d video\(s\) could not be read and were skipped", done.stderr)
    test, rows = results(tmp_path / "run"), predictions(tmp_path / "run")
    assert len(rows) == test["num_videos"] + test["unreadable"]
    assert sum("error" in row for row in rows.values()) == test["unreadable"]


@pytest.mark.slow
def test_readme_command_overfits_a_folder(tmp_path: Path, partly_broken_clips: tuple[Path, str], data_dir: str):
    root, _ = partly_broken_clips
    flags = ["--config=configs/folder.py", f"--config.data.root={root}", f"--config.data.data_dir={data_dir}"]
    epochs = 60 if "TIMESFORMER_CLIPS" in os.environ else 100
    done = command(*flags, f"--workdir={tmp_path}/run", f"--config.train.num_epochs={epochs}.0", devices=2)
    assert done.returncode == 0, done.stderr
    test = results(tmp_path / "run")
    done = command(*flags, f"--workdir={tmp_path}/run", "--mode=eval", "--config.eval.split=train")
    assert done.returncode == 0, done.stderr
    assert results(tmp_path / "run")["top1"] == 1.0
    assert test["unreadable"] + results(tmp_path / "run")["unreadable"] >= 3


TYPED = [
    "python",
    "main.py",
    "--config=configs/folder.py",
    "--config.data.root=/my videos",
    "--mode",
    "train",
    "--workdir=runs/a b",
]


@pytest.mark.parametrize(
    ("mode", "changes", "expected"),
    [
        (
            "train",
            {},
            [
                "python main.py --config=configs/folder.py '--config.data.root=/my videos' '--workdir=runs/a b' --mode=report",
                "python -m timesformer_jax predict VIDEO '--checkpoint=runs/a b'",
            ],
        ),
        (
            "train",
            {"overfit_batch": True},
            ["python main.py --config=configs/folder.py '--config.data.root=/my videos' '--workdir=runs/a b'"],
        ),
        ("probe", {}, ["python -m timesformer_jax predict VIDEO '--checkpoint=runs/a b/probe'"]),
        ("features", {}, ["python -m timesformer_jax embed 'runs/a b/features/val' --output=features_val.png"]),
        ("report", {}, []),
        ("prepare", {}, ["python main.py --config=configs/folder.py '--config.data.root=/my videos' '--workdir=runs/a b'"]),
        (
            "prepare",
            {"data.shard": "3/16"},
            ["python main.py --config=configs/folder.py '--config.data.root=/my videos' '--workdir=runs/a b' --mode=prepare"],
        ),
    ],
)
def test_suggested_commands_repeat_the_typed_flags(mode: str, changes: dict, expected: list[str]):
    typed = [*TYPED, *(f"--config.{name}={value}" for name, value in changes.items())]
    assert next_commands(mode, typed, config_of("folder", **changes), "runs/a b") == expected


def test_suggested_command_names_an_existing_video(tmp_path: Path):
    (tmp_path / "predictions.jsonl").write_text('{"video": "a/1 x.mp4"}\n')
    config = config_of("folder", **{"data.root": str(tmp_path)})
    assert next_commands("eval", TYPED, config, "runs/a")[1].split()[4] == "VIDEO"
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1 x.mp4").touch()
    command = next_commands("eval", TYPED, config, str(tmp_path))[1]
    assert shlex.split(command)[4:] == [str(tmp_path / "a" / "1 x.mp4"), f"--checkpoint={tmp_path}"]


def test_end_process_waits_only_for_the_exit_handlers():
    code = (
        "import atexit, threading; from experiment.command_line import end_process; atexit.register(print, 'handled'); "
        "threading.Thread(target=threading.Event().wait).start(); end_process(3)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (3, "handled\n"), done.stderr


def test_end_process_does_not_wait_for_idle_workers():
    """Workers exit by themselves only after a minute without an item."""
    code = (
        "from experiment.command_line import end_process; from timesformer_jax.datasets import map_in_processes; "
        "print(list(map_in_processes(abs, [-1], num_workers=1)), flush=True); end_process(0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=45, check=False)
    assert (done.returncode, done.stdout) == (0, "[(-1, 1)]\n"), done.stderr
