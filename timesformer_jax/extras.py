"""Optional packages: the extras that install them, the jobs that need them, and the error if one is missing."""

import contextlib
import importlib.util
from collections.abc import Iterator
from typing import NamedTuple

from timesformer_jax.errors import InputError

_VIDEO = ("av", "loky", "tqdm")
_PRETRAINED = (*_VIDEO, "etils", "huggingface_hub", "orbax", "safetensors", "xxhash")

EXTRAS: dict[str, tuple[str, ...]] = {
    "video": _VIDEO,
    "pretrained": _PRETRAINED,
    "onnx": (*_PRETRAINED, "jax2onnx", "onnx", "onnx_ir", "onnxruntime"),
    "plots": ("PIL", "jinja2", "matplotlib", "sklearn"),
    "app": (*_PRETRAINED, "PIL", "gradio", "jinja2", "matplotlib", "sklearn"),
    "torch": ("torch",),
    "augment": ("dm_pix",),
    "train": (
        *_VIDEO,
        *("PIL", "absl", "clu", "dm_pix", "etils", "google_crc32c", "importlib_resources", "ml_collections", "optax", "orbax"),
        *("sklearn", "tensorboard", "tensorflow", "tensorflow_datasets", "xxhash"),
    ),
}
"""Maps an extra to the modules that it installs. For a module in several extras, messages name the first one."""

TITLES = {
    "PIL": "Pillow",
    "absl": "absl-py",
    "av": "PyAV",
    "dm_pix": "dm-pix",
    "google_crc32c": "google-crc32c",
    "gradio": "Gradio",
    "jinja2": "Jinja2",
    "orbax": "orbax-checkpoint",
    "sklearn": "scikit-learn",
    "tensorflow": "TensorFlow",
    "tensorflow_datasets": "tensorflow-datasets",
    "torch": "PyTorch",
}
"""Maps a module to the name of its package, if that differs."""


class Job(NamedTuple):
    """Requirements of a job."""

    extras: tuple[str, ...]
    """Extras for everything that the job can do."""
    modules: tuple[str, ...] = ()
    """Modules without which the job can't do anything."""
    package: str = "timesformer_jax"
    """Package to install, or "." for the clone that the job is run from."""


JOBS = {
    "timesformer predict": Job(("pretrained",), ("av", "tqdm")),
    "timesformer explain": Job(("pretrained", "plots"), ("av", "matplotlib", "PIL")),
    "timesformer app": Job(("app",), ("av", "gradio", "matplotlib", "PIL", "sklearn")),
    "timesformer features": Job(("pretrained",), ("av", "tqdm")),
    "timesformer embed": Job(("plots",), ("matplotlib", "sklearn")),
    "timesformer check": Job(("video",), ("av", "loky", "tqdm")),
    "timesformer convert": Job(("pretrained",)),
    "timesformer zoo": Job(()),
    "timesformer cost": Job(("plots",)),
    "main.py": Job(
        ("train", "plots"),
        (
            *(*_VIDEO, "absl", "clu", "dm_pix", "etils", "google_crc32c", "ml_collections", "optax", "orbax", "tensorflow"),
            *("tensorflow_datasets", "xxhash"),
        ),
        package=".",
    ),
    "main.py --mode=report": Job(("train", "plots"), ("PIL", "jinja2"), package="."),
    "main.py --mode=show": Job(("train", "plots"), ("matplotlib",), package="."),
}


class MissingPackageError(InputError):
    """Raised if an optional package is not installed; the message has the command that installs it.

    Args:
        module: A module of `EXTRAS`.
        purpose: Task that needs it, as the subject of a sentence, such as "Reading videos".
        job: A key of `JOBS`; the command then installs everything that the job needs.
    """

    def __init__(self, module: str, purpose: str, job: str | None = None):
        super().__init__(module, purpose, job)
        self.module, self.purpose, self.job = module, purpose, job

    def __str__(self) -> str:
        name = TITLES.get(self.module, self.module)
        return f"{self.purpose} needs {name}, which is not installed: {install_command(self.module, job=self.job)}"

    def within(self, job: str) -> "MissingPackageError":
        """Return the same error with the install command for a job."""
        return MissingPackageError(self.module, self.purpose, job)


@contextlib.contextmanager
def needs(module: str, purpose: str, job: str | None = None) -> Iterator[None]:
    """Raise `MissingPackageError` with these arguments if an import within the context fails."""
    try:
        yield
    except ImportError as error:
        raise MissingPackageError(module, purpose, job) from error


def install_command(*modules: str, job: str | None = None) -> str:
    """Command that installs modules, and all requirements of a job; quoted, since zsh expands square brackets."""
    required = JOBS[job] if job else Job(())
    extras = list(required.extras)
    for module in modules:
        if not any(module in EXTRAS[extra] for extra in extras):
            extras.append(next(extra for extra, brought in EXTRAS.items() if module in brought))
    return install_extras(*extras, package=required.package)


def install_extras(*extras: str, package: str = "timesformer_jax") -> str:
    """Command that installs these extras of pyproject.toml."""
    return f'pip install "{package}[{",".join(extras)}]"'


def check_installed(job: str) -> None:
    """Raise `MissingPackageError` if a module that a job always needs is missing, without importing it."""
    for module in JOBS[job].modules:
        if importlib.util.find_spec(module) is None:
            raise MissingPackageError(module, f"`{job}`", job)
