"""Variants of the plain image model that are refused by their features, or read only in part."""

import re
from pathlib import Path

import numpy as np
import pytest

import timesformer_jax as tsf
from tests.pretrained.families import (
    BARE,
    DIM,
    DISTILLED,
    GAMMAS,
    P,
    Tensors,
    assert_same,
    dinov2,
    draw,
    folded,
    load,
    parameters,
    plain,
    prefixed,
    scales,
    vit,
    without,
    without_position,
    zero_position,
)
from timesformer_jax.modeling import flatten_params
from timesformer_jax.pretrained.model_families import FAMILIES, REFUSED
from timesformer_jax.pretrained.weight_formats import FORMATS

OTHER_HEADS = {
    "the mean of the patches": {"fc_norm.weight": draw(DIM), "fc_norm.bias": draw(DIM, seed=1)},
    "another layer after the CLS": {"pre_logits.fc.weight": draw(DIM, DIM), "pre_logits.fc.bias": draw(DIM)},
    "another task, or": {"classifier.weight": draw(5, DIM), "head_dist.bias": draw(5)},
    "another task": {"head.mlp.0.weight": draw(8, DIM), "head.last_layer.weight_g": draw(8, 1)},
}


@pytest.mark.parametrize("reads", OTHER_HEADS)
def test_classifier_of_another_vector_is_never_kept(reads: str, tmp_path: Path):
    """Not even if the number of classes is equal."""
    tensors = (without(P, r"norm\..*") if "fc_norm.bias" in OTHER_HEADS[reads] else P) | OTHER_HEADS[reads]
    with pytest.raises(tsf.InputError, match=rf"a classifier of {reads}.*: give the number of classes, num_classes="):
        load(tmp_path / "a", tensors)
    loaded = load(tmp_path / "a", tensors, num_classes=5)
    assert {"head/kernel", "head/bias"} <= loaded.report.initialised.keys()
    assert "head.weight" in loaded.report.ignored
    if "fc_norm.bias" in tensors:
        np.testing.assert_array_equal(loaded.params["norm"]["bias"], tensors["fc_norm.bias"])


def test_dinov2_classifier_reads_patches(tmp_path: Path):
    tensors = dinov2(BARE) | {"classifier.weight": draw(5, 2 * DIM), "classifier.bias": draw(5)}
    with pytest.raises(tsf.InputError, match=r"a classifier of the CLS and the mean of the patches \(classifier\."):
        load(tmp_path / "a", tensors)
    assert_same(parameters(tmp_path / "a", tensors), parameters(tmp_path / "b", dinov2(BARE)))


@pytest.mark.parametrize("prefix", ["", "model."])
def test_lossy_families_need_allow(prefix: str, tmp_path: Path):
    scaled, distilled = prefixed(GAMMAS, prefix), prefixed(DISTILLED, prefix)
    with pytest.raises(tsf.InputError, match=r"rotary .*blocks\.\{0\.\.1\}\.gamma_1.* With allow='\.\*gamma_\[12\]'"):
        load(tmp_path / "a", scaled)
    given = parameters(tmp_path / "a", scaled, allow=[r".*gamma_[12]"])
    assert_same(given, parameters(tmp_path / "b", zero_position(folded(P))))
    with pytest.raises(tsf.InputError, match=r"a distillation token.*\(dist_token\)\. With allow='\.\*dist_token'"):
        load(tmp_path / "c", distilled)
    loaded = load(tmp_path / "c", distilled, allow=".*dist_token")
    positions = np.delete(DISTILLED["pos_embed"], 1, axis=1)
    expected = parameters(tmp_path / "d", without(DISTILLED, r".*dist.*") | {"pos_embed": positions})
    for path in expected:
        np.testing.assert_array_equal(flatten_params(loaded.params)[path], expected[path])
    assert any("not equal" in note for note in loaded.report.notes)


B = "blocks.0."


