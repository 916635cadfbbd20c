"""Build the distributions, check their contents, and predict with the installed wheel (`make release-check`).

The wheel is installed into an empty environment with the extra `pretrained`. Nothing is published.
"""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from collections.abc import Collection
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"
PACKAGE = "timesformer_jax"
GENERATED = ("PKG-INFO", "setup.cfg", f"{PACKAGE}.egg-info/")
"""Files that the build adds to the source distribution."""

PREDICTS = """
import json, sys
from pathlib import Path
import jax
import numpy as np
import timesformer_jax as tsf
from timesformer_jax.explain.drawing import mp4_bytes

here = Path.cwd()
assert Path(sys.prefix) in Path(tsf.__file__).parents, f"{tsf.__file__} is not the installed wheel"
model = tsf.create("timesformer-nano", num_classes=3, initialization="from_scratch")
params = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 2, 16, 16, 3), np.float32))["params"]
labels = ("across", "back", "down")
preprocess = tsf.Preprocess(num_frames=2, crop_size=16)
tsf.save_huggingface(tsf.Pretrained(model, params, preprocess, labels), here / "checkpoint")
frames = np.random.default_rng(0).integers(0, 255, (24, 32, 48, 3)).astype(np.uint8)
(here / "clip.mp4").write_bytes(mp4_bytes(frames, fps=30))
print(json.dumps(tsf.load(here / "checkpoint").predict(here / "clip.mp4")))
"""

"""Script for the empty environment: creates a checkpoint and a video, and prints the predictions as JSON."""


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """Run a command without the clone on the import path; return its output, or exit if it fails."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def tracked_files() -> set[str]:
    """Return the tracked files that exist, relative to the root."""
    names = run("git", "ls-files", "-z").split("\0")
    return {name for name in names if name and (ROOT / name).is_file()}


def build(tracked: Collection[str], folder: Path) -> tuple[Path, Path]:
    """Build from a copy of the tracked files, so that leftovers of earlier builds can't be included.

    Args:
        tracked: Files to copy.
        folder: Destination of the copy.

    Returns:
        The source distribution and the wheel, in `DIST`.
    """
    for name in tracked:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    shutil.rmtree(DIST, ignore_errors=True)
    run(sys.executable, "-m", "build", "--outdir", DIST, folder)
    run(sys.executable, "-m", "twine", "check", "--strict", *DIST.iterdir())
    (sdist,), (wheel,) = DIST.glob("*.tar.gz"), DIST.glob("*.whl")
    return sdist, wheel


def compare(title: str, found: set[str], expected: set[str]) -> None:
    """Exit with a list of missing and unexpected files unless a distribution has exactly the expected ones."""
    problems = [f"  missing: {name}" for name in sorted(expected - found)]
    problems += [f"  unexpected: {name}" for name in sorted(found - expected)]
    if problems:
        sys.exit("\n".join([f"The {title} does not match the tracked files; see MANIFEST.in and pyproject.toml.", *problems]))
    print(f"{title}: {len(found)} files, as tracked")


def check_contents(sdist: Path, wheel: Path, tracked: set[str]) -> None:
    """Compare both distributions with the tracked files."""
    with tarfile.open(sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    compare("source distribution", {name for name in names if not name.startswith(GENERATED)}, tracked)
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    compare("wheel", names, {name for name in tracked if name.startswith(f"{PACKAGE}/")})


def check_version(sdist: Path, wheel: Path) -> str:
    """Return the version in `version.py`; exit if a distribution has another one."""
    code = f"import runpy; print(runpy.run_path('{PACKAGE}/version.py')['VERSION'])"
    version = run(sys.executable, "-c", code).strip()
    for path in (sdist, wheel):
        if path.name.removesuffix(".tar.gz").split("-")[1] != version:
            sys.exit(f"The version of {path.name} is not {version}, as in {PACKAGE}/version.py.")
    return version


def predict(wheel: Path, version: str, folder: Path) -> None:
    """Install the wheel into an empty environment, and predict a synthetic video in Python and on the command line."""
    environment = folder / "environment"
    venv.create(environment, with_pip=True)
    python, command = environment / "bin" / "python", environment / "bin" / "timesformer"
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"{wheel}[pretrained]", cwd=folder)
    run(python, "-m", "pip", "check", cwd=folder)
    if (printed := run(command, "--version", cwd=folder).split()[-1]) != version:
        sys.exit(f"timesformer --version prints {printed}, not {version}.")
    in_python = json.loads(run(python, "-c", PREDICTS, cwd=folder))
    by_command = json.loads(run(command, "predict", "clip.mp4", "--checkpoint=checkpoint", "--json", cwd=folder))["best"]
    probabilities = dict(by_command)
    if len(in_python) != 3 or any(abs(probabilities[label] - probability) > 1e-4 for label, probability in in_python):
        sys.exit(f"`timesformer predict` and Pretrained.predict differ:\n{by_command}\n{in_python}")
    print("predicted with the installed wheel:", ", ".join(f"{label} {probability:.1%}" for label, probability in by_command))


def main() -> None:
    """Run all checks; exit with a message if one fails."""
    tracked = tracked_files()
    with tempfile.TemporaryDirectory() as folder:
        sdist, wheel = build(tracked, Path(folder) / "source")
        check_contents(sdist, wheel, tracked)
        version = check_version(sdist, wheel)
        predict(wheel, version, Path(folder))
    print(f"{sdist.name} and {wheel.name} in dist/ are ready to publish.")


if __name__ == "__main__":
    main()
