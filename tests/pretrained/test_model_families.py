"""Variants of the plain image model: read as the equivalent plain file, or refused by their features."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import timesformer_jax as tsf
from tests.pretrained.files import write_folder, write_safetensors
from timesformer_jax.modeling import flatten_params
from timesformer_jax.pretrained import check_weights, read_architecture
from timesformer_jax.pretrained.model_families import FAMILIES, REFUSED
from timesformer_jax.pretrained.read_source import read_contents
from timesformer_jax.pretrained.tensor_names import collapse_blocks
from timesformer_jax.pretrained.weight_formats import FORMATS

DIM = 24
Tensors = dict[str, np.ndarray]


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


def plain(patches: int = 16, depth: int = 2, *, head: bool = True) -> Tensors:
    """An image transformer under timm's names, with distinct tensors."""
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, DIM),
        "pos_embed": (1, 1 + patches, DIM),
        "patch_embed.proj.weight": (DIM, 3, 4, 4),
        "patch_embed.proj.bias": (DIM,),
    }
    layers = {"attn.qkv": (3 * DIM, DIM), "attn.proj": (DIM, DIM), "mlp.fc1": (4 * DIM, DIM), "mlp.fc2": (DIM, 4 * DIM)}
    layers |= {"norm1": (DIM,), "norm2": (DIM,)}
    for i in range(depth):
        for name, shape in layers.items():
            shapes |= {f"blocks.{i}.{name}.weight": shape, f"blocks.{i}.{name}.bias": shape[:1]}
    shapes |= {"norm.weight": (DIM,), "norm.bias": (DIM,)}
    if head:
        shapes |= {"head.weight": (5, DIM), "head.bias": (5,)}
    return {name: draw(*shape, seed=seed) for seed, (name, shape) in enumerate(shapes.items())}


def scales(first: str = "ls1.gamma", second: str = "ls2.gamma", depth: int = 2) -> Tensors:
    return {
        f"blocks.{i}.{name}": draw(DIM, seed=100 + 2 * i + k) for i in range(depth) for k, name in enumerate((first, second))
    }


def folded(tensors: Tensors) -> Tensors:
    """The equivalent plain model, in PyTorch's layouts."""
    tensors = dict(tensors)
    for i in range(2):
        for layer, scale in (("attn.proj", "ls1.gamma"), ("mlp.fc2", "ls2.gamma")):
            gamma = scales()[f"blocks.{i}.{scale}"]
            tensors[f"blocks.{i}.{layer}.weight"] = gamma[:, None] * tensors[f"blocks.{i}.{layer}.weight"]
            tensors[f"blocks.{i}.{layer}.bias"] = gamma * tensors[f"blocks.{i}.{layer}.bias"]
    return tensors


def without_position(tensors: Tensors) -> Tensors:
    return tensors | {"pos_embed": tensors["pos_embed"][:, 1:]}


def zero_position(tensors: Tensors) -> Tensors:
    positions = tensors["pos_embed"].copy()
    positions[:, 0] = 0
    return tensors | {"pos_embed": positions}


def without(tensors: Tensors, pattern: str) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if not re.fullmatch(pattern, name)}


def no_qkv_bias(tensors: Tensors) -> Tensors:
    return {name: np.zeros_like(value) if name.endswith("qkv.bias") else value for name, value in tensors.items()}


def no_key_bias(tensors: Tensors) -> Tensors:
    keep = np.repeat([1, 0, 1], DIM).astype(np.float32)
    return {name: value * keep if name.endswith("qkv.bias") else value for name, value in tensors.items()}


def huggingface(tensors: Tensors, start: str, layer: str, names: dict[str, str]) -> Tensors:
    """The same under transformers' names, with three layers in place of the packed one."""
    out = {
        f"{start}embeddings.cls_token": tensors["cls_token"],
        f"{start}embeddings.position_embeddings": tensors["pos_embed"],
    }
    for kind in ("weight", "bias"):
        out[f"{start}embeddings.patch_embeddings.projection.{kind}"] = tensors[f"patch_embed.proj.{kind}"]
        out[f"{start}layernorm.{kind}"] = tensors[f"norm.{kind}"]
        for i in range(2):
            block = f"{start}{layer}.{i}."
            for ours, theirs in names.items():
                out[f"{block}{theirs}.{kind}"] = tensors[f"blocks.{i}.{ours}.{kind}"]
            parts = np.split(tensors[f"blocks.{i}.attn.qkv.{kind}"], 3)
            for name, part in zip(("query", "key", "value"), parts, strict=True):
                out[f"{block}attention.attention.{name}.{kind}"] = part
    return out


