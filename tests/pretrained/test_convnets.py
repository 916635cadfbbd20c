"""Weights of I3D and SlowFast: PySlowFast's, Caffe2's and pytorchvideo's names, and hostile pickles. The models are narrow."""

import dataclasses
import io
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

import timesformer_jax as tsf
from timesformer_jax.cnn3d import ConvNet
from timesformer_jax.modeling import flatten_params, weight_shapes
from timesformer_jax.pretrained import CONVNET_FORMATS, save_pyslowfast

MODELS: dict[str, ConvNet] = {
    "i3d": tsf.I3D(num_classes=3, width=8, depths=(1, 2, 1, 1)),
    "slowfast": tsf.SlowFast(num_classes=3, width=8, depths=(1, 2, 1, 1)),
}


def published(model: ConvNet, format: str) -> dict[str, np.ndarray]:
    """Random tensors of a model, by the names and in the layouts of a format."""
    random = np.random.default_rng(0)
    several = len(model.pathways) > 1
    tensors = {}
    shapes = {path: leaf.shape for tree in weight_shapes(model).values() for path, leaf in flatten_params(tree).items()}
    for row in CONVNET_FORMATS[format].rows:
        for block in range(2 if "{i}" in row.theirs else 1):
            path = row.ours.replace("{i}", str(block))
            if path not in shapes or (format == "pytorchvideo" and "head" not in path and ("multi" in row.theirs) != several):
                continue
            if "{i}" in row.theirs and "{i}" not in row.ours and block != (model.depths[1] - 1 if "res3" in path else 0):
                continue  # Caffe2 names a fusion after the last block of its stage
            assert row.layout.write is not None
            value = random.uniform(0.5, 1.5, shapes[path]).astype(np.float32)
            tensors[row.theirs.replace("{i}", str(block))] = np.ascontiguousarray(row.layout.write(value))
    assert len(tensors) == len(shapes)
    return tensors


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("format", CONVNET_FORMATS)
def test_published_formats_are_read(format: str, name: str, tmp_path: Path):
    tensors = published(MODELS[name], format)
    if format == "caffe2":
        others = {"lr": np.float32(0.1), "model_iter": np.array([7]), "conv1_w_momentum": tensors["conv1_w"]}
        (tmp_path / "a.pkl").write_bytes(pickle.dumps({"blobs": {**tensors, **others}}, protocol=2))
        pretrained = tsf.load(tmp_path / "a.pkl")
    else:
        np.savez(tmp_path / "a.npz", **tensors)  # pyright: ignore[reportArgumentType]
        pretrained = tsf.load(tmp_path / "a.npz")
    assert pretrained.model == MODELS[name]
    assert pretrained.preprocess.as_dict()["sampling_rate"] == (8 if name == "i3d" else 2)
    assert pretrained.preprocess.crop_size == 256
    assert (pretrained.preprocess.mean, pretrained.preprocess.std) == ((0.45,) * 3, (0.225,) * 3)
    stems = {"pyslowfast": "s1.pathway0_stem.bn.running_var", "caffe2": "res_conv1_bn_riv"}
    stem = stems.get(
        format, "blocks.0.norm.running_var" if name == "i3d" else "blocks.0.multipathway_blocks.0.norm.running_var"
    )
    np.testing.assert_array_equal(pretrained.batch_stats["pathway0"]["stem"]["bn"]["var"], tensors[stem])
    assert pretrained.report is not None
    assert len(pretrained.report.loaded) == len(tensors)
    assert type(MODELS[name]).__name__ in str(pretrained.report)


@pytest.mark.parametrize(("reverse", "order"), [("true", "rgb"), ("False", "bgr"), ("", "bgr")])
def test_ssv2_channels_follow_the_switch_of_pyslowfast(reverse: str, order: str, tmp_path: Path):
    """OpenCV reads BGR frames, which PySlowFast's switch turns into RGB."""
    switch = f"  REVERSE_INPUT_CHANNEL: {reverse}\n" if reverse else ""
    pretrained = official_slowfast(tmp_path, f"DATA:\n  SAMPLING_RATE: 2\n{switch}TEST:\n  DATASET: ssv2\n")
    assert pretrained.preprocess.channel_order == order


@pytest.mark.parametrize(
    ("lines", "objective"), [("  LOSS_FUNC: bce_logit\n", "sigmoid"), ("  HEAD_ACT: softmax\n", "softmax")]
)
def test_multi_label_config_of_pyslowfast_is_read(lines: str, objective: str, tmp_path: Path):
    assert official_slowfast(tmp_path, f"MODEL:\n  NUM_CLASSES: 3\n{lines}").objective == objective


