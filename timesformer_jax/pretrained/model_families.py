"""Families of published image models that are computed exactly, computed with differences, or refused."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from timesformer_jax.errors import InputError
from timesformer_jax.pretrained.tensor_names import collapse_blocks


class Refused(NamedTuple):
    """A feature that TimeSformer doesn't compute.

    A file has the feature if it meets all conditions from `tensors` to `packed` that are set. Patterns match whole names
    without their prefix.
    """

    models: str
    """Models with this feature, as the documentation lists them."""
    feature: str
    """The feature, phrased to follow "it has"."""
    nearest: str
    """Similar models whose weights can be loaded."""
    tensors: str | None = None
    """Condition: some tensor's name matches this pattern."""
    axes: int | None = None
    """Number of axes of the tensors that `tensors` matches."""
    lacks: str | None = None
    """Condition: no tensor of the file corresponds to this parameter of our model."""
    without: str | None = None
    """Condition: no tensor's name matches this pattern."""
    packed: bool = False
    """Condition: the first layer of an MLP is twice as wide as the input of the second."""
    asked: str | None = None
    """Effect of an `allow` pattern that matches these tensors; None if they are always refused."""


DISTILLATION_TOKEN = r"(.*\.)?(dist_token|distillation_token)"

REGISTERS = r"(.*\.)?(reg_token|register_tokens?|storage_tokens|registers)"
POSITIONS = r".*(pos_?emb|position).*"

CLS_MODELS = "DINOv2 without registers, DeiT III, MAE and CLIP"

REFUSED = (
    Refused(
        "VideoMAE, ViViT, V-JEPA",
        "patches that span several frames (tubelets)",
        "an image model with the same blocks, such as MAE's",
        tensors=r"(.*\.)?(patch_embed|patch_embeddings)\.(proj|projection)\.weight",
        axes=5,
    ),
    Refused(
        "YOLOS",
        "detection tokens, which take part in attention",
        "the DeiT models that YOLOS was trained from",
        tensors=r"(.*\.)?(det_token|detection_tokens|(.*\.)?mid_(pos_embed|position_embeddings))",
    ),
    Refused(
        "BEiT, Data2Vec, SAM, Swin, timm's relpos models",
        "relative position biases in the attention scores",
        "DeiT III or MAE",
        tensors=r"(.*\.)?(relative_position.*|(shared_)?rel_pos.*)",
    ),
    Refused(
        "other models with tensors of rotary positions",
        "rotary positions",
        CLS_MODELS,
        tensors=r"(.*\.)?(rope|rope_embed(dings)?|rotary.*|freqs.*)(\..*)?",
    ),
    Refused(
        "DINOv3",
        "rotary positions instead of a position embedding, and register tokens",
        "DINOv2 without registers",
        tensors=REGISTERS,
        without=POSITIONS,
    ),
    Refused(
        "BEiT, timm's `vit_*_rope` and others without a position embedding",
        "no position embedding, which suggests rotary or relative positions",
        CLS_MODELS,
        lacks="pos_embed",
        without=POSITIONS,
    ),
    Refused(
        "DINOv2 with registers",
        "register tokens, which take part in attention",
        "the same model without registers (dinov2_vitb14, facebook/dinov2-base)",
        tensors=REGISTERS,
    ),
    Refused(
        "EVA, EVA02 (timm)",
        "EVA's attention, whose rotary positions and order of LayerNorms can't be read from the tensors",
        CLS_MODELS,
        tensors=r"(.*\.)?blocks\.\d+\.attn\.((q|v)_bias|q_proj\..*)",
    ),
    Refused(
        "DINOv2 giant, AIMv2",
        "a gated MLP (SwiGLU)",
        "DINOv2 small, base and large, which have a plain MLP",
        tensors=r"(.*\.)?mlp\.(w12|w[123]|weights_(in|out)|fc1_[gx]|(gate|up|down)_proj)\..*",
    ),
    Refused(
        "DINOv2 giant (timm)",
        "a gated MLP (SwiGLU), whose first layer is twice as wide as the input of the second",
        "DINOv2 small, base and large, which have a plain MLP",
        packed=True,
    ),
    Refused(
        "SigLIP, PE core, CoCa, models of timm with `attn_pool`",
        "attention pooling instead of a class token (in PE also rotary positions, which its tensors don't show)",
        "OpenAI's and OpenCLIP's CLIP models with a CLS",
        tensors=r"(.*[./])?(attn_?pool[./].*|attn_?pool|head\.probe|MAPHead_0[./].*)",
    ),
    Refused(
        "I-JEPA, models of timm without a class token",
        "no class token (cls_token)",
        CLS_MODELS,
        lacks="cls_token",
        without=r".*(cls|class_?(token|emb)).*",
    ),
    Refused(
        "PE spatial, PE lang, InternViT",
        "no LayerNorm after the last block (in PE also rotary positions, which its tensors don't show)",
        CLS_MODELS,
        lacks="norm/scale",
    ),
    Refused(
        "models with normalised queries and keys",
        "normalised queries and keys, or a norm inside the attention or the MLP",
        CLS_MODELS,
        tensors=r"(.*\.)?(attn|attention|self_attn|mlp)\.((q|k|q_ln|k_ln|ln_q|ln_k|inner_attn_ln)_?norm|norm|ffn_ln)\..*",
    ),
    Refused(
        "hybrids with a convolutional stem",
        "a convolutional network before the blocks",
        CLS_MODELS,
        tensors=r"(.*\.)?patch_embed\.(backbone|conv|stem|norm)\d*\..*",
    ),
    Refused(
        "the official DeiT III, timm's `vit_*_rope_ape`",
        "LayerScale under the same names as timm's models with rotary positions (vit_*_rope_ape), whose tensors don't show "
        "those positions",
        "timm's files of DeiT III, which name it ls1.gamma",
        tensors=r"(.*\.)?blocks\.\d+\.gamma_[12]",
        asked="LayerScale is folded, which is right for DeiT III and wrong for models with rotary positions",
    ),
    Refused(
        "DeiT with a distillation token",
        "a distillation token, which takes part in attention",
        "DeiT without distillation, or DeiT III",
        tensors=DISTILLATION_TOKEN,
        asked="the token, its position and its classifier are dropped; the outputs are close to the original's but not equal",
    ),
)
"""Features in order of precedence: errors name the first that a file has."""


