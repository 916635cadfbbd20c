"""The model as an NNX module."""

from collections.abc import Mapping
from typing import Any

from flax.core import unfreeze

from timesformer_jax.errors import InputError
from timesformer_jax.modeling.timesformer import TimeSformer


def to_nnx(model: TimeSformer, variables: Mapping[str, Any]) -> Any:
    """An `nnx.Module` with these parameters, through Flax's bridge: `module(video)` is `model.apply(variables, video)`.

    Everything that `apply` takes works: `module(video, train=True, rngs=nnx.Rngs(dropout=0))`,
    `module(video, method="features")`. Its state is `nnx.Param`s under the same names; `variables` are not copied.

    Raises `InputError` for something other than `{"params": ...}`.
    """
    if set(variables) != {"params"}:
        raise InputError(f'Expected variables, {{"params": ...}}, as model.init returns them; got {", ".join(variables)}.')
    from flax import nnx  # brings optax, which `import timesformer_jax` shall not load

    module = nnx.bridge.ToNNX(model)
    for name, value in nnx.bridge.variables.linen_vars_to_nnx_attrs(unfreeze(dict(variables))).items():
        setattr(module, name, value)
    return module
