"""A word to the compiler about the order of an array in memory."""

from typing import Any

import jax
from jax.experimental.layout import Layout, with_layout_constraint
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from timesformer_jax._typing import Array, Float


def row_major(x: Float[Array, "*tokens D"]) -> Float[Array, "*tokens D"]:
    """The same array, kept in memory token by token.

    Left to itself, XLA puts frames or places last for some of the residual stream, and turns it around between the layers. A
    program that is exported (`jax.export`) goes without this word, which has no form that is sure to last.
    """
    return _row_major.bind(x)


def _lower(context: mlir.LoweringRuleContext, x: Any) -> Any:
    if getattr(context.module_context.lowering_parameters, "for_export", False):
        return [x]
    order = Layout(tuple(range(context.avals_in[0].ndim)))  # pyright: ignore[reportAttributeAccessIssue]
    return mlir.lower_fun(lambda x: with_layout_constraint(x, order), multiple_results=False)(context, x)


_row_major = Primitive("row_major")
_row_major.def_impl(jax.jit(lambda x: x))
_row_major.def_abstract_eval(lambda x: x)
ad.deflinear2(_row_major, lambda gradient, _: [gradient if type(gradient) is ad.Zero else row_major(gradient)])
batching.defvectorized(_row_major)
mlir.register_lowering(_row_major, _lower)
