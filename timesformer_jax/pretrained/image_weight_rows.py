"""Rows of the published image transformers, for `FORMATS`."""

from timesformer_jax.pretrained.weight_rows import (
    CONVOLUTION,
    POSITIONS,
    PROJ_KERNEL,
    QKV_BIAS,
    QKV_KERNEL,
    SAME,
    SCALE,
    TOKEN,
    Row,
    affine,
    mlp,
    norm,
    rows,
    separate,
)

VIT = rows(
    Row("cls_token", "cls_token"),
    Row("pos_embed", "pos_embed"),
    affine("patch_embed.proj", "patch_embed/proj", CONVOLUTION),
    norm("blocks.{i}.norm1", "blocks_{i}/norm1"),
    affine("blocks.{i}.attn.qkv", "blocks_{i}/attn/qkv", QKV_KERNEL, QKV_BIAS),
    affine("blocks.{i}.attn.proj", "blocks_{i}/attn/proj", PROJ_KERNEL),
    norm("blocks.{i}.norm2", "blocks_{i}/norm2"),
    mlp("blocks.{i}", "mlp.fc1", "mlp.fc2"),
    norm("norm", "norm"),
    affine("head", "head"),
)

TIMM_CLIP = rows((row for row in VIT if row.ours != "patch_embed/proj/bias"), norm("norm_pre", "norm_pre"))

_HF_VIT_LAYER = "vit.encoder.layer.{i}"
HF_VIT = rows(
    Row("vit.embeddings.cls_token", "cls_token"),
    Row("vit.embeddings.position_embeddings", "pos_embed"),
    affine("vit.embeddings.patch_embeddings.projection", "patch_embed/proj", CONVOLUTION),
    norm(f"{_HF_VIT_LAYER}.layernorm_before", "blocks_{i}/norm1"),
    separate(f"{_HF_VIT_LAYER}.attention", ("attention.query", "attention.key", "attention.value"), "output.dense"),
    norm(f"{_HF_VIT_LAYER}.layernorm_after", "blocks_{i}/norm2"),
    mlp(_HF_VIT_LAYER, "intermediate.dense", "output.dense"),
    norm("vit.layernorm", "norm"),
    affine("classifier", "head"),
)

HF_VIT_5 = rows(
    *(row for row in HF_VIT if "encoder" not in row.theirs),
    norm("vit.layers.{i}.layernorm_before", "blocks_{i}/norm1"),
    separate("vit.layers.{i}.attention", ("q_proj", "k_proj", "v_proj"), "o_proj"),
    norm("vit.layers.{i}.layernorm_after", "blocks_{i}/norm2"),
    mlp("vit.layers.{i}", "mlp.fc1", "mlp.fc2"),
)
_DINOV2_LAYER = "dinov2.encoder.layer.{i}"
HF_DINOV2 = rows(
    Row("dinov2.embeddings.cls_token", "cls_token"),
    Row("dinov2.embeddings.position_embeddings", "pos_embed"),
    affine("dinov2.embeddings.patch_embeddings.projection", "patch_embed/proj", CONVOLUTION),
    norm(f"{_DINOV2_LAYER}.norm1", "blocks_{i}/norm1"),
    separate(f"{_DINOV2_LAYER}.attention", ("attention.query", "attention.key", "attention.value"), "output.dense"),
    norm(f"{_DINOV2_LAYER}.norm2", "blocks_{i}/norm2"),
    mlp(_DINOV2_LAYER, "mlp.fc1", "mlp.fc2"),
    norm("dinov2.layernorm", "norm"),
)
HF_DINOV2_5 = {
    f"{_DINOV2_LAYER}.attention.{new}.{name}": f"{_DINOV2_LAYER}.attention.{old}.{name}"
    for new, old in (
        ("q_proj", "attention.query"),
        ("k_proj", "attention.key"),
        ("v_proj", "attention.value"),
        ("o_proj", "output.dense"),
    )
    for name in ("weight", "bias")
}
"""Maps the names that transformers 5 uses in memory to those in its files."""

