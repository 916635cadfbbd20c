"""TimeSformer for JAX. Importing it loads only jax, flax and numpy."""

import logging

from timesformer_jax import explain
from timesformer_jax.cnn3d import I3D, SlowFast
from timesformer_jax.errors import InputError
from timesformer_jax.modeling import (
    INITIALIZATIONS,
    SCHEMES,
    AttentionMap,
    Features,
    TimeSformer,
    fold_for_inference,
    stack_blocks,
    to_nnx,
    unstack_blocks,
)
from timesformer_jax.pretrained import ZOO, Pretrained, convert, load, save, save_huggingface
from timesformer_jax.printable import PrintableArguments
from timesformer_jax.variants import VARIANTS, create
from timesformer_jax.version import VERSION
from timesformer_jax.video import Preprocess

logging.getLogger("timesformer_jax").addFilter(PrintableArguments())

__version__ = VERSION
__all__ = [
    "I3D",
    "INITIALIZATIONS",
    "SCHEMES",
    "VARIANTS",
    "ZOO",
    "AttentionMap",
    "Features",
    "InputError",
    "Preprocess",
    "Pretrained",
    "SlowFast",
    "TimeSformer",
    "convert",
    "create",
    "explain",
    "fold_for_inference",
    "load",
    "save",
    "save_huggingface",
    "stack_blocks",
    "to_nnx",
    "unstack_blocks",
]
