"""ONNX files: their logits in onnxruntime and OpenVINO, what they contain, and models that can't be exported."""

import dataclasses
import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest

import timesformer_jax as tsf
from tests.support import random_variables
from timesformer_jax.pretrained import onnx as exporting
from timesformer_jax.pretrained import save_onnx

LABELS = ("a", "b", "ü")


def tiny(**fields: Any) -> tsf.Pretrained:
    """A small model without zeros, whose rows and columns of patches differ and are odd: local_global pads them."""
    sizes = {"image_size": (24, 40), "patch_size": 8, "num_frames": 3, "embed_dim": 24, "depth": 2, "num_heads": 3}
    model = tsf.TimeSformer(**{"num_classes": 3, **sizes, **fields})
    preprocess = tsf.Preprocess(num_frames=model.num_frames, crop_size=24, channel_order="bgr")
    return tsf.Pretrained(model, random_variables(model)["params"], preprocess, LABELS, objective="sigmoid")


def clips(pretrained: tsf.Pretrained, number: int) -> np.ndarray:
    model = pretrained.model
    height, width = model.image_size if isinstance(model.image_size, tuple) else (model.image_size,) * 2
    shape = (number, model.num_frames, height, width, 3)
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


Run = Callable[[np.ndarray], np.ndarray]


def in_onnxruntime(path: Path) -> Run:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda video: session.run(["logits"], {"video": video})[0]


def in_openvino(path: Path) -> Run:
    openvino = pytest.importorskip("openvino", reason="OpenVINO has no wheels for this platform")
    compiled = openvino.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda video: compiled({"video": video})["logits"]


def check_logits(pretrained: tsf.Pretrained, path: Path, *engines: Callable[[Path], Run]) -> None:
    """Compare the logits of one clip and of three. As in the export, so that JAX compiles only once."""
    video = clips(pretrained, 3)
    expected = exporting._reference(pretrained, video)
    for engine in engines:
        run = engine(path)
        for number in (1, 3):
            np.testing.assert_allclose(run(video[:number]), expected[:number], atol=1e-4, err_msg=engine.__name__)


@pytest.mark.slow_cases("axial")
@pytest.mark.parametrize("attention_type", list(tsf.SCHEMES))
def test_logits_of_every_scheme_and_batch_size(attention_type: str, tmp_path: Path):
    pretrained = tiny(attention_type=attention_type)
    save_onnx(pretrained, tmp_path / "model.onnx")
    check_logits(pretrained, tmp_path / "model.onnx", in_onnxruntime, in_openvino)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        {"activation": "gelu_tanh", "pre_norm": True, "attention_order": "parallel"},
        {"activation": "quick_gelu", "temporal_cls_key": True, "attention_order": "space_then_time"},
        {"position_embedding": "none", "attention_type": "joint_space_time", "attention_implementation": "chunked"},
        {"scan_layers": True, "remat": "full", "dropout_rate": 0.1, "drop_path_rate": 0.1, "num_channels": 3},
    ],
    ids=lambda fields: "-".join(fields),
)
def test_logits_of_every_option(fields: dict[str, Any], tmp_path: Path):
    pretrained = tiny(**fields)
    save_onnx(pretrained, tmp_path / "model.onnx")
    check_logits(pretrained, tmp_path / "model.onnx", in_onnxruntime, in_openvino)


@pytest.mark.slow
def test_logits_of_base_at_full_size(tmp_path: Path):
    model = tsf.create("timesformer-base", num_classes=400)
    pretrained = tsf.Pretrained(model, random_variables(model)["params"], tsf.Preprocess(num_frames=8, crop_size=224))
    save_onnx(pretrained, tmp_path / "model.onnx")
    check_logits(pretrained, tmp_path / "model.onnx", in_onnxruntime, in_openvino)


def test_file_names_labels_preprocessing_and_only_operators_of_onnx(tmp_path: Path):
    pretrained = tiny(depth=1)
    save_onnx(pretrained, tmp_path / "model.onnx")
    content = onnx.load(tmp_path / "model.onnx")
    notes = {entry.key: json.loads(entry.value) for entry in content.metadata_props}
    assert (notes["labels"], notes["objective"], notes["model"]["embed_dim"]) == (list(LABELS), "sigmoid", 24)
    assert tsf.Preprocess.from_dict(notes["preprocess"]) == pretrained.preprocess
    assert [(entry.domain, entry.version) for entry in content.opset_import] == [("", exporting.OPSET)]
    assert {node.domain for node in content.graph.node} == {""}
    operators = {node.op_type for node in content.graph.node}
    assert not operators & {"Einsum", "Dropout", "Pad"}
    if importlib.metadata.version("jax2onnx").startswith("0.13."):  # the tested version; 0.17 writes the parts of a LayerNorm
        assert "LayerNormalization" in operators
        assert not operators & {"ReduceSumSquare", "Sqrt"}
    # Folded, with nothing stored twice.
    stored = sum(np.prod(tensor.dims) for tensor in content.graph.initializer)
    folded = sum(leaf.size for leaf in jax.tree.leaves(tsf.fold_for_inference(pretrained.params)))
    assert folded <= stored < 1.02 * folded


def test_large_parameters_are_written_next_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(exporting, "LARGEST", 10_000)
    pretrained = tiny(depth=1)
    save_onnx(pretrained, tmp_path / "model.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    assert (tmp_path / "model.onnx").stat().st_size < (tmp_path / "model.onnx.data").stat().st_size
    check_logits(pretrained, tmp_path / "model.onnx", in_onnxruntime)
    (tmp_path / "model.onnx").unlink()
    with pytest.raises(tsf.InputError, match=r"model\.onnx\.data exists"):
        save_onnx(pretrained, tmp_path / "model.onnx")
    save_onnx(pretrained, tmp_path / "model.onnx", overwrite=True)


def test_file_with_other_logits_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pretrained = tiny(depth=1)
    (tmp_path / "model.onnx").write_text("an earlier file")
    reference = exporting._reference
    for error in (1e-3, np.nan):
        monkeypatch.setattr(exporting, "_reference", lambda *arguments, error=error: reference(*arguments) + error)
        with pytest.raises(tsf.InputError, match=r"The ONNX file was not written: its logits in onnxruntime differ by"):
            save_onnx(pretrained, tmp_path / "model.onnx", overwrite=True)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["an earlier file"]


def test_models_that_cannot_be_exported_are_refused(tmp_path: Path):
    refused = [
        (tiny(dtype=jnp.bfloat16), r"^A model with dtype=bfloat16 can't be exported to ONNX, .*: load it with dtype=float32"),
        (dataclasses.replace(tiny(num_classes=0), labels=None), r"^A model with num_classes=0 can't be exported"),
    ]
    folded = tiny()
    folded = dataclasses.replace(folded, params=tsf.fold_for_inference(folded.params))
    for pretrained, message in [*refused, (folded, "If they were folded for inference")]:
        with pytest.raises(tsf.InputError, match=message):
            save_onnx(pretrained, tmp_path / "model.onnx")
    assert not any(tmp_path.iterdir())