def dinov2(tensors: Tensors, start: str = "dinov2.") -> Tensors:
    names = {name: name for name in ("norm1", "norm2", "mlp.fc1", "mlp.fc2")} | {"attn.proj": "attention.output.dense"}
    out = huggingface(tensors, start, "encoder.layer", names) | {f"{start}embeddings.mask_token": draw(1, DIM)}
    for i in range(2):
        for k in (1, 2):
            out[f"{start}encoder.layer.{i}.layer_scale{k}.lambda1"] = scales()[f"blocks.{i}.ls{k}.gamma"]
    return out


def dinov2_in_memory(tensors: Tensors) -> Tensors:
    out = {}
    for name, tensor in dinov2(tensors, "").items():
        for old, new in (("attention.query", "q_proj"), ("attention.key", "k_proj"), ("attention.value", "v_proj")):
            name = name.replace(old, new)
        out[name.replace("attention.output.dense", "attention.o_proj")] = tensor
    return out


def vit(tensors: Tensors, start: str = "vit.") -> Tensors:
    names = {"norm1": "layernorm_before", "norm2": "layernorm_after", "attn.proj": "attention.output.dense"}
    names |= {"mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense"}
    return huggingface(tensors, start, "encoder.layer", names)


def torchvision(tensors: Tensors, mlp: tuple[str, str] = ("0", "3")) -> Tensors:
    names = {
        r"^blocks\.(\d+)\.": r"encoder.layers.encoder_layer_\1.",
        r"attn\.qkv\.": "self_attention.in_proj_",
        r"attn\.proj": "self_attention.out_proj",
        r"mlp\.fc1": f"mlp.{mlp[0]}",
        r"mlp\.fc2": f"mlp.{mlp[1]}",
        r"\.norm(\d)": r".ln_\1",
        r"^norm\.": "encoder.ln.",
        r"^patch_embed\.proj": "conv_proj",
        "^cls_token": "class_token",
        "^pos_embed": "encoder.pos_embedding",
        r"^head\.": "heads.head.",
    }
    out = {}
    for name, tensor in tensors.items():
        for old, new in names.items():
            name = re.sub(old, new, name)
        out[name] = tensor
    return out


def prefixed(tensors: Tensors, prefix: str) -> Tensors:
    return {prefix + name: tensor for name, tensor in tensors.items()}


P, BARE = plain(), plain(head=False)
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


def load(path: Path, tensors: Tensors, **options: Any) -> tsf.Pretrained:
    return tsf.load(write_safetensors(path, tensors), num_heads=3, **options)


def parameters(path: Path, tensors: Tensors, **options: Any) -> dict[str, np.ndarray]:
    """Arrays that `load` makes of a model, by path in this project."""
    contents = read_contents(write_safetensors(path, tensors), None, 3, **options)
    assert not contents.problems
    biases = {name: np.zeros((3, 3, DIM // 3), np.float32) for name in contents.zeros if name.endswith("attn/qkv/bias")}
    return {**contents.given, **biases}


def assert_same(ours: dict[str, np.ndarray], expected: dict[str, np.ndarray]):
    assert ours.keys() == expected.keys()
    for path, array in expected.items():
        np.testing.assert_allclose(ours[path], array, rtol=1e-6, err_msg=path)


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


GAMMAS = without_position(P) | scales("gamma_1", "gamma_2")
DISTILLED = plain(17) | {"dist_token": draw(1, 1, DIM), "head_dist.weight": draw(5, DIM), "head_dist.bias": draw(5)}


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


def test_collapse_blocks_shortens_names():
    names = [*(f"blocks.{i}.x" for i in (0, 1, 2, 5)), "blocks.3.y", "z", "layers.1.layers.7"]
    assert collapse_blocks(names) == ["blocks.{0..2,5}.x", "blocks.3.y", "z", "layers.1.layers.7"]
