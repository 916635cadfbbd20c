"""Variants of the plain image model that are read as the equivalent plain file."""

from pathlib import Path

import numpy as np
import pytest

import timesformer_jax as tsf
from tests.pretrained.families import (
    BARE,
    DIM,
    P,
    Tensors,
    assert_same,
    dinov2,
    dinov2_in_memory,
    draw,
    folded,
    load,
    no_key_bias,
    no_qkv_bias,
    parameters,
    plain,
    prefixed,
    scales,
    torchvision,
    vit,
    without,
    without_position,
    zero_position,
)
from tests.pretrained.files import write_folder
from timesformer_jax.pretrained import check_weights, read_architecture
from timesformer_jax.pretrained.read_source import read_contents
from timesformer_jax.pretrained.tensor_names import collapse_blocks

MAE = {"mask_token": draw(1, 1, 8), "decoder_pos_embed": draw(1, 17, 8), "decoder_blocks.0.attn.qkv.weight": draw(24, 8)}


DECODER = {"decoder.mask_token": draw(1, 1, 8), "decoder.decoder_encoder.layer.0.output.dense.bias": draw(8)}


EXACT: dict[str, tuple[Tensors, Tensors]] = {
    "LayerScale": (P | scales(), folded(P)),
    "LayerScale under a prefix": (prefixed(P | scales(), "module.model.backbone."), folded(P)),
    "a CLS without a position": (without_position(P), zero_position(P)),
    "DeiT III": (without_position(P) | scales(), zero_position(folded(P))),
    "no qkv bias": (without(P, r".*qkv\.bias"), no_qkv_bias(P)),
    "MAE": (BARE | MAE, BARE),
    "torchvision": (torchvision(P), P),
    "torchvision's published names": (torchvision(P, ("linear_1", "linear_2")), P),
    "Hugging Face DINOv2": (dinov2(BARE), folded(BARE)),
    "Hugging Face DINOv2 in memory": (dinov2_in_memory(BARE), folded(BARE)),
    "Hugging Face ViTMAE": (vit(BARE) | DECODER, BARE),
    "Hugging Face ViT without a key's bias": (without(vit(BARE), r".*key\.bias"), no_key_bias(BARE)),
    "Hugging Face ViT by another name": (vit(BARE, "deit."), BARE),
}


@pytest.mark.parametrize("name", EXACT)
def test_family_weights_equal_the_plain_file(name: str, tmp_path: Path):
    given, same = EXACT[name]
    assert_same(parameters(tmp_path / "given", given), parameters(tmp_path / "same", same))
    contents = read_contents(tmp_path / "given", None, 3, numbers=False)
    assert (len(contents.folded) == 8) == any("gamma" in path or "lambda" in path for path in given)
    assert not contents.unknown


def test_report_lists_folded_and_zero_parameters(tmp_path: Path):
    """However the file is read: for a model of any number of classes, and by shapes alone."""
    tensors = without(EXACT["DeiT III"][0], r".*qkv\.bias")
    report = load(tmp_path / "a", tensors).report
    assert (
        report.format == "a timm or DeiT image transformer with LayerScale (blocks.{0..1}.ls1.gamma, blocks.{0..1}.ls2.gamma)"
    )
    assert report.folded.keys() == {
        f"blocks_{i}/{layer}/{kind}" for i in (0, 1) for layer in ("attn/proj", "mlp/fc2") for kind in ("kernel", "bias")
    }
    assert "  folded       blocks_0/attn/proj/kernel" in str(report)
    assert "blocks_1/attn/qkv/bias" in report.initialised
    assert any("position of zero" in note for note in report.notes)
    architecture = read_architecture(tmp_path / "a", num_heads=3)
    check_weights(tmp_path / "a", model=tsf.TimeSformer(**{**architecture.fields, "num_classes": 2, "num_frames": 3}))


def test_half_precision_is_folded_in_float32(tmp_path: Path):
    half = {name: tensor.astype(np.float16) for name, tensor in (P | scales()).items()}
    given = parameters(tmp_path / "a", half)
    kernel = half["blocks.0.mlp.fc2.weight"].astype(np.float32).T * half["blocks.0.ls2.gamma"].astype(np.float32)
    np.testing.assert_array_equal(given["blocks_0/mlp/fc2/kernel"], kernel)


