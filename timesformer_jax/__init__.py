"""TimeSformer for JAX. Importing it loads jax, flax and numpy, nothing heavier."""

from timesformer_jax.errors import InputError
from timesformer_jax.modeling import (
    INITIALIZATIONS,
    SCHEMES,
    VARIANTS,
    Features,
    TimeSformer,
    create,
    stack_blocks,
    unstack_blocks,
)

__version__ = "0.1.0"
__all__ = [
    "INITIALIZATIONS",
    "SCHEMES",
    "VARIANTS",
    "Features",
    "InputError",
    "TimeSformer",
    "create",
    "stack_blocks",
    "unstack_blocks",
]
