"""Resolve every extra and the tested versions for four platforms on the oldest and newest Python (`make resolve`).

Only wheels are accepted, so that no installation needs a compiler; `SOURCE_ONLY` lists the exceptions. The exit code is 1 if
anything lacks a wheel.
"""

import itertools
import os
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parent.parent
UV = Path(sys.executable).parent / "uv"
PYTHONS = ("3.11", "3.13")
PLATFORMS = {  # uv's names. JAX has had no builds for macOS on Intel since version 0.5.
    "Linux x86-64": "x86_64-manylinux_2_28",
    "Linux aarch64": "aarch64-manylinux_2_28",
    "macOS arm64": "aarch64-apple-darwin",
    "Windows x86-64": "x86_64-pc-windows-msvc",
}
LINUX = ("Linux x86-64", "Linux aarch64")
ONLY_ON = {"cuda": LINUX, "cuda12": LINUX, "cuda13": LINUX, "tpu": LINUX[:1]}
"""Maps extras for accelerators to their platforms; all other extras support every platform."""
NEWER_LINUX = {"tpu": "x86_64-manylinux_2_31"}
"""libtpu needs a newer C library than the rest, which Google's TPU machines have."""
SOURCE_ONLY = ("jsonpath-rw", "promise")
"""Pure Python packages published as source only: dependencies of mlcroissant and tensorflow-datasets."""
OLDEST_MACOS = "14.0"
"""Minimum macOS version of PyAV 16 and later."""


def inputs() -> dict[str, list[str]]:
    """Return the arguments of `uv pip compile` by title."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    return {
        "without extras": ["pyproject.toml"],
        **{extra: ["pyproject.toml", f"--extra={extra}"] for extra in extras},
        "requirements.txt": ["requirements.txt"],
    }


def resolve(title: str, arguments: list[str], platform: str, python: str) -> str | None:
    """Resolve one case; return the error, or None if it resolves."""
    target = NEWER_LINUX.get(title, PLATFORMS[platform])
    command = [str(UV), "pip", "compile", "--quiet", *arguments, f"--python-platform={target}", f"--python-version={python}"]
    command += ["--only-binary=:all:", *(f"--no-binary={name}" for name in SOURCE_ONLY)]
    environment = {**os.environ, "MACOSX_DEPLOYMENT_TARGET": OLDEST_MACOS, "UV_PYTHON_DOWNLOADS": "never"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    return done.stderr.strip() if done.returncode else None


def main() -> int:
    """Print a row per extra and the errors of failed cases; return the exit code."""
    titles = inputs()
    cases = [
        (title, platform, python)
        for title, platform, python in itertools.product(titles, PLATFORMS, PYTHONS)
        if platform in ONLY_ON.get(title, PLATFORMS)
    ]
    with ThreadPoolExecutor(4) as pool:
        reasons = pool.map(lambda case: resolve(case[0], titles[case[0]], *case[1:]), cases)
        found = dict(zip(cases, reasons, strict=True))
    columns = list(itertools.product(PLATFORMS, PYTHONS))
    print(" " * 18 + "".join(f"{platform:<16}" for platform, _ in columns[::2]))
    print(" " * 18 + "".join(f"{python:<8}" for _, python in columns))
    for title in titles:
        cells = ({None: "ok", "": "-"}.get(found.get((title, *at), ""), "FAILS") for at in columns)
        print(f"{title:<18}" + "".join(f"{cell:<8}" for cell in cells).rstrip())
    failed = {case: reason for case, reason in found.items() if reason}
    for case, reason in failed.items():
        print(f"\n{', '.join(case)}:\n{reason}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
