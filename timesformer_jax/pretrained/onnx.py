"""Export of a model to an ONNX file, for programs without JAX."""

import contextlib
import dataclasses
import json
import logging
import re
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from timesformer_jax._typing import Float
from timesformer_jax.errors import InputError
from timesformer_jax.extras import needs
from timesformer_jax.modeling import TimeSformer, fold_for_inference, unstack_blocks
from timesformer_jax.modeling.checks import pair
from timesformer_jax.modeling.layers import Fork, LayerNorm
from timesformer_jax.pretrained.file_notes import notes_for
from timesformer_jax.pretrained.pretrained import Pretrained
from timesformer_jax.version import VERSION

LARGEST = 2_000_000_000
"""Maximum size in bytes of parameters inside the file itself, since a protobuf message is limited to 2 GiB."""

OPSET = 20
"""Version of ONNX's operators: the oldest that has `Gelu`, which the exporter writes for `gelu_tanh`."""

TOLERANCE = 1e-4
"""Maximum difference of the file's logits, relative to the largest logit, or absolute if that is below 1."""

VIDEO, LOGITS = "video", "logits"
"""Names of the graph's input and output."""


def check_exportable(model: TimeSformer) -> None:
    """Raise `InputError` if a file can't hold the model."""
    if not isinstance(model, TimeSformer):
        raise InputError(f"Only a TimeSformer can be exported to ONNX, not {type(model).__name__}.")
    if not model.num_classes:
        raise InputError("A model with num_classes=0 can't be exported to ONNX: the file returns logits, and it has none.")
    if jnp.dtype(model.dtype) != jnp.float32:
        raise InputError(
            f"A model with dtype={jnp.dtype(model.dtype).name} can't be exported to ONNX, since the file computes in float32: "
            "load it with dtype=float32, and let the engine that runs the file lower the precision."
        )


def is_large(pretrained: Pretrained) -> bool:
    """Return True if the parameters need a second file."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(pretrained.params)) > LARGEST


def write_onnx(pretrained: Pretrained, path: Path, data: str | None) -> float:
    """Write a model as an ONNX file, and check it.

    The input `video` is float32 `[batch, T, H, W, C]`, normalized, with the T, H and W of the model and any batch size. The
    output `logits` is float32 `[batch, num_classes]`. The file's metadata hold the labels, the preprocessing, the objective
    and the model's fields, each as JSON.

    Args:
        pretrained: A model that passes `check_exportable`, with its own parameters, which are folded for inference.
        path: File to write.
        data: Name of the second file, next to `path`, for the parameters; None to write them to `path`.

    Returns:
        The largest difference between the logits of onnxruntime and the model's.

    Raises:
        InputError: If the difference exceeds `TOLERANCE`.
        MissingPackageError: If a package of the extra `onnx` is missing.
    """
    onnx = import_onnx()
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        traced = Path(folder) / "traced.onnx"
        _trace(pretrained, traced, external=data is not None)
        _fold_constants(traced, path, data)
    content = onnx.load(path, load_external_data=False)
    _describe(content, pretrained)
    onnx.save(content, path)
    onnx.checker.check_model(path, full_check=True)
    return _compare(pretrained, path)


def import_onnx() -> Any:
    """Import ONNX, and check that the exporter and onnxruntime are installed; raises `MissingPackageError`."""
    with needs("jax2onnx", "Exporting to ONNX"):
        import jax2onnx  # noqa: F401
        import onnx
        import onnxruntime  # noqa: F401
    return onnx


def _trace(pretrained: Pretrained, path: Path, *, external: bool) -> None:
    """Write the graph as the exporter makes it.

    The attention is named, because "auto" chooses by platform and may choose kernels that ONNX has no operator for.
    """
    import jax2onnx
    import onnx_ir

    model = pretrained.model.clone(attention_implementation="xla", scan_layers=False, remat="none")
    params = unstack_blocks(pretrained.params) if pretrained.model.scan_layers else pretrained.params
    variables = {"params": fold_for_inference(params)}
    shape = ("batch", *_clip_shape(pretrained.model))
    with _quiet(), nn.intercept_methods(_as_flax_layer_norm):
        graph: Any = jax2onnx.to_onnx(
            lambda video: model.apply(variables, video),
            [shape],
            model_name="TimeSformer",
            opset=OPSET,
            return_mode="ir",
            input_names=[VIDEO],
            output_names=[LOGITS],
        )
        for node in graph.graph:
            if node.op_type == "Einsum" and re.fullmatch(r"(\w*)(\w),\2(\w)->\1\3", node.attributes["equation"].as_string()):
                node.op_type = "MatMul"  # the same product, which engines quantize and fuse
                node.attributes.clear()
        onnx_ir.save(graph, path, external_data=f"{path.name}.data" if external else None)


def _as_flax_layer_norm(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
    """Compute a LayerNorm by Flax's, which the exporter writes as one operator: engines are faster than on its parts."""
    module = context.module
    if not isinstance(module, LayerNorm) or context.method_name != "__call__":
        return call(*args, **kwargs)
    (tokens,) = args
    params = {name: module.get_variable("params", name) for name in ("scale", "bias")}
    normalised: Any = nn.LayerNorm(epsilon=module.epsilon, parent=None).apply({"params": params}, tokens)
    return Fork(tokens, normalised) if kwargs.get("fork") else normalised


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter, which reports plugins for packages that aren't used here and shapes that it doesn't know."""
    loggers = [logging.getLogger(name) for name in ("jax2onnx", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _fold_constants(traced: Path, path: Path, data: str | None) -> None:
    """Precompute everything that depends on parameters alone, and drop operations without effect, by onnxruntime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC  # only operators of ONNX itself
    options.optimized_model_filepath = str(path)
    if data is not None:
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", data)
        options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
    _session(traced, options)


