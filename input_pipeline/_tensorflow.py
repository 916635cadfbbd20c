"""TensorFlow without log noise and without accelerators; every module here imports `tf` and `tfds` from this one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from etils import epath

from timesformer_jax.errors import InputError, first_line
from timesformer_jax.state_files import describe_os_error, digest_of, read_json, reading, refuse, write_json

# TensorFlow reads these on import. They silence its start-up messages. As TensorFlow only decodes and resizes JPEG images here,
# oneDNN would change nothing but add two such messages per process.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import tensorflow as tf
import tensorflow_datasets as tfds
from absl import logging

# The accelerators belong to JAX; TensorFlow would otherwise allocate a GPU's whole memory.
tf.config.set_visible_devices([], "GPU")
tf.get_logger().setLevel("ERROR")


@contextmanager
def quiet_tfds() -> Iterator[None]:
    """Suppress TFDS's warnings about builder configs that its catalog lacks and about its own deprecated calls."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


class LocalInfo(tfds.core.DatasetInfo):
    """Dataset description that is never looked up in TFDS's public bucket.

    TFDS otherwise does so whenever it creates a builder of unprepared data, and leaves an empty temporary folder behind.
    """

    def initialize_from_bucket(self) -> None:
        """Skip the lookup."""

    def write_to_directory(self, dataset_info_dir: Any, all_metadata: bool = True) -> None:
        """Write the description, and the digests of all small files next to it."""
        super().write_to_directory(dataset_info_dir, all_metadata)
        folder = epath.Path(dataset_info_dir)
        write_json(folder / DIGESTS, {"files": {path.name: digest_of(path.read_bytes()) for path in _small_files(folder)}})

    def read_from_directory(self, dataset_info_dir: Any) -> None:
        """Read the description; raises `InputError` if it, or a small file next to it, has changed since it was written."""
        folder = epath.Path(dataset_info_dir)
        remedy = f"delete {folder} to prepare the data again"
        if (folder / DIGESTS).exists():  # data of older versions have no digests
            digests = read_json(folder / DIGESTS, remedy=remedy, fields={"files": dict})["files"]
            for name, digest in digests.items():
                with reading(folder / name):
                    content = (folder / name).read_bytes()
                if digest_of(content) != digest:
                    refuse(folder / name, "its content doesn't match its digest", remedy)
        try:
            super().read_from_directory(dataset_info_dir)
        except InputError:
            raise
        except OSError as error:
            raise InputError(f"Can't read the description of the data in {folder}: {describe_os_error(error)}.") from error
        except Exception as error:  # protobuf, JSON and TFDS each raise their own types
            refuse(
                folder / "dataset_info.json",
                f"or features.json, metadata.json or labels next to it: {first_line(error)}",
                remedy,
            )


DIGESTS = "digests.json"
"""File next to prepared data that maps the name of each small file to the digest of its content."""


def _small_files(folder: epath.Path) -> list[epath.Path]:
    """List the files of prepared data without the records, their index and facts, which have their own checksums."""
    names = sorted(path.name for path in folder.iterdir() if not path.is_dir())
    own = (".records.npy", ".facts.npz")
    return [folder / name for name in names if ".tfrecord" not in name and not name.endswith(own) and name != DIGESTS]


__all__ = ["LocalInfo", "quiet_tfds", "tf", "tfds"]
