"""Every published kind of weights: what its tensors are called, and which of our parameters they are."""

import re
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from timesformer_jax.pretrained.layouts import (
    CONVOLUTION,
    LINEAR,
    PART_BIAS,
    PART_KERNEL,
    PATCH_POSITIONS,
    POSITIONS,
    PROJ_KERNEL,
    QKV_BIAS,
    QKV_KERNEL,
    SAME,
    TOKEN,
    Layout,
)
from timesformer_jax.video.pixels import OFFICIAL_MEAN, OFFICIAL_STD


class Row(NamedTuple):
    """One tensor: `theirs` and `ours` are names in which `{i}` stands for a block's number."""

    theirs: str
    ours: str
    layout: Layout = SAME
    part: int | None = None
    """0, 1, 2 where theirs is the query, key or value alone, of our packed three."""


class Kind(NamedTuple):
    """A kind of file or folder."""

    title: str
    rows: tuple[Row, ...]
    prefix: tuple[str, str] = ("^$", "")
    """(pattern, replacement) that gives every name the form that the rows have; files differ in their prefixes."""
    ignored: str = "$^"
    """Tensors that have no part in the model (a text tower, buffers): names that this pattern matches whole."""
    image: bool = False
    """An image transformer: its attention becomes the spatial one, and a copy of it each extra one."""
    fields: Mapping[str, Any] = MappingProxyType({})
    """Fields of the model that the tensors don't show and that aren't `TimeSformer`'s defaults."""
    mean: tuple[float, ...] = OFFICIAL_MEAN
    std: tuple[float, ...] = OFFICIAL_STD
    """The normalisation that such models were trained with, where nothing beside the file says another."""
    config: bool = False
    """Whether a `config.json` stands beside the weights."""
    note: str | None = None
    """What whoever loads such a file should know."""
    zeros: tuple[str, ...] = ()
    """Our parameters that this kind doesn't have and that are zero, so that they change nothing."""


def _affine(theirs: str, ours: str, kernel: Layout = LINEAR, bias: Layout = SAME, part: int | None = None) -> Iterator[Row]:
    yield Row(f"{theirs}.weight", f"{ours}/kernel", kernel, part)
    yield Row(f"{theirs}.bias", f"{ours}/bias", bias, part)


def _norm(theirs: str, ours: str) -> Iterator[Row]:
    yield Row(f"{theirs}.weight", f"{ours}/scale")
    yield Row(f"{theirs}.bias", f"{ours}/bias")


def _rows(*groups: Row | Iterable[Row]) -> tuple[Row, ...]:
    return tuple(row for group in groups for row in ([group] if isinstance(group, Row) else group))


def _mlp(block: str, first: str, second: str) -> Iterator[Row]:
    yield from _affine(f"{block}.{first}", "blocks_{i}/mlp/fc1")
    yield from _affine(f"{block}.{second}", "blocks_{i}/mlp/fc2")


def _separate(attention: str, names: tuple[str, str, str], projection: str) -> Iterator[Row]:
    """The image transformer's attention with three layers instead of the packed one."""
    for part, name in enumerate(names):
        yield from _affine(f"{attention}.{name}", "blocks_{i}/attn/qkv", PART_KERNEL, PART_BIAS, part)
    yield from _affine(f"{attention}.{projection}", "blocks_{i}/attn/proj", PROJ_KERNEL)


_VIT = _rows(
    Row("cls_token", "cls_token"),
    Row("pos_embed", "pos_embed"),
    _affine("patch_embed.proj", "patch_embed/proj", CONVOLUTION),
    _norm("blocks.{i}.norm1", "blocks_{i}/norm1"),
    _affine("blocks.{i}.attn.qkv", "blocks_{i}/attn/qkv", QKV_KERNEL, QKV_BIAS),
    _affine("blocks.{i}.attn.proj", "blocks_{i}/attn/proj", PROJ_KERNEL),
    _norm("blocks.{i}.norm2", "blocks_{i}/norm2"),
    _mlp("blocks.{i}", "mlp.fc1", "mlp.fc2"),
    _norm("norm", "norm"),
    _affine("head", "head"),
)

_OFFICIAL = _rows(
    _VIT,
    Row("time_embed", "time_embed"),
    _norm("blocks.{i}.temporal_norm1", "blocks_{i}/temporal_norm1"),
    _affine("blocks.{i}.temporal_attn.qkv", "blocks_{i}/temporal_attn/qkv", QKV_KERNEL, QKV_BIAS),
    _affine("blocks.{i}.temporal_attn.proj", "blocks_{i}/temporal_attn/proj", PROJ_KERNEL),
    _affine("blocks.{i}.temporal_fc", "blocks_{i}/temporal_fc"),
)