def _session(path: Path, options: Any) -> Any:
    import onnxruntime

    options.log_severity_level = 3  # errors
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _describe(content: Any, pretrained: Pretrained) -> None:
    """Set the metadata, and drop onnxruntime's operator sets, which the graph doesn't use."""
    operators = [entry for entry in content.opset_import if entry.domain in ("", "ai.onnx")]
    del content.opset_import[:]
    content.opset_import.extend(operators)
    content.producer_name, content.producer_version = "timesformer_jax", VERSION
    notes = notes_for(pretrained)
    entries = {**notes, "labels": [pretrained.label(number) for number in range(pretrained.model.num_classes)]}
    del entries["data"], content.metadata_props[:]
    for key, value in entries.items():
        content.metadata_props.add(key=key, value=json.dumps(value, ensure_ascii=False))


def _compare(pretrained: Pretrained, path: Path) -> float:
    """Return the largest difference of the file's logits, for one clip and for three; raise `InputError` if it is too large."""
    import onnxruntime

    session = _session(path, onnxruntime.SessionOptions())
    video = np.random.default_rng(0).normal(size=(3, *_clip_shape(pretrained.model))).astype(np.float32)
    expected = _reference(pretrained, video)
    differences = [np.abs(session.run([LOGITS], {VIDEO: video[:n]})[0] - expected[:n]).max() for n in (1, 3)]
    limit = TOLERANCE * max(1.0, float(np.abs(expected).max()))
    if not max(differences) <= limit:  # also if it is NaN
        raise InputError(
            f"The ONNX file was not written: its logits in onnxruntime differ by {max(differences):.1e} from the model's, "
            f"more than {limit:.1e}."
        )
    return float(max(differences))


def _reference(pretrained: Pretrained, video: Float[np.ndarray, "B T H W C"]) -> Float[np.ndarray, "B classes"]:
    """Compute the model's logits from the original parameters in full precision."""
    plain = dataclasses.replace(pretrained, model=pretrained.model.clone(attention_implementation="xla"))
    with jax.default_matmul_precision("highest"):
        return np.asarray(plain(video))


def _clip_shape(model: TimeSformer) -> tuple[int, int, int, int]:
    return (model.num_frames, *pair(model.image_size), model.num_channels)