class Found(NamedTuple):
    """A feature found in a file."""

    refused: Refused
    """The feature."""
    names: tuple[str, ...]
    """Tensors that show it."""


def find_refused(
    shapes: Mapping[str, tuple[int, ...]], missing: Collection[str], mlp: tuple[tuple[int, ...], tuple[int, ...]] | None
) -> list[Found]:
    """Find the features of a file that TimeSformer doesn't compute.

    Args:
        shapes: Tensor name without its prefix -> shape.
        missing: Essential parameters of our model that have no corresponding tensor in the file.
        mlp: Shapes of the first and second layer of a block's MLP in PyTorch's layout, `[out, in]`; None if unknown.
    """
    packed = mlp is not None and len(mlp[0]) == len(mlp[1]) == 2 and mlp[0][0] == 2 * mlp[1][1]
    found = []
    for refused in REFUSED:
        names = _named(refused.tensors, shapes, refused.axes)
        holds = (
            refused.tensors is None or names,
            refused.lacks is None or refused.lacks in missing,
            not _named(refused.without, shapes),
            packed or not refused.packed,
        )
        if all(holds):
            found.append(Found(refused, names))
    return found


def _named(pattern: str | None, shapes: Mapping[str, tuple[int, ...]], axes: int | None = None) -> tuple[str, ...]:
    if pattern is None:
        return ()
    return tuple(name for name, shape in shapes.items() if axes in (None, len(shape)) and re.fullmatch(pattern, name))


def refuse(source: str, found: Sequence[Found], allowed: Sequence[str]) -> list[str]:
    """Raise `InputError` for the first feature that the caller didn't allow; return notes on the allowed ones.

    Args:
        source: The weights, for errors.
        found: Features of the file.
        allowed: Names of tensors that match a pattern in `allow`.
    """
    notes = []
    for refused, names in found:
        shown = f" ({', '.join(collapse_blocks(names)[:3])})" if names else ""
        if refused.asked is None:
            raise InputError(
                f"{source} holds a model that TimeSformer doesn't compute: it has {refused.feature}{shown}. The nearest model "
                f"that can be loaded: {refused.nearest}."
            )
        if not set(names) <= set(allowed):
            pattern = r".*gamma_[12]" if "gamma" in names[0] else f".*{names[0].rpartition('.')[2]}"
            raise InputError(
                f"{source} is only loaded on request: it has {refused.feature}{shown}. With allow={pattern!r} (on the command "
                f"line --allow, in a config init_from_allow) {refused.asked}. The nearest model that is exact: "
                f"{refused.nearest}."
            )
        notes.append(f"possibly not exact{shown}: {refused.asked}")
    return notes


OTHER_CLASSIFIERS = (
    (r"(.*[./])?pre_logits[./].*", "another layer after the CLS"),
    (r"(.*\.)?fc_norm\..*", "the mean of the patches"),
    (r"(head|heads|classifier|linear_head|lm_head|fc|dino_head|ibot_head)[./].*", "another task, or of several layers"),
)
"""Maps tensor names (without prefix) of classifiers that aren't a linear layer on the CLS to the classifier's input, phrased to
follow "a classifier of"."""

DISTILLED_HEAD = r"(.*\.)?(head_dist|distillation_classifier)\..*"
"""Tensors of the distillation token's classifier, in addition to that of the CLS."""


class Family(NamedTuple):
    """A family of models whose weights can be loaded."""

    models: str
    """The models, as the documentation lists them."""
    formats: tuple[str, ...]
    """Formats of their files, keys of `FORMATS`."""
    outcome: str
    """Differences from the original computation, or "exact"."""


FRESH = "the input of the classifier is {}; `num_classes=` gives a fresh one"

FAMILIES = (
    Family("ViT, DeiT, DINO, AugReg, MIIL (timm and their own files)", ("timm",), "exact; missing qkv biases are set to zero"),
    Family("DINOv2 (timm and its own files)", ("timm",), "exact: LayerScale is folded into `attn.proj` and `fc2`"),
    Family("DeiT III (timm), FlexiViT", ("timm",), "exact: LayerScale is folded, and the position of the CLS is zero"),
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
        "blocks exact; `fc_norm` becomes the last LayerNorm, applied to each token; " + FRESH.format("the mean of the patches"),
    ),
    Family(
        "ViT with `pre_logits`",
        ("timm", "vision_transformer", "big_vision"),
        "features exact; " + FRESH.format("another layer after the CLS"),
    ),
)


def families_table() -> str:
    """Return the table of families in `docs/weights.md`."""
    lines = ["| family | format | result |", "|---|---|---|"]
    for family in FAMILIES:
        lines.append(f"| {family.models} | {', '.join(f'`{format}`' for format in family.formats)} | {family.outcome} |")
    for refused in REFUSED:
        if refused.asked is None:
            lines.append(f"| {refused.models} |  | refused: {refused.feature}; nearest: {refused.nearest} |")
        else:
            lines.append(f"| {refused.models} |  | refused unless allowed by `allow`; then {refused.asked} |")
    return "\n".join(lines)
