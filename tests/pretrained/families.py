"""Tensors of image models under the names of several families, made from one plain model."""

import re
from pathlib import Path
from typing import Any

import numpy as np

import timesformer_jax as tsf
from tests.pretrained.files import write_safetensors
from timesformer_jax.pretrained.read_source import read_contents

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


GAMMAS = without_position(P) | scales("gamma_1", "gamma_2")


DISTILLED = plain(17) | {"dist_token": draw(1, 1, DIM), "head_dist.weight": draw(5, DIM), "head_dist.bias": draw(5)}
