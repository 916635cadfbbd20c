"""Engines that run the models' ONNX files on a CPU."""

import itertools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import timesformer_jax as tsf
from benchmarks.contenders.ours import base
from benchmarks.contenders.sizes import FRAMES, GRAPHS, SIZE
from benchmarks.contenders.turns import Runs
from timesformer_jax.pretrained import save_onnx


def forward(engine: str, source: str, batch_size: int) -> Runs:
    """Return the forward pass of a framework's exported file in an engine."""
    run, shape = ENGINES[engine](Path(os.environ[GRAPHS]) / f"{source}.onnx")
    draw = np.random.default_rng(0)
    videos = itertools.cycle([draw.normal(size=(batch_size, *shape[1:])).astype(np.float32) for _ in range(3)])
    return {"": lambda: run(next(videos))}


def export(path: Path) -> None:
    """Write our base, with random weights, as an ONNX file, as `timesformer convert` does."""
    model, variables = base()
    save_onnx(tsf.Pretrained(model, variables["params"], tsf.Preprocess(num_frames=FRAMES, crop_size=SIZE)), path)


def _onnxruntime(path: Path) -> tuple[Callable[[Any], Any], Any]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (video,) = session.get_inputs()
    return lambda clips: session.run(None, {video.name: clips}), video.shape


def _openvino(path: Path) -> tuple[Callable[[Any], Any], Any]:
    sys.modules["openvino_telemetry"] = None  # it sends usage statistics  # pyright: ignore[reportArgumentType]
    import openvino

    compiled = openvino.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    shape = compiled.input(0).partial_shape
    return compiled, [None, *(shape[axis].get_length() for axis in range(1, len(shape)))]


ENGINES = {"onnxruntime": _onnxruntime, "openvino": _openvino}
"""Maps each engine to a function that returns how to run a file, and the shape of its clips."""
