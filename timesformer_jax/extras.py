"""Optional packages: which extra brings them, which job needs them, and the one message for those that are missing."""

import importlib.util
from typing import NamedTuple

from timesformer_jax.errors import InputError

_VIDEO = ("av", "loky", "tqdm")

EXTRAS: dict[str, tuple[str, ...]] = {
    "video": _VIDEO,
    "pretrained": (*_VIDEO, "etils", "huggingface_hub", "orbax", "safetensors", "xxhash"),
    "plots": ("PIL", "jinja2", "matplotlib", "sklearn"),
    "torch": ("torch",),
    "augment": ("dm_pix",),
    "train": (
        *_VIDEO,
        *("PIL", "absl", "clu", "dm_pix", "etils", "google_crc32c", "importlib_resources", "ml_collections", "optax", "orbax"),
        *("sklearn", "tensorboard", "tensorflow", "tensorflow_datasets", "xxhash"),
    ),
}
"""Extra -> the modules that it brings. A module that several bring is asked for by the first of them."""

TITLES = {
    "PIL": "Pillow",
    "absl": "absl-py",
    "av": "PyAV",
    "dm_pix": "dm-pix",
    "google_crc32c": "google-crc32c",
    "jinja2": "Jinja2",
    "orbax": "orbax-checkpoint",
    "sklearn": "scikit-learn",
    "tensorflow": "TensorFlow",
    "tensorflow_datasets": "tensorflow-datasets",
    "torch": "PyTorch",
}
"""Module -> the package's name, where it differs."""


class Job(NamedTuple):
    """Extras for everything that a job can do, and modules without which it can't do anything."""

    extras: tuple[str, ...]
    modules: tuple[str, ...] = ()
    package: str = "timesformer_jax"
    """What to install: the package, or the clone that the job is run from."""


JOBS = {
    "timesformer predict": Job(("pretrained",), ("av", "tqdm")),
    "timesformer explain": Job(("pretrained", "plots"), ("av", "matplotlib", "PIL")),
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
    "main.py --mode=report": Job(("train", "plots"), ("jinja2", "matplotlib"), package="."),
    "main.py --mode=show": Job(("train", "plots"), ("matplotlib",), package="."),
}


class MissingPackageError(InputError):
    """Raised if a package of an extra is not installed: what for, and the command that installs it.

    Args:
        module: One of `EXTRAS`.
        purpose: What needs it, as the subject of a sentence: "Reading videos".
        job: A key of `JOBS`; the command then installs everything that the job needs.
    """

    def __init__(self, module: str, purpose: str, job: str | None = None):
        super().__init__(module, purpose, job)
        self.module, self.purpose, self.job = module, purpose, job

    def __str__(self) -> str:
        name = TITLES.get(self.module, self.module)
        return f"{self.purpose} needs {name}, which is not installed: {install_command(self.module, job=self.job)}"

    def within(self, job: str) -> "MissingPackageError":
        """The same error if a job has met it."""
        return MissingPackageError(self.module, self.purpose, job)


def install_command(*modules: str, job: str | None = None) -> str:
    """What to type for modules, and for all that a job needs; quoted, since square brackets are patterns to zsh."""
    needs = JOBS[job] if job else Job(())
    extras = list(needs.extras)
    for module in modules:
        if not any(module in EXTRAS[extra] for extra in extras):
            extras.append(next(extra for extra, brought in EXTRAS.items() if module in brought))
    return install_extras(*extras, package=needs.package)


def install_extras(*extras: str, package: str = "timesformer_jax") -> str:
    """What to type for these extras of pyproject.toml."""
    return f'pip install "{package}[{",".join(extras)}]"'


def check_installed(job: str) -> None:
    """Raise `MissingPackageError` if a module is missing without which a job can't do anything; imports none of them."""
    for module in JOBS[job].modules:
        if importlib.util.find_spec(module) is None:
            raise MissingPackageError(module, f"`{job}`", job)