def official_slowfast(folder: Path, config: str) -> tsf.Pretrained:
    """Load a SlowFast from tensors that PySlowFast's YAML accompanies, as in its `.pyth` files."""
    tensors = {name: np.ascontiguousarray(array) for name, array in published(MODELS["slowfast"], "pyslowfast").items()}
    save_file(tensors, folder / "a.safetensors", metadata={"cfg": config})
    return tsf.load(folder / "a.safetensors")


def test_checkpoints_of_this_project_are_read(tmp_path: Path):
    np.savez(tmp_path / "a.npz", **published(MODELS["slowfast"], "pyslowfast"))  # pyright: ignore[reportArgumentType]
    first = tsf.load(tmp_path / "a.npz", labels=["a", "b", "c"], num_frames=8, image_size=32)
    (tmp_path / "checkpoints").mkdir()
    tsf.save(first, tmp_path / "checkpoints" / "7")  # as in the workdir of a run
    again = tsf.load(tmp_path)
    assert (again.model, again.labels, again.preprocess) == (first.model, first.labels, first.preprocess)
    jax.tree.map(np.testing.assert_array_equal, again.variables, first.variables)
    other = tsf.load(tmp_path, labels=["c", "b", "a"])  # the classifier's rows have other meanings
    assert not other.params["head"]["bias"].any()
    with pytest.raises(tsf.InputError, match=r"The weights are of SlowFast, and the given model is a I3D"):
        tsf.load(tmp_path, model=MODELS["i3d"])
    with pytest.raises(tsf.InputError, match=r"doesn't fit the SlowFast: fuse_res2/bn/bias: \(8,\) in the checkpoint"):
        tsf.load(tmp_path, model=first.model.clone(width=16))


def test_checkpoints_follow_the_arguments_or_refuse_them(tmp_path: Path):
    np.savez(tmp_path / "a.npz", **published(MODELS["i3d"], "pyslowfast"))  # pyright: ignore[reportArgumentType]
    tsf.save(tsf.load(tmp_path / "a.npz"), tmp_path / "own")
    longer = tsf.load(tmp_path / "own", num_frames=16)
    assert (longer.model.num_frames, longer.preprocess.num_frames, longer.preprocess.crop_size) == (16, 16, 256)
    smaller = tsf.load(tmp_path / "own", image_size=112)
    assert smaller.preprocess.crop_size == 128
    for options, words in (
        ({"num_heads": 3}, "load has no argument num_heads for it"),
        ({"prefix": "student."}, "omit prefix='student.'"),
        ({"allow": "a.*"}, "omit allow="),
    ):
        with pytest.raises(tsf.InputError, match=words):
            tsf.load(tmp_path / "own", **options)
    with pytest.raises(tsf.InputError, match=r"omit prefix='student\.'"):
        tsf.load(tmp_path / "a.npz", prefix="student.")


def test_saved_files_are_read_back_with_equal_logits(tmp_path: Path):
    np.savez(tmp_path / "a.npz", **published(MODELS["slowfast"], "pyslowfast"))  # pyright: ignore[reportArgumentType]
    first = tsf.load(tmp_path / "a.npz", labels=["a", "b", "c"], num_frames=8, image_size=32)
    save_pyslowfast(first, tmp_path / "b.safetensors")
    again = tsf.load(tmp_path / "b.safetensors")
    assert (again.model, again.labels, again.preprocess) == (first.model, first.labels, first.preprocess)
    jax.tree.map(np.testing.assert_array_equal, again.variables, first.variables)
    with pytest.raises(tsf.InputError, match=r"Hugging Face transformers can't compute a SlowFast"):
        tsf.save_huggingface(again, tmp_path / "c")
    for save in (tsf.save, save_pyslowfast):
        with pytest.raises(tsf.InputError, match=r"batch_stats/\S+/bn/mean is missing instead of \(8,\)"):
            save(dataclasses.replace(again, batch_stats=None), tmp_path / "d")


