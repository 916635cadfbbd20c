"""Published weight formats: the names of their tensors, and the parameters that these correspond to."""

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from timesformer_jax.pretrained.image_weight_rows import (
    CLIP,
    CLIP_LS,
    GAMMA,
    HF_CLIP,
    HF_DINOV2,
    HF_DINOV2_5,
    HF_LS,
    HF_VIT,
    HF_VIT_5,
    LS,
    TIMM_CLIP,
    TORCHVISION,
    TORCHVISION_1,
    VIT,
    flax,
)
from timesformer_jax.pretrained.weight_rows import (
    CONVOLUTION,
    PATCH_POSITIONS,
    PROJ_KERNEL,
    QKV_BIAS,
    QKV_KERNEL,
    Row,
    affine,
    mlp,
    norm,
    rows,
)
from timesformer_jax.video.pixels import OFFICIAL_MEAN, OFFICIAL_STD


class Format(NamedTuple):
    """A format of weight files or folders."""

    title: str
    """Title for reports and errors."""
    rows: tuple[Row, ...]
    """One row per tensor."""
    prefix: tuple[str, str] = ("^$", "")
    """(pattern, replacement) that turns names with different prefixes into the spelling of the rows."""
    ignored: str = "$^"
    """Pattern of whole names that aren't part of the model, such as a text tower or buffers."""
    image: bool = False
    """True for image transformers, whose attention becomes the spatial attention and is copied to each extra attention step."""
    fields: Mapping[str, Any] = MappingProxyType({})
    """Model fields that can't be inferred from the tensors and that differ from `TimeSformer`'s defaults."""
    mean: tuple[float, ...] = OFFICIAL_MEAN
    """Mean of the pixels that such models were trained with, unless a configuration states another."""
    std: tuple[float, ...] = OFFICIAL_STD
    """Standard deviation of those pixels."""
    config: bool = False
    """True if a `config.json` accompanies the weights."""
    zeros: tuple[str, ...] = ()
    """Our parameters that the format lacks and that are zero, so that they change nothing."""
    scales: tuple[Row, ...] = ()
    """Rows of LayerScale, present in all blocks or in none, and folded into the layer before it."""
    asked_scales: tuple[Row, ...] = ()
    """Rows of LayerScale under names that other models use too, read only if the caller opts in with `allow`."""
    pooled: str | None = None
    """Input of the classifier, if it isn't the CLS alone."""
    aliases: Mapping[str, str] = MappingProxyType({})
    """Maps other spellings to names in the rows; used if the file lacks the latter."""


_OFFICIAL = rows(
    VIT,
    Row("time_embed", "time_embed"),
    norm("blocks.{i}.temporal_norm1", "blocks_{i}/temporal_norm1"),
    affine("blocks.{i}.temporal_attn.qkv", "blocks_{i}/temporal_attn/qkv", QKV_KERNEL, QKV_BIAS),
    affine("blocks.{i}.temporal_attn.proj", "blocks_{i}/temporal_attn/proj", PROJ_KERNEL),
    affine("blocks.{i}.temporal_fc", "blocks_{i}/temporal_fc"),
)

_HF_LAYER = "timesformer.encoder.layer.{i}"
_HUGGINGFACE = rows(
    Row("timesformer.embeddings.cls_token", "cls_token"),
    Row("timesformer.embeddings.position_embeddings", "pos_embed"),
    Row("timesformer.embeddings.time_embeddings", "time_embed"),
    affine("timesformer.embeddings.patch_embeddings.projection", "patch_embed/proj", CONVOLUTION),
    norm(f"{_HF_LAYER}.temporal_layernorm", "blocks_{i}/temporal_norm1"),
    affine(f"{_HF_LAYER}.temporal_attention.attention.qkv", "blocks_{i}/temporal_attn/qkv", QKV_KERNEL, QKV_BIAS),
    affine(f"{_HF_LAYER}.temporal_attention.output.dense", "blocks_{i}/temporal_attn/proj", PROJ_KERNEL),
    affine(f"{_HF_LAYER}.temporal_dense", "blocks_{i}/temporal_fc"),
    norm(f"{_HF_LAYER}.layernorm_before", "blocks_{i}/norm1"),
    affine(f"{_HF_LAYER}.attention.attention.qkv", "blocks_{i}/attn/qkv", QKV_KERNEL, QKV_BIAS),
    affine(f"{_HF_LAYER}.attention.output.dense", "blocks_{i}/attn/proj", PROJ_KERNEL),
    norm(f"{_HF_LAYER}.layernorm_after", "blocks_{i}/norm2"),
    mlp(_HF_LAYER, "intermediate.dense", "output.dense"),
    norm("timesformer.layernorm", "norm"),
    affine("classifier", "head"),
)

