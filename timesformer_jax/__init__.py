"""TimeSformer for JAX. Importing it loads jax, flax and numpy, nothing heavier."""

from timesformer_jax.errors import InputError
from timesformer_jax.modeling import INITIALIZATIONS, SCHEMES, Features, TimeSformer, stack_blocks, unstack_blocks

__version__ = "0.1.0"
__all__ = ["INITIALIZATIONS", "SCHEMES", "Features", "InputError", "TimeSformer", "stack_blocks", "unstack_blocks"]