_HF_LAYER = "timesformer.encoder.layer.{i}"
_HUGGINGFACE = _rows(
    Row("timesformer.embeddings.cls_token", "cls_token"),
    Row("timesformer.embeddings.position_embeddings", "pos_embed"),
    Row("timesformer.embeddings.time_embeddings", "time_embed"),
    _affine("timesformer.embeddings.patch_embeddings.projection", "patch_embed/proj", CONVOLUTION),
    _norm(f"{_HF_LAYER}.temporal_layernorm", "blocks_{i}/temporal_norm1"),
    _affine(f"{_HF_LAYER}.temporal_attention.attention.qkv", "blocks_{i}/temporal_attn/qkv", QKV_KERNEL, QKV_BIAS),
    _affine(f"{_HF_LAYER}.temporal_attention.output.dense", "blocks_{i}/temporal_attn/proj", PROJ_KERNEL),
    _affine(f"{_HF_LAYER}.temporal_dense", "blocks_{i}/temporal_fc"),
    _norm(f"{_HF_LAYER}.layernorm_before", "blocks_{i}/norm1"),
    _affine(f"{_HF_LAYER}.attention.attention.qkv", "blocks_{i}/attn/qkv", QKV_KERNEL, QKV_BIAS),
    _affine(f"{_HF_LAYER}.attention.output.dense", "blocks_{i}/attn/proj", PROJ_KERNEL),
    _norm(f"{_HF_LAYER}.layernorm_after", "blocks_{i}/norm2"),
    _mlp(_HF_LAYER, "intermediate.dense", "output.dense"),
    _norm("timesformer.layernorm", "norm"),
    _affine("classifier", "head"),
)

_MM_LAYER = "backbone.transformer_layers.layers.{i}"


def _mm_attention(theirs: str, ours: str) -> Iterator[Row]:
    yield Row(f"{theirs}.attn.in_proj_weight", f"{ours}/qkv/kernel", QKV_KERNEL)
    yield Row(f"{theirs}.attn.in_proj_bias", f"{ours}/qkv/bias", QKV_BIAS)
    yield from _affine(f"{theirs}.attn.out_proj", f"{ours}/proj", PROJ_KERNEL)


_MMACTION2_STEM = _rows(
    Row("backbone.cls_token", "cls_token"),
    Row("backbone.pos_embed", "pos_embed"),
    Row("backbone.time_embed", "time_embed"),
    _affine("backbone.patch_embed.projection", "patch_embed/proj", CONVOLUTION),
    _mlp(_MM_LAYER, "ffns.0.layers.0.0", "ffns.0.layers.1"),
    _norm("backbone.norm", "norm"),
    _affine("cls_head.fc_cls", "head"),
)
_MMACTION2_DIVIDED = _rows(
    _MMACTION2_STEM,
    _norm(f"{_MM_LAYER}.attentions.0.norm", "blocks_{i}/temporal_norm1"),
    _mm_attention(f"{_MM_LAYER}.attentions.0", "blocks_{i}/temporal_attn"),
    _affine(f"{_MM_LAYER}.attentions.0.temporal_fc", "blocks_{i}/temporal_fc"),
    _norm(f"{_MM_LAYER}.attentions.1.norm", "blocks_{i}/norm1"),
    _mm_attention(f"{_MM_LAYER}.attentions.1", "blocks_{i}/attn"),
    _norm(f"{_MM_LAYER}.ffns.0.norm", "blocks_{i}/norm2"),
)
_MMACTION2 = _rows(
    _MMACTION2_STEM,
    _norm(f"{_MM_LAYER}.norms.0", "blocks_{i}/norm1"),
    _mm_attention(f"{_MM_LAYER}.attentions.0", "blocks_{i}/attn"),
    _norm(f"{_MM_LAYER}.norms.1", "blocks_{i}/norm2"),
)
_HALF: dict[str, Any] = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
_MM: dict[str, Any] = {
    "prefix": (r"^(?!backbone\.|cls_head\.|data_preprocessor\.)", "backbone."),
    "ignored": r"data_preprocessor\..*",
    **_HALF,
}

