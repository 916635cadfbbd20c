"""The model as an NNX module."""

from collections.abc import Mapping
from typing import Any

from timesformer_jax.modeling.timesformer import TimeSformer


def to_nnx(model: TimeSformer, variables: Mapping[str, Any]) -> Any:
    """An `nnx.Module` with these parameters, through Flax's bridge: `module(video)` is `model.apply(variables, video)`.

    Everything that `apply` takes works: `module(video, train=True, rngs=nnx.Rngs(dropout=0))`,
    `module(video, method="features")`. Its state is `nnx.Param`s under the same names; `variables` are not copied.
    """
    from flax import nnx

    module = nnx.bridge.ToNNX(model)
    for name, value in nnx.bridge.variables.linen_vars_to_nnx_attrs(variables).items():
        setattr(module, name, value)
    return module