_MM_LAYER = "backbone.transformer_layers.layers.{i}"


def _mm_attention(theirs: str, ours: str) -> Iterator[Row]:
    yield Row(f"{theirs}.attn.in_proj_weight", f"{ours}/qkv/kernel", QKV_KERNEL)
    yield Row(f"{theirs}.attn.in_proj_bias", f"{ours}/qkv/bias", QKV_BIAS)
    yield from affine(f"{theirs}.attn.out_proj", f"{ours}/proj", PROJ_KERNEL)


_MMACTION2_STEM = rows(
    Row("backbone.cls_token", "cls_token"),
    Row("backbone.pos_embed", "pos_embed"),
    Row("backbone.time_embed", "time_embed"),
    affine("backbone.patch_embed.projection", "patch_embed/proj", CONVOLUTION),
    mlp(_MM_LAYER, "ffns.0.layers.0.0", "ffns.0.layers.1"),
    norm("backbone.norm", "norm"),
    affine("cls_head.fc_cls", "head"),
)
_MMACTION2_DIVIDED = rows(
    _MMACTION2_STEM,
    norm(f"{_MM_LAYER}.attentions.0.norm", "blocks_{i}/temporal_norm1"),
    _mm_attention(f"{_MM_LAYER}.attentions.0", "blocks_{i}/temporal_attn"),
    affine(f"{_MM_LAYER}.attentions.0.temporal_fc", "blocks_{i}/temporal_fc"),
    norm(f"{_MM_LAYER}.attentions.1.norm", "blocks_{i}/norm1"),
    _mm_attention(f"{_MM_LAYER}.attentions.1", "blocks_{i}/attn"),
    norm(f"{_MM_LAYER}.ffns.0.norm", "blocks_{i}/norm2"),
)
_MMACTION2 = rows(
    _MMACTION2_STEM,
    norm(f"{_MM_LAYER}.norms.0", "blocks_{i}/norm1"),
    _mm_attention(f"{_MM_LAYER}.attentions.0", "blocks_{i}/attn"),
    norm(f"{_MM_LAYER}.norms.1", "blocks_{i}/norm2"),
)
_HALF: dict[str, Any] = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
_MM: dict[str, Any] = {
    "prefix": (r"^(?!backbone\.|cls_head\.|data_preprocessor\.)", "backbone."),
    "ignored": r"data_preprocessor\..*",
    **_HALF,
}

_HF_VIT_FORMAT: dict[str, Any] = {
    "prefix": (r"^(?!vit\.|classifier\.|pooler\.)", "vit."),
    "ignored": r"(vit\.)?pooler\..*|(vit\.)?decoder\..*|vit\.embeddings\.mask_token",
    "image": True,
    "config": True,
    "fields": {"layer_norm_epsilon": 1e-12},
    "aliases": {f"vit.cls_classifier.{name}": f"classifier.{name}" for name in ("weight", "bias")},
    **_HALF,
}
_IMAGENET: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_TIMM: dict[str, Any] = {
    "prefix": (r"^module\.", ""),
    "ignored": r"mask_token|decoder_.*",
    "image": True,
    "scales": LS,
    "asked_scales": GAMMA,
    "aliases": {f"fc_norm.{name}": f"norm.{name}" for name in ("weight", "bias")},
}

_CLIP_PIXELS: dict[str, Any] = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}
_CLIP_FIELDS: dict[str, Any] = {"pre_norm": True, "activation": "quick_gelu", "layer_norm_epsilon": 1e-5}