_HF_VIT_LAYER = "vit.encoder.layer.{i}"
_HF_VIT = _rows(
    Row("vit.embeddings.cls_token", "cls_token"),
    Row("vit.embeddings.position_embeddings", "pos_embed"),
    _affine("vit.embeddings.patch_embeddings.projection", "patch_embed/proj", CONVOLUTION),
    _norm(f"{_HF_VIT_LAYER}.layernorm_before", "blocks_{i}/norm1"),
    _separate(f"{_HF_VIT_LAYER}.attention", ("attention.query", "attention.key", "attention.value"), "output.dense"),
    _norm(f"{_HF_VIT_LAYER}.layernorm_after", "blocks_{i}/norm2"),
    _mlp(_HF_VIT_LAYER, "intermediate.dense", "output.dense"),
    _norm("vit.layernorm", "norm"),
    _affine("classifier", "head"),
)

_HF_VIT_5 = _rows(
    *(row for row in _HF_VIT if "encoder" not in row.theirs),
    _norm("vit.layers.{i}.layernorm_before", "blocks_{i}/norm1"),
    _separate("vit.layers.{i}.attention", ("q_proj", "k_proj", "v_proj"), "o_proj"),
    _norm("vit.layers.{i}.layernorm_after", "blocks_{i}/norm2"),
    _mlp("vit.layers.{i}", "mlp.fc1", "mlp.fc2"),
)
_HF_VIT_KIND: dict[str, Any] = {
    "prefix": (r"^(?!vit\.|classifier\.|pooler\.)", "vit."),
    "ignored": r"(vit\.)?pooler\..*",
    "image": True,
    "config": True,
    "fields": {"layer_norm_epsilon": 1e-12},
    **_HALF,
}

_HF_CLIP_LAYER = "encoder.layers.{i}"
_HF_CLIP = _rows(
    Row("embeddings.class_embedding", "cls_token", TOKEN),
    Row("embeddings.position_embedding.weight", "pos_embed", POSITIONS),
    Row("embeddings.patch_embedding.weight", "patch_embed/proj/kernel", CONVOLUTION),
    _norm("pre_layrnorm", "norm_pre"),  # the misspelling is theirs
    _norm(f"{_HF_CLIP_LAYER}.layer_norm1", "blocks_{i}/norm1"),
    _separate(f"{_HF_CLIP_LAYER}.self_attn", ("q_proj", "k_proj", "v_proj"), "out_proj"),
    _norm(f"{_HF_CLIP_LAYER}.layer_norm2", "blocks_{i}/norm2"),
    _mlp(_HF_CLIP_LAYER, "mlp.fc1", "mlp.fc2"),
    _norm("post_layernorm", "norm"),
)

_CLIP_LAYER = "visual.transformer.resblocks.{i}"
_CLIP = _rows(
    Row("visual.class_embedding", "cls_token", TOKEN),
    Row("visual.positional_embedding", "pos_embed", POSITIONS),
    Row("visual.conv1.weight", "patch_embed/proj/kernel", CONVOLUTION),
    _norm("visual.ln_pre", "norm_pre"),
    _norm(f"{_CLIP_LAYER}.ln_1", "blocks_{i}/norm1"),
    Row(f"{_CLIP_LAYER}.attn.in_proj_weight", "blocks_{i}/attn/qkv/kernel", QKV_KERNEL),
    Row(f"{_CLIP_LAYER}.attn.in_proj_bias", "blocks_{i}/attn/qkv/bias", QKV_BIAS),
    _affine(f"{_CLIP_LAYER}.attn.out_proj", "blocks_{i}/attn/proj", PROJ_KERNEL),
    _norm(f"{_CLIP_LAYER}.ln_2", "blocks_{i}/norm2"),
    _mlp(_CLIP_LAYER, "mlp.c_fc", "mlp.c_proj"),
    _norm("visual.ln_post", "norm"),
)
_CLIP_PIXELS: dict[str, Any] = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}
_CLIP_FIELDS: dict[str, Any] = {"pre_norm": True, "activation": "quick_gelu", "layer_norm_epsilon": 1e-5}


def _flax(norm1: str, attention: str, norm2: str, mlp: str) -> tuple[Row, ...]:
    """The JAX image transformers, whose parameters are laid out as ours; the modules' numbers differ."""
    block = "Transformer/encoderblock_{i}"
    return _rows(
        Row("cls", "cls_token"),
        *(Row(f"embedding/{name}", f"patch_embed/proj/{name}") for name in ("kernel", "bias")),
        *(Row(f"{block}/{norm1}/{name}", f"blocks_{{i}}/norm1/{name}") for name in ("scale", "bias")),
        *(
            Row(f"{block}/{attention}/{which}/{name}", f"blocks_{{i}}/attn/qkv/{name}", SAME, part)
            for part, which in enumerate(("query", "key", "value"))
            for name in ("kernel", "bias")
        ),
        *(Row(f"{block}/{attention}/out/{name}", f"blocks_{{i}}/attn/proj/{name}") for name in ("kernel", "bias")),
        *(Row(f"{block}/{norm2}/{name}", f"blocks_{{i}}/norm2/{name}") for name in ("scale", "bias")),
        *(
            Row(f"{block}/{mlp}/Dense_{layer}/{name}", f"blocks_{{i}}/mlp/fc{layer + 1}/{name}")
            for layer in (0, 1)
            for name in ("kernel", "bias")
        ),
        *(Row(f"Transformer/encoder_norm/{name}", f"norm/{name}") for name in ("scale", "bias")),
        *(Row(f"head/{name}", f"head/{name}") for name in ("kernel", "bias")),
    )


