"""TimeSformer for JAX. Importing it loads jax, flax and numpy, nothing heavier."""

from timesformer_jax.errors import InputError
from timesformer_jax.modeling import (
    INITIALIZATIONS,
    SCHEMES,
    VARIANTS,
    AttentionMap,
    Features,
    TimeSformer,
    create,
    fold_for_inference,
    stack_blocks,
    to_nnx,
    unstack_blocks,
)

__version__ = "0.1.0"
__all__ = [
    "INITIALIZATIONS",
    "SCHEMES",
    "VARIANTS",
    "AttentionMap",
    "Features",
    "InputError",
    "TimeSformer",
    "create",
    "fold_for_inference",
    "stack_blocks",
    "to_nnx",
    "unstack_blocks",
]
