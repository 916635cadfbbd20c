"""Fixtures: strict JAX, eight simulated devices, the golden files, and small real videos."""

import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_disable_most_optimizations", True)  # most of the tests' time is compilation
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # as is that of the commands that they start
# XLA's older way of writing loops for CPUs compiles in 60 % of the time; `make test-all` tests the newer. jaxlib 0.11.1 has the
# newer alone, and aborts on a flag that it doesn't know.
if jax.__version_info__ < (0, 11):
    newer = os.environ.get("TEST_NEWER_CPU_LOOPS", "false")
    os.environ["XLA_FLAGS"] = f"--xla_cpu_use_fusion_emitters={newer} {os.environ.get('XLA_FLAGS', '')}"
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

sys.modules["openvino_telemetry"] = None  # OpenVINO would send statistics from a forked process, about which JAX warns

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored if a script has started the tests in the background

from tests.support import Golden, load_golden, moving_square, write_video  # noqa: E402  (after the strict settings)

LONGEST = ("test_processes.py", "test_main.py", "test_step.py", "test_command.py")
"""Files to start first, so that no worker is left with one of them at the end (the tests of a file stay together)."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))
    for item in items:
        case = item.callspec.id if hasattr(item, "callspec") else ""
        if any(re.match(mark.args[0], case) for mark in item.iter_markers("slow_cases")):
            item.add_marker("slow")


@pytest.fixture(scope="session", params=["divided_space_time", "joint_space_time", "space_only"])
def golden(request: pytest.FixtureRequest) -> Golden:
    return load_golden(request.param)


@pytest.fixture(scope="session")
def made_clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of generated videos, LABEL/*.mp4: three labels with four short clips each."""
    root = tmp_path_factory.mktemp("made_clips")
    for label, name in enumerate(("across", "down", "back")):
        for seed in range(4):
            write_video(root / name / f"{seed}.mp4", moving_square(label, seed))
    return root


@pytest.fixture(scope="session")
def clips(made_clips: Path) -> Path:
    """Real videos if TIMESFORMER_CLIPS names a folder of them, else the generated ones."""
    return Path(os.environ.get("TIMESFORMER_CLIPS", made_clips))


@pytest.fixture(scope="session")
def broken_clips(tmp_path_factory: pytest.TempPathFactory, made_clips: Path) -> Path:
    """Files that can't be decoded or only look like videos, including those that TIMESFORMER_BROKEN_CLIPS names."""
    root = tmp_path_factory.mktemp("broken_clips")
    given = os.environ.get("TIMESFORMER_BROKEN_CLIPS")
    if given:
        shutil.copytree(given, root, dirs_exist_ok=True)
    whole = (made_clips / "across" / "0.mp4").read_bytes()
    (root / "empty.mp4").write_bytes(b"")
    (root / "text.mp4").write_text("this is no video")
    (root / "truncated.mp4").write_bytes(whole[: len(whole) // 2])
    write_video(root / "one_frame.mp4", moving_square(0, 0, num_frames=1))
    return root


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of prepared data, shared by all tests."""
    return str(tmp_path_factory.mktemp("tensorflow_datasets"))


@pytest.fixture(scope="session")
def digits(data_dir: str):
    """A few moving digits, labelled by motion."""
    from input_pipeline import open_dataset

    return open_dataset(name="moving_digits", label="motion", train_clips=96, val_clips=21, data_dir=data_dir)


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory: pytest.TempPathFactory, made_clips: Path, data_dir: str) -> Path:
    """Workdir of a small training, for `trained` to copy."""
    import main
    from tests.runs import small_folder

    workdir = tmp_path_factory.mktemp("trained_once")
    with jax.numpy_dtype_promotion("standard"):
        main.run(small_folder(made_clips, data_dir), str(workdir), "train")
    return workdir


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, trained_once: Path) -> Path:
    """Workdir of a small training, which the tests of one file may evaluate again."""
    return Path(shutil.copytree(trained_once, tmp_path_factory.mktemp("runs") / "trained"))


@pytest.fixture(autouse=True, scope="module")
def optax_promotes(request: pytest.FixtureRequest) -> Iterator[None]:
    """Allow dtype promotion, since optax mixes dtypes (step counts with rates)."""
    relaxed = request.path.parent.name == "training" or request.path.name in (
        "test_main.py",
        "test_main_errors.py",
        "test_report_mode.py",
        "test_docs.py",
        "test_pointing.py",
    )
    with jax.numpy_dtype_promotion("standard" if relaxed else "strict"):
        yield
