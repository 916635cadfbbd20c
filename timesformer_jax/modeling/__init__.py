"""The TimeSformer model: attention, space-time schemes, embeddings and blocks."""

from timesformer_jax.modeling.description import complete_description, describe_model, num_blocks
from timesformer_jax.modeling.features import AttentionMap, Features, Tokens, clip_vector
from timesformer_jax.modeling.folding import fold_for_inference
from timesformer_jax.modeling.initialization import INITIALIZATIONS
from timesformer_jax.modeling.nnx import to_nnx
from timesformer_jax.modeling.schemes import SCHEMES
from timesformer_jax.modeling.scores import SCORES, check_objective
from timesformer_jax.modeling.stacking import stack_blocks, unstack_blocks
from timesformer_jax.modeling.timesformer import TimeSformer, flatten_params, parameter_shapes
from timesformer_jax.modeling.variables import (
    apply_and_update,
    init_weights,
    input_shape,
    variables_of,
    weight_shapes,
    weights_of,
)
from timesformer_jax.renamed import renamed

__all__ = [
    "INITIALIZATIONS",
    "SCHEMES",
    "SCORES",
    "AttentionMap",
    "Features",
    "TimeSformer",
    "Tokens",
    "apply_and_update",
    "check_objective",
    "clip_vector",
    "complete_description",
    "describe_model",
    "flatten_params",
    "fold_for_inference",
    "init_weights",
    "input_shape",
    "num_blocks",
    "parameter_shapes",
    "stack_blocks",
    "to_nnx",
    "unstack_blocks",
    "variables_of",
    "weight_shapes",
    "weights_of",
]

__getattr__ = renamed(__name__, {name: f"timesformer_jax.{name}" for name in ("VARIANTS", "create")})