@pytest.mark.parametrize("missing", ["ls1", "ls[12]"])
def test_layer_scale_may_be_in_some_blocks(missing: str, tmp_path: Path):
    tensors = without(P | scales(), rf"blocks\.1\.{missing}\.gamma")
    with pytest.raises(tsf.InputError, match=r"blocks_1/attn/proj/gamma: no LayerScale in the file"):
        load(tmp_path / "a", tensors)


def test_layer_scale_of_another_size_is_rejected(tmp_path: Path):
    with pytest.raises(tsf.InputError, match=r"blocks_1/mlp/fc2/gamma: expected \(24,\), got \(3,\)"):
        load(tmp_path / "a", P | scales() | {"blocks.1.ls2.gamma": draw(3)})


def test_bias_missing_in_one_block_is_rejected(tmp_path: Path):
    with pytest.raises(tsf.InputError, match=r"blocks_1/attn/qkv/bias .*: not in the file"):
        load(tmp_path / "a", without(P, r"blocks\.1\.attn\.qkv\.bias"))
    with pytest.raises(tsf.InputError, match="query, key and value don't match"):
        load(tmp_path / "b", without(vit(BARE), r".*\.1\..*key\.bias"), num_classes=2)


def test_clip_of_timm_is_read(tmp_path: Path):
    tensors = without(BARE, r"patch_embed\.proj\.bias") | {"norm_pre.weight": draw(DIM), "norm_pre.bias": draw(DIM, seed=1)}
    loaded = load(tmp_path / "a", tensors, num_classes=2)
    assert (loaded.model.pre_norm, loaded.model.layer_norm_epsilon) == (True, 1e-5)
    np.testing.assert_array_equal(loaded.params["norm_pre"]["scale"], tensors["norm_pre.weight"])
    assert not loaded.params["patch_embed"]["proj"]["bias"].any()


def test_ambiguous_position_grids_are_assumed_or_rejected(tmp_path: Path):
    """225 rows are 15 x 15 without the CLS and 14 x 16 with it; 16 x 16 can only mean another size."""
    tensors = plain(224)
    assert load(tmp_path / "a", tensors).model.image_size == 60
    with pytest.raises(tsf.InputError, match=r"15 x 15 patches without the CLS, or .* 14 x 16 patches and the CLS"):
        load(tmp_path / "a", tensors, image_size=(56, 64))
    assert any(
        "assumed to be those of 60 x 60" in note for note in read_contents(tmp_path / "a", None, 3, image_size=(36, 100)).notes
    )
    resized = load(tmp_path / "a", tensors, image_size=64)
    assert resized.report.resized == {"pos_embed": ((1, 226, DIM), (1, 257, DIM))}
    with pytest.raises(tsf.InputError, match=r"5 x 5 patches and the CLS, or .* 2 x 13 patches without the CLS"):
        load(tmp_path / "b", plain(25), image_size=(8, 52))


@pytest.mark.parametrize("rows", [6, 7])
def test_non_square_positions_need_a_size(rows: int, tmp_path: Path):
    """Read by the given size, with or without the CLS's position."""
    tensors = plain(rows - 1)
    with pytest.raises(tsf.InputError, match="don't form a square: give image_size="):
        load(tmp_path / "a", tensors)
    with pytest.raises(tsf.InputError, match=r"don't form a square: .* image_size=\(8, 16\) doesn't fit them"):
        load(tmp_path / "a", tensors, image_size=(8, 16))
    loaded = load(tmp_path / "a", tensors, image_size=(8, 12))
    expected = np.pad(tensors["pos_embed"], ((0, 0), (7 - rows, 0), (0, 0)))
    np.testing.assert_array_equal(loaded.params["pos_embed"], expected)
    assert any("position of zero" in note for note in loaded.report.notes) == (rows == 6)


def test_config_determines_the_grid(tmp_path: Path):
    """The grid has two sides, though its 16 positions could also be a square."""
    config = {"hidden_size": DIM, "num_attention_heads": 3, "image_size": [8, 32], "patch_size": 4}
    loaded = tsf.load(write_folder(tmp_path / "a", vit(BARE), config), num_classes=2)
    assert (loaded.model.image_size, loaded.model.grid) == ((8, 32), (2, 8))
    assert not loaded.report.resized


def test_collapse_blocks_shortens_names():
    names = [*(f"blocks.{i}.x" for i in (0, 1, 2, 5)), "blocks.3.y", "z", "layers.1.layers.7"]
    assert collapse_blocks(names) == ["blocks.{0..2,5}.x", "blocks.3.y", "z", "layers.1.layers.7"]
