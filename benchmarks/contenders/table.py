"""All contenders of `benchmarks/model.py speed`, in the order of its table."""

import importlib
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from benchmarks.contenders.turns import Runs

MATRIX_PRODUCT = "jax matrix product"


class Contender(NamedTuple):
    """A row of `CONTENDERS`. Modules are imported in the worker, since each needs its framework."""

    framework: str
    """"jax" or "torch": the interpreter that runs it."""
    make: Callable[[int], Runs]
    """Returns its run for a batch size."""
    source: str = ""
    """Framework whose ONNX file it runs, if it does."""
    engine: str = ""
    """Package that runs the file."""
    training: bool = False
    """Whether it is a training step."""
    multiply_adds: str = "logits"
    """What it computes: "features" (the whole last block), "logits" or "folded"."""


def _call(module: str, function: str, *arguments: str, **options: bool) -> Callable[[int], Runs]:
    def make(batch_size: int) -> Runs:
        return getattr(importlib.import_module(f"benchmarks.contenders.{module}"), function)(*arguments, batch_size, **options)

    return make


def _in_engine(engine: str, source: str) -> Contender:
    count = {"jax": "folded", "torch": "features"}[source]
    return Contender("jax", _call("engines", "forward", engine, source), source, engine, multiply_adds=count)


_torch = partial(Contender, "torch", multiply_adds="features")

CONTENDERS: dict[str, Contender] = {
    "torch forward": _torch(_call("theirs", "forward")),
    "torch.compile forward": _torch(_call("theirs", "forward", compiled=True)),
    "jax forward": Contender("jax", _call("ours", "base_forward")),
    "jax forward, folded": Contender("jax", _call("ours", "base_forward", folded=True), multiply_adds="folded"),
    "onnxruntime, torch's graph": _in_engine("onnxruntime", "torch"),
    "openvino, torch's graph": _in_engine("openvino", "torch"),
    "onnxruntime, jax's graph": _in_engine("onnxruntime", "jax"),
    "openvino, jax's graph": _in_engine("openvino", "jax"),
    "torch training step": _torch(_call("theirs", "training_step"), training=True),
    "jax training step": Contender("jax", _call("ours", "base_training_step"), training=True),
    MATRIX_PRODUCT: Contender("jax", _call("ours", "matrix_product")),
}
"""Maps each name to its contender."""
