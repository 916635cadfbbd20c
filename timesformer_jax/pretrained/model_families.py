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
        "detection tokens, which attention sees beside the patches",
        "the DeiT models that YOLOS was trained from",
        tensors=r"(.*\.)?(det_token|detection_tokens|(.*\.)?mid_(pos_embed|position_embeddings))",
    ),
    Refused(
        "BEiT, Data2Vec, SAM, Swin, timm's relpos models",
        "relative positions, which attention adds to its scores",
        "DeiT III or MAE",
        tensors=r"(.*\.)?(relative_position.*|(shared_)?rel_pos.*)",
    ),
    Refused(
        "models with tensors for rotary positions",
        "rotary positions",
        CLS_MODELS,
        tensors=r"(.*\.)?(rope|rope_embed(dings)?|rotary.*|freqs.*)(\..*)?",
    ),
    Refused(
        "DINOv3",
        "rotary positions in place of a position embedding, and register tokens",
        "DINOv2 without registers",
        tensors=REGISTERS,
        without=POSITIONS,
    ),
    Refused(
        "BEiT, timm's `vit_*_rope` and others without a position embedding",
        "no position embedding, as models with rotary or relative positions",
        CLS_MODELS,
        lacks="pos_embed",
        without=POSITIONS,
    ),
    Refused(
        "DINOv2 with registers",
        "register tokens, which attention sees beside the patches",
        "the same model without registers (dinov2_vitb14, facebook/dinov2-base)",
        tensors=REGISTERS,
    ),
    Refused(
        "EVA, EVA02 (timm)",
        "the attention of EVA's models, whose rotary positions and order of LayerNorms no tensor shows",
        CLS_MODELS,
        tensors=r"(.*\.)?blocks\.\d+\.attn\.((q|v)_bias|q_proj\..*)",
    ),
    Refused(
        "DINOv2 giant, AIMv2",
        "a gated MLP (SwiGLU)",
        "DINOv2's small, base and large models, whose MLP is plain",
        tensors=r"(.*\.)?mlp\.(w12|w[123]|weights_(in|out)|fc1_[gx]|(gate|up|down)_proj)\..*",
    ),
    Refused(
        "DINOv2 giant (timm)",
        "a gated MLP (SwiGLU), whose first layer is twice as wide as the input of the second",
        "DINOv2's small, base and large models, whose MLP is plain",
        packed=True,
    ),
    Refused(
        "SigLIP, PE core, CoCa, models of timm with `attn_pool`",
        "attention pooling where TimeSformer reads a class token (and in PE rotary positions, which no tensor shows)",
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
        "no LayerNorm after the last block (and in PE rotary positions, which no tensor shows)",
        CLS_MODELS,
        lacks="norm/scale",
    ),
    Refused(
        "models with normalised queries and keys",
        "a normalisation of queries and keys, or one inside attention or MLP",
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
        "LayerScale by names that timm's models with rotary positions (vit_*_rope_ape) have too, and no tensor shows those "
        "positions",
        "timm's files of DeiT III, which name it ls1.gamma",
        tensors=r"(.*\.)?blocks\.\d+\.gamma_[12]",
        asked="they are folded: right for DeiT III, wrong for rotary positions",
    ),
    Refused(
        "DeiT with a distillation token",
        "a distillation token, which attention sees beside the patches",
        "DeiT without distillation, or DeiT III",
        tensors=DISTILLATION_TOKEN,
        asked="the token, its position and its classifier are dropped: close to the original, but not its outputs",
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
                f"{source} holds a model that TimeSformer doesn't compute: it has {refused.feature}{shown}. The nearest that "
                f"can be loaded: {refused.nearest}."
            )
        if not set(names) <= set(allowed):
            pattern = r".*gamma_[12]" if "gamma" in names[0] else f".*{names[0].rpartition('.')[2]}"
            raise InputError(
                f"{source} is only loaded on request: it has {refused.feature}{shown}. With allow={pattern!r} (on the command "
                f"line --allow, in a config init_from_allow) {refused.asked}. The nearest that is exact: {refused.nearest}."
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
    """Return the table of families in `docs/weights.md`."""
    lines = ["| family | format | what is computed |", "|---|---|---|"]
    for family in FAMILIES:
        lines.append(f"| {family.models} | {', '.join(f'`{format}`' for format in family.formats)} | {family.outcome} |")
    for refused in REFUSED:
        if refused.asked is None:
            lines.append(f"| {refused.models} |  | refused: {refused.feature}; nearest: {refused.nearest} |")
        else:
            lines.append(f"| {refused.models} |  | refused unless `allow` asks, and then {refused.asked} |")
    return "\n".join(lines)
