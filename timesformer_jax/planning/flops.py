"""Arithmetic of a traced program, counted before it is compiled."""

import math
from collections.abc import Iterator
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr


def count_flops(jaxpr: Any) -> int:
    """FLOPs of a program's matrix products and convolutions over all devices; a multiply-add counts as two.

    Loops count by their length, conditions by their most expensive branch, and Pallas kernels by their
    `cost_estimate` or, if they have none, by their grid.
    """
    return sum(_flops(equation) for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns)


def _flops(equation: Any) -> int:
    name, parameters = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = parameters["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        features = kernel[parameters["dimension_numbers"].rhs_spec[0]]
        return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) // features
    if name == "pallas_call" and parameters.get("cost_estimate") is not None:
        return int(parameters["cost_estimate"].flops)
    inner = [count_flops(jaxpr) for jaxpr in _jaxprs(parameters.values())]
    if name == "cond":
        return max(inner)
    return _repetitions(name, parameters) * sum(inner)


def _repetitions(name: str, parameters: Any) -> int:
    if name == "scan":
        return parameters["length"]
    if name == "pallas_call":
        return math.prod(side for side in parameters["grid_mapping"].grid if isinstance(side, int))
    if name == "shard_map":  # its program is that of one device
        sizes = dict(parameters["mesh"].shape)
        return math.prod(sizes[axis] for axis in parameters.get("manual_axes", sizes))
    return 1


def _jaxprs(values: Any) -> Iterator[Any]:
    for value in values:
        if isinstance(value, ClosedJaxpr | Jaxpr):
            yield value
        elif isinstance(value, tuple | list):
            yield from _jaxprs(value)
