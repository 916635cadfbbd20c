"""The process that plans: its Python, its environment variables, and what is missing."""

import importlib.machinery
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from timesformer_jax.errors import InputError
from timesformer_jax.planning.targets import Target

ROOT = Path(__file__).parents[2]
PLAN_ENVIRONMENT = Path(".venv-plan")
"""Environment that `make plan-env` makes, relative to the clone."""

_STEP = {"jax": "jax", "flax": "flax", "optax": "optax", "dm_pix": "dm-pix"}

NEEDS: Mapping[str, Mapping[str, str]] = {
    "tpu": {"libtpu": "libtpu", **_STEP},
    "cuda": {"jax_cuda12_plugin": "jax-cuda12-plugin", "nvidia/cuda_nvcc": "nvidia-cuda-nvcc-cu12 (CUDA's nvcc)", **_STEP},
}
"""Maps a platform to the modules that planning for it needs, and the package of each."""


def find_python(target: Target, given: str | None = None) -> str:
    """Path of a Python with the compiler for a target: `given`, this one, or that of `make plan-env`.

    Raises:
        InputError: If this machine can't compile for the target, or no Python has the compiler.
    """
    system, machine = platform.system(), platform.machine()
    if (system, machine) != ("Linux", "x86_64"):
        raise InputError(
            f"plan.target={target.name} needs Linux on x86-64, where the compilers run, and this is {system} on {machine}: "
            "plan on another machine, or for the devices here with plan.target=local."
        )
    own = [sys.executable, str(ROOT / PLAN_ENVIRONMENT / "bin" / "python")]
    candidates = [str(Path(given).expanduser().absolute())] if given else own  # unresolved, so that it stays an environment's
    missing = {python: _missing(python, target.platform) for python in candidates if Path(python).is_file()}
    for python, packages in missing.items():
        if not packages:
            return python
    if given and not missing:
        raise InputError(f"plan.python={given} is no file: give the Python of an environment with the compiler.")
    packages = next(reversed(missing.values()))
    raise InputError(
        f"plan.target={target.name} needs {' and '.join(packages)}, missing in {' and '.join(missing)}: run `make plan-env`, "
        f"which installs what planning needs into {PLAN_ENVIRONMENT}."
    )


def _missing(python: str, platform: str) -> list[str]:
    """Packages that a Python lacks for planning, without importing them."""
    folders = sys.path if python == sys.executable else _folders(python)
    return [package for module, package in NEEDS[platform].items() if not _finds(module, folders)]


def _finds(module: str, folders: Sequence[str]) -> bool:
    *above, name = module.split("/")
    return importlib.machinery.PathFinder.find_spec(name, [str(Path(folder, *above)) for folder in folders]) is not None


def _folders(python: str) -> list[str]:
    done = subprocess.run(
        [python, "-c", "import json, sys; print(json.dumps(sys.path))"], capture_output=True, text=True, check=False, cwd="/"
    )
    return json.loads(done.stdout) if done.returncode == 0 else []


def environment_of(target: Target, python: str) -> dict[str, str]:
    """Environment variables of the process that plans, which must be set before it imports JAX."""
    variables = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    if target.platform == "tpu":
        return {**variables, "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    folders = [Path(folder, "nvidia", "cuda_nvcc") for folder in _folders(python)]
    compiler = next((folder for folder in folders if folder.is_dir()), Path())
    # Triton's products are chosen by timing them on the GPU, which isn't there.
    flags = f"--xla_gpu_cuda_data_dir={compiler} --xla_gpu_enable_triton_gemm=false"
    return {**variables, "XLA_FLAGS": flags}


def run_elsewhere(job: Mapping[str, Any], target: Target, given: str | None = None) -> Any:
    """Run a job of `timesformer_jax.planning.__main__` in a process with the compiler for a target, and return its result.

    Its messages about progress go to stderr.

    Raises:
        InputError: If the compiler is missing, or the job raises it.
        RuntimeError: If the process fails.
    """
    python = find_python(target, given)
    with tempfile.TemporaryDirectory() as folder:
        asked, answer, log = (Path(folder, name) for name in ("job.json", "result.json", "log"))
        asked.write_text(json.dumps(job))
        with log.open("w") as output:
            command = [python, "-m", "timesformer_jax.planning", str(asked), str(answer)]
            done = subprocess.run(command, env=environment_of(target, python), stdout=output, stderr=output, check=False)
        if not answer.exists():
            last = "\n".join(log.read_text(errors="replace").strip().splitlines()[-30:])
            raise RuntimeError(f"Planning for {target.name} failed in {python} with exit code {done.returncode}:\n{last}")
        result = json.loads(answer.read_text())
    if "error" in result:
        raise InputError(result["error"])
    return result["result"]
