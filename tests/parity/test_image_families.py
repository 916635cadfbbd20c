"""Image model families against timm, transformers and torchvision: exact, or refused with a reason."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import timm
import torch
import torchvision
import transformers
from safetensors.torch import save_file
from timm.models import save_for_hf

import timesformer_jax as tsf
from experiment.follow import follow_weights
from tests.parity.test_huggingface import randomised
from tests.runs import config_of
from timesformer_jax import training
from timesformer_jax.pretrained.huggingface_config import MODEL_TYPES, fields_of_config
from timesformer_jax.pretrained.infer_config import HEADS
from timesformer_jax.pretrained.timm_config import REFUSED, fields_of_architecture

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default")]

SIZE, PATCH, WIDTH = 32, 8, 192
TIMM: dict[str, Any] = {"img_size": SIZE, "patch_size": PATCH, "depth": 2, "embed_dim": WIDTH, "num_heads": 3}
HUGGINGFACE: dict[str, Any] = {
    "image_size": SIZE,
    "patch_size": PATCH,
    "num_hidden_layers": 2,
    "hidden_size": WIDTH,
    "num_attention_heads": 3,
    "intermediate_size": 4 * WIDTH,
}
LABELS: dict[str, Any] = {"num_labels": 5}


class Outputs(NamedTuple):
    """Outputs of an image model; None for those that it lacks or has in another form."""

    cls: torch.Tensor
    patches: torch.Tensor | None = None
    logits: torch.Tensor | None = None


class Family(NamedTuple):
    """A small model saved in a folder or file, and its outputs."""

    source: Path
    outputs: Callable[[torch.Tensor], Outputs]
    options: Mapping[str, Any] = MappingProxyType({})
    """Arguments of `load`."""


def noisy(model: Any) -> Any:
    """Perturb every parameter, LayerNorm's and LayerScale's included, so that none is zero or one."""
    return randomised(model, 0.2)


def of_timm(architecture: str, *, patches: bool = True, logits: bool = True, **overrides: Any) -> Callable[[Path], Family]:
    """A timm model in the folder that timm writes for the hub."""

    def build(folder: Path) -> Family:
        arguments = {**TIMM, "num_classes": 5 if logits else 0, **overrides}
        model = noisy(timm.create_model(architecture, **arguments))
        save_for_hf(model, folder, model_args=arguments, safe_serialization=True)

        def outputs(pixels: torch.Tensor) -> Outputs:
            tokens = model.forward_features(pixels)
            return Outputs(tokens[:, 0], tokens[:, 1:] if patches else None, model(pixels) if logits else None)

        return Family(folder, outputs, {} if logits else {"num_classes": 2})

    return build


def of_huggingface(make: Callable[[], Any], outputs: Callable[[Any, torch.Tensor], Outputs], **options: Any) -> Any:
    """A transformers model in the folder that `save_pretrained` writes."""

    def build(folder: Path) -> Family:
        model = noisy(make())
        model.save_pretrained(folder)
        return Family(folder, lambda pixels: outputs(model, pixels), options)

    return build


def tokens_of(model: Any, pixels: torch.Tensor) -> Outputs:
    tokens = model(pixels).last_hidden_state
    return Outputs(tokens[:, 0], tokens[:, 1:])


def of_vit(model: Any, pixels: torch.Tensor) -> Outputs:
    return tokens_of(model.vit, pixels)._replace(logits=model(pixels).logits)


def of_clip(model: Any, pixels: torch.Tensor) -> Outputs:
    tower = getattr(model, "vision_model", model)
    tokens = tower.post_layernorm(tower(pixels).last_hidden_state)
    return Outputs(tokens[:, 0], tokens[:, 1:])


def of_mae(model: Any, pixels: torch.Tensor) -> Outputs:
    """An MAE model without masking, though its patches are shuffled."""
    found = model(pixels)
    order = found.ids_restore[:, :, None].expand(-1, -1, WIDTH)
    return Outputs(found.last_hidden_state[:, 0], found.last_hidden_state[:, 1:].gather(1, order))


def mae_with_decoder() -> Any:
    decoder = {"decoder_hidden_size": 32, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}
    config = transformers.ViTMAEConfig(**HUGGINGFACE, mask_ratio=0.0, decoder_intermediate_size=64, **decoder)
    return transformers.ViTMAEForPreTraining(config)


def of_torchvision(folder: Path) -> Family:
    sizes = {"hidden_dim": WIDTH, "mlp_dim": 4 * WIDTH, "num_layers": 2, "num_heads": 3}
    model = noisy(torchvision.models.VisionTransformer(SIZE, PATCH, **sizes, num_classes=5))
    folder.mkdir()
    save_file(model.state_dict(), folder / "model.safetensors")

    def outputs(pixels: torch.Tensor) -> Outputs:
        patches = model._process_input(pixels)
        tokens = model.encoder(torch.cat([model.class_token.expand(len(patches), -1, -1), patches], dim=1))
        return Outputs(tokens[:, 0], tokens[:, 1:], model(pixels))

    return Family(folder, outputs)


def of_open_clip(folder: Path) -> Family:
    """timm's CLIP under OpenCLIP's names, with the quick GELU that `open_clip_config.json` states."""
    family = of_timm("vit_base_patch16_clip_quickgelu_224", logits=False)(folder)
    tensors = {}
    for name, tensor in timm.models.load_state_dict(str(folder / "model.safetensors")).items():
        for pattern, new in OPEN_CLIP_NAMES:
            name = re.sub(pattern, new, name)
        tensors[name] = tensor[0] if name.endswith("positional_embedding") else tensor
    tensors["visual.class_embedding"] = tensors["visual.class_embedding"].reshape(-1)
    for file in folder.iterdir():
        file.unlink()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "open_clip_model.safetensors")
    vision = {"image_size": SIZE, "layers": 2, "width": WIDTH, "patch_size": PATCH}
    config = {"model_cfg": {"embed_dim": 8, "quick_gelu": True, "vision_cfg": vision, "text_cfg": {}}, "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return family


OPEN_CLIP_NAMES = (
    (r"^", "visual."),
    (r"blocks\.", "transformer.resblocks."),
    (r"\.norm([12])\.", r".ln_\1."),
    (r"attn\.qkv\.", "attn.in_proj_"),
    (r"attn\.proj", "attn.out_proj"),
    (r"mlp\.fc1", "mlp.c_fc"),
    (r"mlp\.fc2", "mlp.c_proj"),
    (r"patch_embed\.proj", "conv1"),
    (r"norm_pre", "ln_pre"),
    (r"^visual\.norm\.", "visual.ln_post."),
    (r"cls_token", "class_embedding"),
    (r"pos_embed", "positional_embedding"),
)

EXACT: dict[str, Callable[[Path], Family]] = {
    "timm's ViT": of_timm("vit_base_patch16_224"),
    "DeiT": of_timm("deit_base_patch16_224"),
    "DeiT III": of_timm("deit3_base_patch16_224"),
    "FlexiViT": of_timm("flexivit_base"),
    "DINOv2": of_timm("vit_base_patch14_dinov2"),
    "MAE": of_timm("vit_base_patch16_224.mae", logits=False),
    "heads of another number": of_timm("vit_small_patch16_224", num_heads=12),
    "no bias of query, key and value": of_timm("vit_base_patch16_224", qkv_bias=False),
    "an image that is no square": of_timm("vit_base_patch16_224", img_size=(16, 64)),
    "timm's CLIP": of_timm("vit_base_patch16_clip_224", logits=False),
    "timm's CLIP with a classifier": of_timm("vit_base_patch16_clip_224"),
    "timm's CLIP with the quick GELU": of_timm("vit_base_patch16_clip_quickgelu_224"),
    "OpenCLIP": of_open_clip,
    "torchvision's ViT": of_torchvision,
    "Hugging Face ViT": of_huggingface(
        lambda: transformers.ViTForImageClassification(transformers.ViTConfig(**HUGGINGFACE, **LABELS)), of_vit
    ),
    "Hugging Face ViT without bias": of_huggingface(
        lambda: transformers.ViTForImageClassification(transformers.ViTConfig(**HUGGINGFACE, **LABELS, qkv_bias=False)), of_vit
    ),
    "Hugging Face MSN": of_huggingface(
        lambda: transformers.ViTMSNModel(transformers.ViTMSNConfig(**HUGGINGFACE)), tokens_of, num_classes=2
    ),
    "Hugging Face DINOv2": of_huggingface(
        lambda: transformers.Dinov2Model(transformers.Dinov2Config(**HUGGINGFACE)), tokens_of, num_classes=2
    ),
    "Hugging Face DINOv2 with a classifier": of_huggingface(
        lambda: transformers.Dinov2ForImageClassification(transformers.Dinov2Config(**HUGGINGFACE, **LABELS)),
        lambda model, pixels: tokens_of(model.dinov2, pixels),
        num_classes=2,
    ),
    "Hugging Face CLIP": of_huggingface(
        lambda: transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**HUGGINGFACE)), of_clip, num_classes=2
    ),
    "Hugging Face CLIP with the exact GELU": of_huggingface(
        lambda: transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**HUGGINGFACE, hidden_act="gelu")),
        of_clip,
        num_classes=2,
    ),
    "Hugging Face MAE": of_huggingface(
        lambda: transformers.ViTMAEModel(transformers.ViTMAEConfig(**HUGGINGFACE, mask_ratio=0.0)), of_mae, num_classes=2
    ),
    "Hugging Face MAE with its decoder": of_huggingface(
        mae_with_decoder, lambda model, pixels: of_mae(model.vit, pixels), num_classes=2
    ),
}


@pytest.fixture(scope="module", params=EXACT)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    return EXACT[request.param](tmp_path_factory.mktemp("family") / "model")


def assert_equal(ours: Any, theirs: torch.Tensor | None) -> None:
    """Compare to 1e-5 of the largest value."""
    if theirs is not None:
        expected = theirs.numpy()
        np.testing.assert_allclose(np.asarray(ours).reshape(expected.shape), expected, rtol=0, atol=1e-5 * abs(expected).max())


def test_image_families_match_features_and_logits(family: Family):
    """On a still video, which the extra attention steps initially leave unchanged."""
    pretrained = tsf.load(family.source, num_frames=2, **family.options)
    height, width = tsf.modeling.checks.pair(pretrained.model.image_size)
    pixels = np.random.default_rng(0).normal(size=(2, 3, height, width)).astype(np.float32)
    with torch.no_grad():
        expected = family.outputs(torch.from_numpy(pixels))
    guessed = {guess.partition(" ")[0] for guess in pretrained.report.guesses} - {"pixels"}
    assert guessed == (set() if any(family.source.glob("*.json")) else {"num_heads"})
    video = jnp.repeat(jnp.asarray(pixels.transpose(0, 2, 3, 1))[:, None], 2, axis=1)
    features = pretrained.model.apply({"params": pretrained.params}, video, method="features")
    assert_equal(features.cls, expected.cls)
    for frame in range(2):
        assert_equal(features.patches[:, frame], expected.patches)
    if expected.logits is not None:
        assert_equal(pretrained(video), expected.logits)


def test_one_step_of_fine_tuning_from_image_weights(family: Family, tmp_path: Path):
    """With a recipe that derives the model from the weights, all but the classifier is theirs, and every parameter moves."""
    given = {"init_from": str(family.source), "model.num_frames": 2}
    config = follow_weights(config_of("folder", "video_folder,finetune", **given), str(tmp_path), "train")
    model = tsf.TimeSformer(num_classes=3, **config.model)
    pretrained = tsf.load(family.source, model=model, num_classes=3, allow=config.init_from_allow)
    assert not any("outputs differ" in note for note in pretrained.report.notes)
    mesh = training.make_mesh(jax.devices()[:1])
    optimizer = optax.sgd(1e-3)
    state = training.init_state(model, optimizer, 0, mesh, params=pretrained.params)
    before = jax.tree.map(np.array, state.params)
    height, width = tsf.modeling.checks.pair(model.image_size)
    batch = {"video": np.random.default_rng(0).normal(size=(2, 2, height, width, 3)).astype(np.float32), "label": np.arange(2)}
    step = training.make_train_step(
        model=model, optimizer=optimizer, prepare=lambda key, batch: batch["video"], seed=0, mesh=mesh
    )
    with jax.numpy_dtype_promotion("standard"):
        state, metrics = step(state, jax.tree.map(jnp.asarray, batch))
    assert np.isfinite(metrics["loss"])
    assert metrics["skipped"] == 0
    moved = jax.tree.leaves(jax.tree.map(lambda old, new: bool((old != np.asarray(new)).any()), before, state.params))
    assert sum(moved) > len(moved) / 2


def small(**fields: Any) -> dict[str, Any]:
    return {**HUGGINGFACE, **fields}


REFUSALS: dict[str, tuple[Callable[[], Any], str]] = {
    "registers (timm)": (
        lambda: timm.create_model("vit_base_patch14_reg4_dinov2", **TIMM),
        "register tokens",
    ),
    "registers (transformers)": (
        lambda: transformers.Dinov2WithRegistersModel(transformers.Dinov2WithRegistersConfig(**HUGGINGFACE)),
        "register tokens",
    ),
    "SigLIP (timm)": (lambda: timm.create_model("vit_base_patch16_siglip_224", **TIMM), "attention pooling"),
    "SigLIP (transformers)": (
        lambda: transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**HUGGINGFACE)),
        "attention pooling",
    ),
    "I-JEPA": (lambda: transformers.IJepaModel(transformers.IJepaConfig(**HUGGINGFACE)), "no class token"),
    "BEiT (timm)": (lambda: timm.create_model("beit_base_patch16_224", **TIMM), "relative positions"),
    "BEiT (transformers)": (
        lambda: transformers.BeitModel(transformers.BeitConfig(**HUGGINGFACE, use_relative_position_bias=True)),
        "relative positions",
    ),
    "SAM": (lambda: timm.create_model("samvit_base_patch16", **TIMM), "relative positions"),
    "EVA02": (lambda: timm.create_model("eva02_base_patch14_224", **TIMM), "rotary|SwiGLU"),
    "DINOv3 (timm)": (lambda: timm.create_model("vit_base_patch16_dinov3", **TIMM), "rotary|register"),
    "DINOv3 (transformers)": (
        lambda: transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**HUGGINGFACE)),
        "rotary|register",
    ),
    "PE": (lambda: timm.create_model("vit_pe_core_base_patch16_224", **TIMM), "attention pooling|rotary"),
    "SwiGLU (timm)": (lambda: timm.create_model("vit_giant_patch14_dinov2", **TIMM), "SwiGLU"),
    "SwiGLU (transformers)": (
        lambda: transformers.Dinov2Model(transformers.Dinov2Config(**HUGGINGFACE, use_swiglu_ffn=True)),
        "SwiGLU",
    ),
    "rotary positions without a tensor": (
        lambda: timm.create_model("vit_base_patch16_rope_ape_224", **TIMM),
        "rotary positions",
    ),
    "a distillation token": (
        lambda: timm.create_model("deit_base_distilled_patch16_224", **TIMM),
        "distillation token",
    ),
    "DeiT (transformers)": (
        lambda: transformers.DeiTModel(transformers.DeiTConfig(**HUGGINGFACE)),
        "distillation token",
    ),
    "VideoMAE": (
        lambda: transformers.VideoMAEModel(transformers.VideoMAEConfig(**HUGGINGFACE, num_frames=4)),
        "tubelets",
    ),
    "ViViT": (lambda: transformers.VivitModel(transformers.VivitConfig(**HUGGINGFACE, num_frames=4)), "tubelets"),
    "YOLOS": (
        lambda: transformers.YolosModel(transformers.YolosConfig(**small(image_size=[SIZE, SIZE]), num_detection_tokens=2)),
        "detection tokens",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_unsupported_image_models_are_rejected(name: str, tmp_path: Path):
    """Refused by the tensors alone, whether or not a classifier is requested."""
    make, feature = REFUSALS[name]
    save_file({key: tensor.contiguous() for key, tensor in noisy(make()).state_dict().items()}, tmp_path / "a.safetensors")
    for options in ({}, {"num_classes": 2}):
        with pytest.raises(tsf.InputError, match=feature) as caught:
            tsf.load(tmp_path / "a.safetensors", **options)
        assert len(str(caught.value)) < 700


def test_pooled_classifiers_are_replaced(tmp_path: Path):
    """A classifier of the mean of the patches can have the names of one on the class token."""
    model = noisy(timm.create_model("vit_base_patch16_224", **TIMM, num_classes=5, global_pool="avg", fc_norm=False))
    save_for_hf(model, tmp_path, safe_serialization=True)
    with pytest.raises(tsf.InputError, match=r"the mean of the patches \(global_pool='avg' in config.json\).*num_classes="):
        tsf.load(tmp_path)
    pixels = np.random.default_rng(0).normal(size=(1, 3, SIZE, SIZE)).astype(np.float32)
    pretrained = tsf.load(tmp_path, num_classes=2)
    video = jnp.asarray(pixels.transpose(0, 2, 3, 1))[:, None]
    features = pretrained.model.apply({"params": pretrained.params}, video, method="features")
    with torch.no_grad():
        assert_equal(features.cls, model.forward_features(torch.from_numpy(pixels))[:, 0])


def test_architecture_constants_match_timm():
    """The table is right for every timm image transformer with a class token and plain blocks."""
    checked = 0
    for name in [name for module in ("vision_transformer", "deit") for name in timm.list_models(module=module)]:
        with torch.device("meta"):
            model: Any = timm.create_model(name, depth=1)
        block = model.blocks[0]
        plain = type(block) is timm.models.vision_transformer.Block and type(block.mlp).__name__ == "Mlp"
        if not plain or not model.has_class_token or model.num_reg_tokens or not isinstance(model.norm, torch.nn.LayerNorm):
            continue
        checked += 1
        acts = {"GELU": "gelu", "QuickGELU": "quick_gelu", "GELUTanh": "gelu_tanh"}
        expected = {"activation": acts[type(block.mlp.act).__name__], "layer_norm_epsilon": model.norm.eps}
        if model.embed_dim in HEADS:
            expected["num_heads"] = block.attn.num_heads
        assert fields_of_architecture(name, model.embed_dim, "config.json") == expected, name
    assert checked > 60


def test_architectures_with_rotary_positions_are_rejected():
    """Covers every timm architecture whose tensors could be taken for a plain model's."""
    for name in timm.list_models(module="eva"):
        if "rope" in name or "dinov3" in name or "eva02" in name or "_pe_" in name:
            assert any(re.fullmatch(pattern, name) for pattern, _ in REFUSED), name


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_defaults_match_transformers(model_type: str):
    config = transformers.AutoConfig.for_model(model_type)
    expected = fields_of_config(config.to_dict())
    stated = fields_of_config({"model_type": model_type})
    assert stated == {name: expected[name] for name in ("activation", "layer_norm_epsilon")}