_TORCHVISION_LAYER = "encoder.layers.encoder_layer_{i}"
TORCHVISION = rows(
    Row("class_token", "cls_token"),
    Row("encoder.pos_embedding", "pos_embed"),
    affine("conv_proj", "patch_embed/proj", CONVOLUTION),
    norm(f"{_TORCHVISION_LAYER}.ln_1", "blocks_{i}/norm1"),
    Row(f"{_TORCHVISION_LAYER}.self_attention.in_proj_weight", "blocks_{i}/attn/qkv/kernel", QKV_KERNEL),
    Row(f"{_TORCHVISION_LAYER}.self_attention.in_proj_bias", "blocks_{i}/attn/qkv/bias", QKV_BIAS),
    affine(f"{_TORCHVISION_LAYER}.self_attention.out_proj", "blocks_{i}/attn/proj", PROJ_KERNEL),
    norm(f"{_TORCHVISION_LAYER}.ln_2", "blocks_{i}/norm2"),
    mlp(_TORCHVISION_LAYER, "mlp.0", "mlp.3"),
    norm("encoder.ln", "norm"),
    affine("heads.head", "head"),
)
TORCHVISION_1 = {
    f"{_TORCHVISION_LAYER}.mlp.linear_{layer}.{name}": f"{_TORCHVISION_LAYER}.mlp.{index}.{name}"
    for layer, index in ((1, 0), (2, 3))
    for name in ("weight", "bias")
}
"""Maps the MLP's names in torchvision's published files to those in its current models."""

_HF_CLIP_LAYER = "encoder.layers.{i}"
HF_CLIP = rows(
    Row("embeddings.class_embedding", "cls_token", TOKEN),
    Row("embeddings.position_embedding.weight", "pos_embed", POSITIONS),
    Row("embeddings.patch_embedding.weight", "patch_embed/proj/kernel", CONVOLUTION),
    norm("pre_layrnorm", "norm_pre"),  # the misspelling is theirs
    norm(f"{_HF_CLIP_LAYER}.layer_norm1", "blocks_{i}/norm1"),
    separate(f"{_HF_CLIP_LAYER}.self_attn", ("q_proj", "k_proj", "v_proj"), "out_proj"),
    norm(f"{_HF_CLIP_LAYER}.layer_norm2", "blocks_{i}/norm2"),
    mlp(_HF_CLIP_LAYER, "mlp.fc1", "mlp.fc2"),
    norm("post_layernorm", "norm"),
)

_CLIP_LAYER = "visual.transformer.resblocks.{i}"
CLIP = rows(
    Row("visual.class_embedding", "cls_token", TOKEN),
    Row("visual.positional_embedding", "pos_embed", POSITIONS),
    Row("visual.conv1.weight", "patch_embed/proj/kernel", CONVOLUTION),
    norm("visual.ln_pre", "norm_pre"),
    norm(f"{_CLIP_LAYER}.ln_1", "blocks_{i}/norm1"),
    Row(f"{_CLIP_LAYER}.attn.in_proj_weight", "blocks_{i}/attn/qkv/kernel", QKV_KERNEL),
    Row(f"{_CLIP_LAYER}.attn.in_proj_bias", "blocks_{i}/attn/qkv/bias", QKV_BIAS),
    affine(f"{_CLIP_LAYER}.attn.out_proj", "blocks_{i}/attn/proj", PROJ_KERNEL),
    norm(f"{_CLIP_LAYER}.ln_2", "blocks_{i}/norm2"),
    mlp(_CLIP_LAYER, "mlp.c_fc", "mlp.c_proj"),
    norm("visual.ln_post", "norm"),
)


def flax(norm1: str, attention: str, norm2: str, mlp: str) -> tuple[Row, ...]:
    """Return the rows of a JAX image transformer, whose array layouts match ours.

    Args:
        norm1: Name of the LayerNorm before the attention.
        attention: Name of the attention.
        norm2: Name of the LayerNorm before the MLP.
        mlp: Name of the MLP.
    """
    block = "Transformer/encoderblock_{i}"
    return rows(
        Row("cls", "cls_token"),
        *(Row(f"embedding/{name}", f"patch_embed/proj/{name}") for name in ("kernel", "bias")),
        *(Row(f"{block}/{norm1}/{name}", f"blocks_{{i}}/norm1/{name}") for name in ("scale", "bias")),
        *(
            Row(f"{block}/{attention}/{which}/{name}", f"blocks_{{i}}/attn/qkv/{name}", SAME, slot)
            for slot, which in enumerate(("query", "key", "value"))
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


def layer_scale(first: str, second: str) -> tuple[Row, ...]:
    """Return the rows of LayerScale: a factor per channel of the attention and MLP residuals, folded into their last layers."""
    return Row(first, "blocks_{i}/attn/proj/gamma", SCALE), Row(second, "blocks_{i}/mlp/fc2/gamma", SCALE)


LS = layer_scale("blocks.{i}.ls1.gamma", "blocks.{i}.ls2.gamma")
GAMMA = layer_scale("blocks.{i}.gamma_1", "blocks.{i}.gamma_2")
"""Names in the official DeiT III, and in timm's models with rotary positions."""
HF_LS = layer_scale(f"{_DINOV2_LAYER}.layer_scale1.lambda1", f"{_DINOV2_LAYER}.layer_scale2.lambda1")
CLIP_LS = layer_scale(f"{_CLIP_LAYER}.ls_1.gamma", f"{_CLIP_LAYER}.ls_2.gamma")
