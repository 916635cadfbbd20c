"""TensorFlow, quiet and away from the accelerators: every module here takes `tf` and `tfds` from this one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

# Read when TensorFlow is loaded: no start-up chatter. oneDNN's only effect here would be two lines of it per process, as
# nothing but JPEG decoding and resizing runs in TensorFlow.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import tensorflow as tf
import tensorflow_datasets as tfds
from absl import logging

# The accelerators belong to JAX; TensorFlow would otherwise take a GPU's whole memory.
tf.config.set_visible_devices([], "GPU")
tf.get_logger().setLevel("ERROR")


@contextmanager
def quiet_tfds() -> Iterator[None]:
    """Without TFDS's warnings about builder configs that its catalogue lacks and about its own deprecated calls."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


class LocalInfo(tfds.core.DatasetInfo):
    """Description of a data set that is prepared here and in no public bucket.

    TFDS otherwise looks for one whenever it makes a builder of unprepared data, and leaves an empty temporary folder behind.
    """

    def initialize_from_bucket(self) -> None:
        """Do nothing."""


__all__ = ["LocalInfo", "quiet_tfds", "tf", "tfds"]
