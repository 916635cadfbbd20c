"""Conversion of a model to an NNX module."""

from collections.abc import Mapping
from typing import Any

from flax.core import unfreeze

from timesformer_jax.errors import InputError
from timesformer_jax.modeling.timesformer import TimeSformer


def to_nnx(model: TimeSformer, variables: Mapping[str, Any]) -> Any:
    """Convert a model to an `nnx.Module` through Flax's bridge, so that `module(video)` is `model.apply(variables, video)`.

    All arguments of `apply` are supported, as in `module(video, train=True, rngs=nnx.Rngs(dropout=0))` and
    `module(video, method="features")`. The module's state consists of `nnx.Param`s under the same names; arrays in
    `variables` are not copied.

    Raises `InputError` if `variables` is not `{"params": ...}`.
    """
    if set(variables) != {"params"}:
        raise InputError(f'Expected variables, {{"params": ...}}, as model.init returns them; got {", ".join(variables)}.')
    from flax import nnx  # imported here because it loads optax, which `import timesformer_jax` must not

    module = nnx.bridge.ToNNX(model)
    for name, value in nnx.bridge.variables.linen_vars_to_nnx_attrs(unfreeze(dict(variables))).items():
        setattr(module, name, value)
    return module