REFUSALS: dict[str, Tensors] = {
    "tubelets": BARE | {"patch_embed.proj.weight": draw(DIM, 3, 2, 4, 4)},
    "detection tokens": vit(BARE) | {"vit.embeddings.detection_tokens": draw(1, 3, DIM)},
    "relative position biases": P | {B + "attn.relative_position_bias_table": draw(9, 3)},
    r"relative position biases .*rel_pos_h": without(BARE, "cls_token") | {B + "attn.rel_pos_h": draw(7, 8)},
    r"rotary positions \(rope": P | {"rope.freqs": draw(2, 3)},
    "rotary positions instead": without(BARE, "pos_embed") | {"reg_token": draw(1, 4, DIM)},
    "no position embedding, which suggests rotary": without(BARE, "pos_embed"),
    r"register tokens, .*\(reg_token": without_position(P) | scales() | {"reg_token": draw(1, 4, DIM)},
    r"register tokens, .*register_tokens": dinov2(BARE) | {"dinov2.embeddings.register_tokens": draw(1, 4, DIM)},
    "EVA's attention, whose rotary": without(P, r".*qkv\.bias") | {f"{B}attn.{n}_bias": draw(DIM) for n in "qv"},
    r"SwiGLU\) \(": without(BARE, r".*mlp.*") | {B + "mlp.w12.weight": draw(48, DIM), B + "mlp.w3.weight": draw(DIM, DIM)},
    "SwiGLU.*twice": P | {f"blocks.{i}.mlp.fc2.weight": draw(DIM, 2 * DIM) for i in range(2)},
    "attention pooling": BARE | {"attn_pool.latent": draw(1, 1, DIM)},
    r"attention pooling.*head\.probe": {"vision_model.head.probe": draw(1, 1, DIM), "vision_model.x": draw(2)},
    "no class token": without(BARE, "cls_token"),
    r"no class token ": without(vit(BARE, "ijepa."), r".*cls_token"),
    "no LayerNorm after": without(BARE, r"norm\..*"),
    "normalised queries": P | {B + "attn.q_norm.weight": draw(8)},
    "a convolutional network": without(BARE, r"patch_embed.*") | {"patch_embed.backbone.conv.weight": draw(2, 3)},
    "LayerScale under the same names": GAMMAS,
    "a distillation token": DISTILLED,
}


@pytest.mark.parametrize("words", REFUSALS)
def test_refusals_name_the_feature_and_the_nearest_model(words: str, tmp_path: Path):
    """In one short sentence, before the classes or the size matter, and for any prefix."""
    hard = words not in ("LayerScale under the same names", "a distillation token")
    for prefix in ("", "model."):
        with pytest.raises(tsf.InputError, match=words) as caught:
            load(tmp_path / "a", prefixed(REFUSALS[words], prefix), **({"allow": ".*"} if hard else {}))
        assert re.search("The nearest model that (can be loaded|is exact): ", str(caught.value))
        assert len(str(caught.value)) < 700
        assert not re.search("num_classes=|image_size=", str(caught.value))


def test_every_refused_family_is_rejected():
    """Each row is triggered by one of the files above; otherwise it would be dead."""
    features = [refused.feature for refused in REFUSED]
    for refused in REFUSED:
        assert any(re.search(words.split(",")[0].split(r" \(")[0], refused.feature) for words in REFUSALS), refused.models
    assert len(set(features)) == len(features)
    assert {name for family in FAMILIES for name in family.formats} == {
        name for name, format in FORMATS.items() if format.image
    }


def test_unknown_tensors_are_named_first(tmp_path: Path):
    """Tensors that all blocks have are named once."""
    strange = {f"blocks.{i}.strange.weight": draw(3) for i in range(12)}
    tensors = plain(17, depth=12, head=False) | strange
    with pytest.raises(tsf.InputError, match=r"blocks\.\{0\.\.11\}\.strange\.weight \(3,\): no place") as caught:
        load(tmp_path / "a", tensors)
    assert not re.search("num_classes=|image_size=", str(caught.value))
    with pytest.raises(tsf.InputError, match="give the number of classes"):
        load(tmp_path / "a", tensors, allow=r".*strange\.weight")
    nothing = {f"stages.{i}.thing.{j}": draw(2) for i in range(20) for j in range(20)}
    with pytest.raises(tsf.InputError, match=r"Known formats: .*big_vision \.npz\.$") as caught:
        load(tmp_path / "b", nothing)
    assert len(str(caught.value)) < 1500
