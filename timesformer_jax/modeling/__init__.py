"""The model: attention, the space-time schemes, embeddings, blocks. Imports nothing else of the library."""

from timesformer_jax.modeling.initialization import INITIALIZATIONS
from timesformer_jax.modeling.schemes import SCHEMES
from timesformer_jax.modeling.stacking import stack_blocks, unstack_blocks
from timesformer_jax.modeling.timesformer import Features, TimeSformer, parameter_shapes
from timesformer_jax.modeling.variants import VARIANTS, create

__all__ = [
    "INITIALIZATIONS",
    "SCHEMES",
    "VARIANTS",
    "Features",
    "TimeSformer",
    "create",
    "parameter_shapes",
    "stack_blocks",
    "unstack_blocks",
]