KINDS: dict[str, Kind] = {
    "official": Kind("the official TimeSformer release", _OFFICIAL, (r"^(module\.)?(model\.)?", "")),
    "huggingface": Kind(
        "Hugging Face TimeSformer", _HUGGINGFACE, (r"^(?!timesformer\.|classifier\.)", "timesformer."), config=True
    ),
    "mmaction2_divided": Kind("mmaction2's divided TimeSformer", _MMACTION2_DIVIDED, **_MM),
    "mmaction2": Kind("mmaction2's joint or space-only TimeSformer", _MMACTION2, **_MM),
    "timm": Kind(
        "a timm or DeiT image transformer",
        _VIT,
        (r"^module\.", ""),
        image=True,
        note="pixels are normalised as for the official video models, whatever this image model was trained with",
    ),
    "huggingface_vit": Kind("a Hugging Face image transformer", _HF_VIT, **_HF_VIT_KIND),
    "huggingface_vit_5": Kind(
        "a Hugging Face image transformer by the names that transformers 5 has in memory", _HF_VIT_5, **_HF_VIT_KIND
    ),
    "huggingface_clip": Kind(
        "a Hugging Face CLIP model",
        _HF_CLIP,
        (r"^vision_model\.", ""),
        ignored=r"text_model\..*|(visual|text)_projection\.weight|logit_scale|.*\.?position_ids",
        image=True,
        config=True,
        fields=_CLIP_FIELDS,
        zeros=("patch_embed/proj/bias",),
        **_CLIP_PIXELS,
    ),
    "clip": Kind(
        "an OpenAI or OpenCLIP model",
        _CLIP,
        (r"^module\.", ""),
        ignored=r"visual\.proj|(transformer|token_embedding|ln_final)\..*|positional_embedding|text_projection|logit_scale|"
        r"logit_bias|attn_mask|input_resolution|context_length|vocab_size",
        image=True,
        note="quick_gelu is taken, as in OpenAI's own models: give activation='gelu' for those trained without it",
        fields=_CLIP_FIELDS,
        zeros=("patch_embed/proj/bias",),
        **_CLIP_PIXELS,
    ),
    "vision_transformer": Kind(
        "a JAX vision_transformer .npz",
        _rows(
            Row("Transformer/posembed_input/pos_embedding", "pos_embed"),
            _flax("LayerNorm_0", "MultiHeadDotProductAttention_1", "LayerNorm_2", "MlpBlock_3"),
        ),
        image=True,
        fields={"activation": "gelu_tanh"},
        **_HALF,
    ),
    "big_vision": Kind(
        "a big_vision .npz",
        _rows(
            Row("pos_embedding", "pos_embed", PATCH_POSITIONS),
            _flax("LayerNorm_0", "MultiHeadDotProductAttention_0", "LayerNorm_1", "MlpBlock_0"),
        ),
        (r"^params/", ""),
        ignored=r"(opt|extra|batch_stats)/.*",
        image=True,
        fields={"activation": "gelu_tanh"},
        **_HALF,
    ),
}
"""Name -> kind. Which one a file is, follows from its names: `recognise`."""


OWN = Kind("a checkpoint of timesformer_jax", ())
"""What is told by its folder and needs no rows."""


def normalise(kind: Kind, name: str) -> str:
    """A file's name of a tensor as the rows have it."""
    return re.sub(*kind.prefix, name, count=1)


def template(name: str) -> tuple[str, str]:
    """A tensor's or parameter's name with `{i}` for its block's number, and that number ("" where there is none).

    A name may have other numbers too: `layers.3.ffns.0.layers.1` is of block 3.
    """
    match = re.search(r"(?:blocks[._]|layers?\.|encoderblock_)(\d+)", name)
    return (name, "") if match is None else (name[: match.start(1)] + "{i}" + name[match.end(1) :], match[1])