def test_new_classifier(tmp_path: Path):
    np.savez(tmp_path / "a.npz", **published(MODELS["i3d"], "pyslowfast"))  # pyright: ignore[reportArgumentType]
    pretrained = tsf.load(tmp_path / "a.npz", num_classes=7)
    assert pretrained.params["head"]["kernel"].shape == (256, 7)
    assert pretrained.report is not None
    assert set(pretrained.report.initialised) == {"head/kernel", "head/bias"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"s3.pathway0_nonlocal1.conv_g.weight": np.ones((2, 2, 1, 1, 1))}, "no place in the model.*non-local"),
        ({"s1.pathway0_stem.conv.weight": np.ones((8, 3, 1, 7, 7))}, r"\(5, 7, 7, 3, 8\)"),  # C2D's
        ({"s5.pathway0_res0.branch2.c_bn.running_var": None}, "pathway0/res5_0/c/bn/var: missing"),
        ({"s1.pathway0_stem.conv.weight": np.ones(8)}, "isn't a whole I3D or SlowFast"),
    ],
)
def test_other_models_and_damaged_files_are_rejected(change: dict[str, Any], words: str, tmp_path: Path):
    tensors = {**published(MODELS["i3d"], "pyslowfast"), **change}
    np.savez(tmp_path / "a.npz", **{name: array for name, array in tensors.items() if array is not None})
    with pytest.raises(tsf.InputError, match=words):
        tsf.load(tmp_path / "a.npz")


def test_wrong_models_and_fields_are_rejected(tmp_path: Path):
    np.savez(tmp_path / "a.npz", **published(MODELS["i3d"], "pyslowfast"))  # pyright: ignore[reportArgumentType]
    cases: list[tuple[dict[str, Any], str]] = [
        ({"attention_type": "axial"}, "I3D has no such field"),
        ({"width": 16}, "width is 8"),
        ({"model": MODELS["slowfast"]}, "weights are of I3D, and the given model is a SlowFast"),
        ({"model": tsf.create("timesformer-nano", num_classes=3)}, "the given model is a TimeSformer"),
    ]
    for options, words in cases:
        with pytest.raises(tsf.InputError, match=words):
            tsf.load(tmp_path / "a.npz", **options)


def test_arrays_pickled_by_python_2_are_read(tmp_path: Path):
    """Python 2 writes the bytes of an array as a str, which Python 3 can't."""
    tensors = published(MODELS["i3d"], "caffe2")
    data = pickle.dumps({"blobs": tensors}, protocol=2)
    bias = tensors["pred_b"]
    parts = io.BytesIO()

    def save_bytes(pickler: Any, value: bytes) -> None:
        pickler.write(b"T" + struct.pack("<i", len(value)) + value)
        pickler.memoize(value)

    pickler: Any = pickle._Pickler(parts, protocol=2)  # pyright: ignore[reportAttributeAccessIssue]
    pickler.dispatch = {**pickler.dispatch, bytes: save_bytes}
    pickler.dump({"blobs": tensors})
    assert parts.getvalue() != data
    (tmp_path / "a.pkl").write_bytes(parts.getvalue().replace(b"numpy._core", b"numpy.core"))
    np.testing.assert_array_equal(tsf.load(tmp_path / "a.pkl").params["head"]["bias"], bias)


class _Code:
    def __init__(self, call: Any, *arguments: Any) -> None:
        self.reduced = call, arguments

    def __reduce__(self) -> Any:
        return self.reduced


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (pickle.dumps({"blobs": {"x": _Code(os.system, "touch ran")}}, 2), "could run code: it holds .*system"),
        (pickle.dumps({"blobs": {"x": _Code(bytearray, 1 << 45)}}, 2), "could run code: it holds .*bytearray"),
        (pickle.dumps({"blobs": {"x": np.array([print], object)}}, 2), "could run code: it holds|broken"),
        (b"\x80\x02}U\x05blobsr\xff\xff\xff\x7f}s.", "no weights|broken"),  # an index that C's unpickler would allocate
        (pickle.dumps({"blobs": {"x": 1}}, 2), "holds no weights"),
        (pickle.dumps({"blobs": {"x": np.ones(3)}}, 2)[:-9], "broken or truncated Caffe2 file"),
        (pickle.dumps({"blobs": {"x": np.ones(3, np.float32)}}, 2), "in no known format"),
    ],
    ids=["system", "bytearray", "objects", "memo", "numbers", "truncated", "other"],
)
def test_hostile_pickles_are_rejected(content: bytes, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("a.pkl").write_bytes(content)
    with pytest.raises(tsf.InputError, match=words):
        tsf.load("a.pkl")
    assert not Path("ran").exists()


def test_large_claims_allocate_nothing(tmp_path: Path):
    """An array of a few bytes that claims to be large is broken."""
    data = pickle.dumps({"blobs": {"x": np.zeros((7,), np.float32)}}, 2)
    assert data.count(b"K\x07\x85") == 1
    (tmp_path / "a.pkl").write_bytes(data.replace(b"K\x07\x85", b"J\xff\xff\xff\x7f\x85"))
    with pytest.raises(tsf.InputError, match="broken or truncated Caffe2 file"):
        tsf.load(tmp_path / "a.pkl")
