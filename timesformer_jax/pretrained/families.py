"""Families of published image models: which are computed exactly, which with differences, and which not at all."""

from typing import NamedTuple

from timesformer_jax.pretrained.model_families import REFUSED


class Family(NamedTuple):
    """Models whose weights can be loaded."""

    models: str
    kinds: tuple[str, ...]
    """Keys of `KINDS`."""
    outcome: str
    """"exact", or what differs."""


FRESH = "the classifier reads {}, and `num_classes=` gives a fresh one"

FAMILIES = (
    Family("ViT, DeiT, DINO, AugReg, MIIL (timm and their own files)", ("timm",), "exact; without qkv biases they are zero"),
    Family("DINOv2 (timm and its own files)", ("timm",), "exact: LayerScale is folded into `attn.proj` and `fc2`"),
    Family("DeiT III (timm), FlexiViT", ("timm",), "exact: LayerScale is folded, the CLS has a position of zero"),
    Family("MAE (timm, its own files, Hugging Face)", ("timm", "huggingface_vit"), "exact; the decoder is ignored"),
    Family("CLIP (OpenAI, OpenCLIP, Hugging Face)", ("clip", "huggingface_clip"), "exact with the right `activation`"),
    Family("CLIP (timm)", ("timm_clip",), "exact with the right `activation`"),
    Family("ViT, ViT-MSN (Hugging Face)", ("huggingface_vit", "huggingface_vit_5"), "exact"),
    Family(
        "DINOv2 (Hugging Face)",
        ("huggingface_dinov2",),
        "features exact; " + FRESH.format("the CLS and the mean of the patches"),
    ),
    Family("ViT (torchvision)", ("torchvision",), "exact"),
    Family("ViT (vision_transformer, big_vision)", ("vision_transformer", "big_vision"), "exact"),
    Family(
        "ViT with `fc_norm` (mean of the patches; MAE after fine-tuning)",
        ("timm",),
        "blocks exact; `fc_norm` becomes the last LayerNorm, of each token; " + FRESH.format("the mean of the patches"),
    ),
    Family(
        "ViT with `pre_logits`",
        ("timm", "vision_transformer", "big_vision"),
        "features exact; " + FRESH.format("another layer after the CLS"),
    ),
)


def families_table() -> str:
    """The table of `docs/weights.md`."""
    lines = ["| family | kind | what is computed |", "|---|---|---|"]
    for family in FAMILIES:
        lines.append(f"| {family.models} | {', '.join(f'`{kind}`' for kind in family.kinds)} | {family.outcome} |")
    for refused in REFUSED:
        if refused.asked is None:
            lines.append(f"| {refused.models} |  | refused: {refused.feature}; nearest: {refused.nearest} |")
        else:
            lines.append(f"| {refused.models} |  | refused unless `allow` asks, and then {refused.asked} |")
    return "\n".join(lines)
