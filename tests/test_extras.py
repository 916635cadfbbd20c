"""Extras: the tables of extras and jobs, and the single install command in errors about missing packages."""

import importlib
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from timesformer_jax import InputError
from timesformer_jax.__main__ import JOBS as COMMANDS
from timesformer_jax.__main__ import main
from timesformer_jax.extras import EXTRAS, JOBS, TITLES, MissingPackageError, check_installed
from timesformer_jax.pretrained.tensor_files import TORCH_MAGIC
from timesformer_jax.video import open_video

ROOT = Path(__file__).parent.parent


def uninstall(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    """Make imports fail, including those of modules that are already imported."""
    for module in modules:
        for name in [module, *(name for name in sys.modules if name.startswith(f"{module}."))]:
            monkeypatch.setitem(sys.modules, name, None)


def test_tables_cover_every_job_and_every_extra():
    in_pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]

    def packages(extra: str) -> set[str]:
        found = set()
        for requirement in map(Requirement, in_pyproject[extra]):
            inner = [packages(name) for name in requirement.extras] if requirement.name == "timesformer_jax" else []
            found |= set().union(*inner) or {requirement.name.lower().replace("_", "-")}
        return found

    for extra, modules in EXTRAS.items():
        named = {TITLES.get(module, module).lower().replace("_", "-").replace("pyav", "av") for module in modules}
        assert {name.replace("pytorch", "torch") for name in named} == packages(extra) - {"tensorflow-cpu"}, extra
    assert {f"timesformer {name}" for name in COMMANDS} | {"main.py"} == {job.partition(" --mode")[0] for job in JOBS}
    for job in JOBS.values():
        assert set(job.modules) <= {module for extra in job.extras for module in EXTRAS[extra]}


def test_only_the_helper_names_what_to_install():
    for room in ("timesformer_jax", "input_pipeline", "experiment", "main.py"):
        for path in [ROOT / room] if room.endswith(".py") else (ROOT / room).rglob("*.py"):
            assert path.name == "extras.py" or "pip install" not in path.read_text(), path


@pytest.mark.parametrize("path", [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))], ids=lambda path: path.name)
def test_extras_in_the_docs_exist_and_are_quoted(path: Path):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for line in re.findall(r"pip install .*\[.*", path.read_text()):
        assert re.search(r'pip install (?:-\S+ )*"[^"]*\[[\w,]+\][^"]*"', line), line
        named = re.search(r"(?:timesformer_jax|\.)\[([\w,]+)\]", line)
        assert named is None or set(named[1].split(",")) <= extras.keys(), line


@pytest.mark.parametrize(
    ("command", "missing", "extras"),
    [
        ("predict a.mp4 --checkpoint=a.npz", ("av", "huggingface_hub", "safetensors", "tqdm"), "pretrained"),
        ("predict FOLDER --checkpoint=timesformer-base-k400", ("huggingface_hub", "safetensors"), "pretrained"),
        ("predict a.mp4 --checkpoint=a.pyth", ("torch",), "pretrained,torch"),
        ("predict a.mp4 --checkpoint=gs://bucket/run", ("etils", "orbax"), "pretrained"),
        ("embed gs://bucket/run --output=a.png", ("etils",), "plots,pretrained"),
        ("explain a.mp4 --checkpoint=a.npz --output=a.gif", ("PIL",), "pretrained,plots"),
        ("embed FOLDER --output=a.png", ("sklearn",), "plots"),
        ("check FOLDER", ("loky",), "video"),
        ("convert run a.safetensors", ("orbax",), "pretrained"),
        ("convert run a.onnx", ("jax2onnx",), "pretrained,onnx"),
    ],
)
def test_job_names_one_command_for_all_it_needs(
    command: str, missing: tuple[str, ...], extras: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
):
    """All missing packages are named once, despite two videos, and before anything else fails."""
    monkeypatch.chdir(tmp_path)
    for place in ("FOLDER", "run"):
        Path(place).mkdir()
    Path("run/_CHECKPOINT_METADATA").touch()
    Path("a.pyth").write_bytes(b"\x80\x02\x8a\n" + TORCH_MAGIC)
    for name in ("FOLDER/a.mp4", "FOLDER/b.mp4"):
        Path(name).touch()
    uninstall(monkeypatch, *missing)
    assert main(command.split()) == 1
    *before, line = capsys.readouterr().err.splitlines()
    assert len(before) <= 1  # the line about devices, if the job computes
    asked = re.fullmatch(r'Error: .* needs [\w-]+, which is not installed: pip install "timesformer_jax\[(.*)\]"', line)
    assert asked is not None, line
    assert asked[1] == extras


def test_trainer_names_all_missing_packages_in_a_clone(monkeypatch: pytest.MonkeyPatch):
    for job, module in (("main.py", "tensorflow"), ("main.py --mode=report", "jinja2")):
        uninstall(monkeypatch, module)
        with pytest.raises(MissingPackageError, match=rf'^`{job}` needs \w+, .*: pip install "\.\[train,plots\]"$'):
            check_installed(job)


def test_library_names_the_extra_of_the_package(monkeypatch: pytest.MonkeyPatch):
    uninstall(monkeypatch, "av")
    with (
        pytest.raises(InputError, match=r'^Reading videos needs PyAV, .*: pip install "timesformer_jax\[video\]"$'),
        open_video("a"),
    ):
        pass


def test_augmentation_names_its_extra(monkeypatch: pytest.MonkeyPatch):
    for name in [name for name in sys.modules if name.startswith("timesformer_jax.augment")]:
        monkeypatch.delitem(sys.modules, name)
    uninstall(monkeypatch, "dm_pix")
    with pytest.raises(InputError, match=r'^Augmentation needs dm-pix, .*: pip install "timesformer_jax\[augment\]"$'):
        importlib.import_module("timesformer_jax.augment")