FORMATS: dict[str, Format] = {
    "official": Format("the official TimeSformer release", _OFFICIAL, (r"^(module\.)?(model\.)?", "")),
    "huggingface": Format(
        "Hugging Face TimeSformer", _HUGGINGFACE, (r"^(?!timesformer\.|classifier\.)", "timesformer."), config=True
    ),
    "mmaction2_divided": Format("mmaction2's divided TimeSformer", _MMACTION2_DIVIDED, **_MM),
    "mmaction2": Format("mmaction2's joint or space-only TimeSformer", _MMACTION2, **_MM),
    "timm": Format(
        "a timm or DeiT image transformer",
        VIT,
        **_TIMM,
    ),
    "timm_clip": Format(
        "a CLIP model of timm",
        TIMM_CLIP,
        fields={"pre_norm": True, "layer_norm_epsilon": 1e-5},
        zeros=("patch_embed/proj/bias",),
        **_TIMM,
        **_CLIP_PIXELS,
    ),
    "torchvision": Format(
        "a torchvision image transformer",
        TORCHVISION,
        (r"^module\.", ""),
        image=True,
        aliases=TORCHVISION_1,
        **_IMAGENET,
    ),
    "huggingface_vit": Format("a Hugging Face image transformer", HF_VIT, **_HF_VIT_FORMAT),
    "huggingface_vit_5": Format(
        "a Hugging Face image transformer by the names that transformers 5 has in memory", HF_VIT_5, **_HF_VIT_FORMAT
    ),
    "huggingface_dinov2": Format(
        "Hugging Face DINOv2",
        HF_DINOV2,
        (r"^(?!dinov2\.|classifier\.)", "dinov2."),
        ignored=r"dinov2\.embeddings\.mask_token",
        image=True,
        config=True,
        scales=HF_LS,
        pooled="the CLS and the mean of the patches",
        aliases=HF_DINOV2_5,
        **_IMAGENET,
    ),
    "huggingface_clip": Format(
        "a Hugging Face CLIP model",
        HF_CLIP,
        (r"^vision_model\.", ""),
        ignored=r"text_model\..*|(visual|text)_projection\.weight|logit_scale|.*\.?position_ids",
        image=True,
        config=True,
        fields=_CLIP_FIELDS,
        zeros=("patch_embed/proj/bias",),
        **_CLIP_PIXELS,
    ),
    "clip": Format(
        "an OpenAI or OpenCLIP model",
        CLIP,
        (r"^module\.", ""),
        ignored=r"visual\.proj|(transformer|token_embedding|ln_final)\..*|positional_embedding|text_projection|logit_scale|"
        r"logit_bias|attn_mask|input_resolution|context_length|vocab_size",
        image=True,
        fields=_CLIP_FIELDS,
        zeros=("patch_embed/proj/bias",),
        scales=CLIP_LS,
        **_CLIP_PIXELS,
    ),
    "vision_transformer": Format(
        "a JAX vision_transformer .npz",
        rows(
            Row("Transformer/posembed_input/pos_embedding", "pos_embed"),
            flax("LayerNorm_0", "MultiHeadDotProductAttention_1", "LayerNorm_2", "MlpBlock_3"),
        ),
        image=True,
        fields={"activation": "gelu_tanh"},
        **_HALF,
    ),
    "big_vision": Format(
        "a big_vision .npz",
        rows(
            Row("pos_embedding", "pos_embed", PATCH_POSITIONS),
            flax("LayerNorm_0", "MultiHeadDotProductAttention_0", "LayerNorm_1", "MlpBlock_0"),
        ),
        (r"^params/", ""),
        ignored=r"(opt|extra|batch_stats)/.*",
        image=True,
        fields={"activation": "gelu_tanh"},
        **_HALF,
    ),
}
"""Maps names to formats. `recognise` detects the format of a file from its tensor names."""


OWN = Format("a checkpoint of timesformer_jax", ())
"""Checkpoints of this project, which are detected from their folder and need no rows."""


def normalise(format: Format, name: str) -> str:
    """Return a tensor's name in the spelling of the format's rows."""
    return re.sub(*format.prefix, name, count=1)
