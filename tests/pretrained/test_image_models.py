"""Image transformers of every kind become video models that initially compute the same."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import timesformer_jax as tsf
from experiment.init_from import UNUSED_EMBEDDINGS
from tests.pretrained.files import golden_arrays, golden_tensors, write_folder, write_safetensors
from timesformer_jax.modeling import flatten_params
from timesformer_jax.pretrained.matching import recognise
from timesformer_jax.pretrained.tensor_files import Tensors
from timesformer_jax.pretrained.weight_formats import FORMATS

DRAW = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("attention_type", "initialization", "spread"),
    [
        ("divided_space_time", "from_scratch", 0.02),  # for models without weights; unused here
        ("joint_space_time", "official", 0.02),
        ("divided_space_time", "from_images", (2 / (24 + 5)) ** 0.5),
    ],
)
def test_inflation_matches_the_official_code(attention_type: str, initialization: str, spread: float, tmp_path: Path):
    """The released loader's tensors are matched bit by bit, and so are the official model's features on them.

    The initialization only decides how the new classifier is drawn.
    """
    golden = golden_arrays(f"inflate_{attention_type}")
    source = write_safetensors(tmp_path / "vit", golden_tensors(f"inflate_{attention_type}", "vit/"))
    options: dict[str, Any] = {"num_heads": 3, "num_classes": 5, "num_frames": 4, "attention_type": attention_type}
    options["initialization"] = initialization
    pretrained = tsf.load(source, **options)
    assert pretrained.report.format == "a timm or DeiT image transformer"
    assert float(np.std(pretrained.params["head"]["kernel"])) == pytest.approx(spread, rel=0.25)
    expected = golden_tensors(f"inflate_{attention_type}", "expected/")
    head = {"head.weight": np.zeros((5, 24), np.float32), "head.bias": np.zeros(5, np.float32)}
    official = write_safetensors(tmp_path / "official", {f"model.{k}": v for k, v in {**expected, **head}.items()})
    params = tsf.load(official, num_heads=3).params
    for path, array in flatten_params(params).items():
        if not path.startswith("head/"):
            np.testing.assert_array_equal(flatten_params(pretrained.params)[path], array, err_msg=path)
    video = jnp.asarray(golden["input_bcthw"].transpose(0, 2, 3, 4, 1))
    np.testing.assert_allclose(both(pretrained, video)[1].cls, golden["features"], atol=1e-5)


class Mlp(nn.Module):
    @nn.compact
    def __call__(self, x):
        hidden = nn.gelu(nn.Dense(96)(x))
        return nn.Dense(x.shape[-1])(hidden)


class OldBlock(nn.Module):
    """A block as in vision_transformer, which numbers all modules together."""

    @nn.compact
    def __call__(self, x):
        y = nn.LayerNorm(name="LayerNorm_0")(x)
        x = x + nn.MultiHeadDotProductAttention(num_heads=3, name="MultiHeadDotProductAttention_1")(y, y)
        return x + Mlp(name="MlpBlock_3")(nn.LayerNorm(name="LayerNorm_2")(x))


class NewBlock(nn.Module):
    """A block as in big_vision, which numbers modules by type."""

    @nn.compact
    def __call__(self, x):
        y = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(num_heads=3)(y, y)
        return x + Mlp(name="MlpBlock_0")(nn.LayerNorm()(x))


class FlaxVit(nn.Module):
    """A JAX image transformer of Flax's own layers; `big` adds positions before the CLS, which then has none."""

    big: bool

    @nn.compact
    def __call__(self, image):
        x = nn.Conv(24, (4, 4), (4, 4), name="embedding")(image)
        x = x.reshape(len(x), -1, 24)
        init = nn.initializers.normal(1.0)
        cls = jnp.tile(self.param("cls", init, (1, 1, 24)), (len(x), 1, 1))
        if self.big:
            x = jnp.concatenate([cls, x + self.param("pos_embedding", init, (1, 16, 24))], axis=1)
        else:
            x = jnp.concatenate([cls, x], axis=1)
        x = Encoder(self.big, name="Transformer")(x)[:, 0]
        return x, nn.Dense(6, name="head")(x)


class Encoder(nn.Module):
    big: bool

    @nn.compact
    def __call__(self, x):
        if not self.big:
            x = Positions(name="posembed_input")(x)
        for i in range(2):
            x = (NewBlock if self.big else OldBlock)(name=f"encoderblock_{i}")(x)
        return nn.LayerNorm(name="encoder_norm")(x)


class Positions(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x + self.param("pos_embedding", nn.initializers.normal(1.0), (1, 17, 24))


@pytest.fixture(scope="module", params=[False, True], ids=["vision_transformer", "big_vision"])
def flax_vit(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    """Make a file of a JAX image transformer, the model, and its parameters."""
    model = FlaxVit(request.param)
    image = jnp.zeros((1, 16, 16, 3))
    with jax.numpy_rank_promotion("allow"):
        shapes = jax.eval_shape(model.init, jax.random.key(0), image)["params"]
        # Nothing may be zero or one, so that a misplaced tensor is noticed.
        params = jax.tree.map(lambda leaf: jnp.asarray(DRAW.normal(size=leaf.shape) * 0.4, jnp.float32), shapes)
    path = tmp_path_factory.mktemp("npz") / "vit.npz"
    prefix = "params/" if request.param else ""
    np.savez(path, **{prefix + name: np.asarray(array) for name, array in flatten_params(params).items()})
    return path, model, params


def image_outputs(model: Any, params: Any, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    with jax.numpy_rank_promotion("allow"):
        return jax.jit(model.apply)({"params": params}, images)


BOTH = jax.jit(
    lambda model, params, video: (
        model.apply({"params": params}, video),
        model.apply({"params": params}, video, method="features"),
    ),
    static_argnums=0,
)


def both(pretrained: tsf.Pretrained, video: jax.Array) -> tuple[jax.Array, tsf.Features]:
    """Logits and features, compiled once for all tests of the same model and shape."""
    return BOTH(pretrained.model, pretrained.params, video)


@pytest.mark.parametrize("attention_type", ["divided_space_time", "space_only"])
def test_still_video_has_the_logits_of_the_image(flax_vit, attention_type: str):
    """If all frames are alike, the video model's initial features and logits are the image model's."""
    path, model, params = flax_vit
    images = jax.random.normal(jax.random.key(1), (2, 16, 16, 3))
    features, logits = image_outputs(model, params, images)
    pretrained = tsf.load(path, num_frames=3, attention_type=attention_type)
    assert pretrained.model.num_heads == 3  # from the kernels' shapes
    assert pretrained.model.num_classes == 6
    own_logits, own = both(pretrained, jnp.repeat(images[:, None], 3, axis=1))
    np.testing.assert_allclose(own.cls, features, atol=2e-5)
    np.testing.assert_allclose(own_logits, logits, atol=2e-5)


@pytest.mark.parametrize("attention_type", tsf.SCHEMES)
def test_inflation_copies_attention_to_every_extra_step(flax_vit, attention_type: str):
    pretrained = tsf.load(flax_vit[0], num_frames=3, attention_type=attention_type)
    extra = [name for name, _ in tsf.SCHEMES[attention_type].extra_steps]
    assert len(pretrained.report.copied) == 2 * 6 * len(extra)
    for name in extra:
        block = pretrained.params["blocks_1"]
        jax.tree.map(np.testing.assert_array_equal, block[f"{name}_attn"], block["attn"])
        jax.tree.map(np.testing.assert_array_equal, block[f"{name}_norm1"], block["norm1"])
        assert not block[f"{name}_fc"]["kernel"].any()


@pytest.mark.parametrize("position_embedding", UNUSED_EMBEDDINGS)
def test_init_from_skips_disabled_embeddings(flax_vit, position_embedding: str):
    """No others are dropped, and the report names the tensors in the file."""
    whole = tsf.load(flax_vit[0], num_frames=3)
    model, off = whole.model.clone(position_embedding=position_embedding), UNUSED_EMBEDDINGS[position_embedding]
    loaded = tsf.load(flax_vit[0], model=model, allow=off)
    assert whole.params.keys() - loaded.params.keys() == set(off)
    assert loaded.report.ignored.keys() == {"pos_embed"} & set(off)


def test_logits_of_different_frames_are_averaged(flax_vit):
    """Space-only averages the image model's outputs over frames, before the last LayerNorm."""
    path, model, params = flax_vit
    video = jax.random.normal(jax.random.key(2), (2, 3, 16, 16, 3))
    pretrained = tsf.load(path, num_frames=3, attention_type="space_only")
    _, own = both(pretrained, video)
    frames, _ = image_outputs(model, params, video.reshape(-1, 16, 16, 3))
    np.testing.assert_allclose(own.frame_cls.reshape(-1, 24), frames, atol=2e-5)


def test_gelu_of_jax_models_is_kept(flax_vit):
    path, _, _ = flax_vit
    assert tsf.load(path).model.activation == "gelu_tanh"
    assert tsf.load(path, activation="gelu").model.activation == "gelu"
    assert tsf.load(path).preprocess.mean == (0.5, 0.5, 0.5)


def test_layer_between_cls_and_classifier_is_reported(flax_vit, tmp_path: Path):
    """Old files have `pre_logits`: their classifier can't be kept even for as many classes, but a fresh one is possible."""
    with np.load(flax_vit[0]) as file:
        arrays = dict(file)
    prefix = "params/" if "params/cls" in arrays else ""
    np.savez(tmp_path / "old.npz", **arrays, **{f"{prefix}pre_logits/kernel": np.zeros((24, 24), np.float32)})
    with pytest.raises(tsf.InputError, match=r"another layer after the CLS \(pre_logits/kernel\).* num_classes="):
        tsf.load(tmp_path / "old.npz")
    for classes in (3, 6):
        assert "fresh classifier" in str(tsf.load(tmp_path / "old.npz", num_classes=classes).report)


def test_model_without_cls_is_rejected(flax_vit, tmp_path: Path):
    with np.load(flax_vit[0]) as file:
        arrays = {name: file[name] for name in file if name not in ("cls", "params/cls")}
    np.savez(tmp_path / "gap.npz", **arrays)
    with pytest.raises(tsf.InputError, match="cls_token"):
        tsf.load(tmp_path / "gap.npz")


def clip_tensors(depth: int = 2, dim: int = 24) -> dict[str, np.ndarray]:
    """A CLIP image tower under Hugging Face's names (which the parity tests compare with transformers itself)."""
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.class_embedding": (dim,),
        "embeddings.position_embedding.weight": (17, dim),
        "embeddings.patch_embedding.weight": (dim, 3, 4, 4),
    }
    for norm in (
        "pre_layrnorm",
        "post_layernorm",
        *(f"encoder.layers.{i}.layer_norm{k}" for i in range(depth) for k in (1, 2)),
    ):
        shapes |= {f"{norm}.weight": (dim,), f"{norm}.bias": (dim,)}
    for i in range(depth):
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= {
                f"encoder.layers.{i}.self_attn.{name}.weight": (dim, dim),
                f"encoder.layers.{i}.self_attn.{name}.bias": (dim,),
            }
        for name, size in (("fc1", (4 * dim, dim)), ("fc2", (dim, 4 * dim))):
            shapes |= {f"encoder.layers.{i}.mlp.{name}.weight": size, f"encoder.layers.{i}.mlp.{name}.bias": size[:1]}
    return {name: DRAW.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


CLIP_CONFIG = {
    "model_type": "clip_vision_model",
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 96,
    "image_size": 16,
    "patch_size": 4,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}


def test_clip_names_of_openai_and_hugging_face_give_the_same_model(tmp_path: Path):
    theirs = clip_tensors()
    folder = write_folder(tmp_path / "hf", theirs, CLIP_CONFIG)
    openai: dict[str, np.ndarray] = {"visual.proj": np.zeros((24, 8), np.float32), "logit_scale": np.zeros((), np.float32)}
    openai["transformer.resblocks.0.ln_1.weight"] = np.ones(8, np.float32)  # belongs to the text tower
    renamed = {
        "embeddings.class_embedding": "class_embedding",
        "embeddings.position_embedding.weight": "positional_embedding",
        "embeddings.patch_embedding.weight": "conv1.weight",
        "pre_layrnorm": "ln_pre",
        "post_layernorm": "ln_post",
        "encoder.layers": "transformer.resblocks",
        "layer_norm": "ln_",
        "self_attn": "attn",
        "fc1": "c_fc",
        "fc2": "c_proj",
    }
    for name, tensor in theirs.items():
        if any(part in name for part in ("q_proj", "k_proj", "v_proj")):
            continue
        for old, new in renamed.items():
            name = name.replace(old, new)
        openai[f"visual.{name}"] = tensor
    for i in range(2):
        for kind in ("weight", "bias"):
            packed = [theirs[f"encoder.layers.{i}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            openai[f"visual.transformer.resblocks.{i}.attn.in_proj_{kind}"] = np.concatenate(packed)
    one = tsf.load(folder, num_classes=4)
    other = tsf.load(write_safetensors(tmp_path / "openai", openai), num_classes=4, num_heads=3)
    jax.tree.map(np.testing.assert_array_equal, one.params, other.params)
    assert one.model == other.model
    assert (one.model.activation, one.model.layer_norm_epsilon, one.model.pre_norm) == ("quick_gelu", 1e-5, True)
    assert not one.params["patch_embed"]["proj"]["bias"].any()
    assert one.report.initialised["patch_embed/proj/bias"].startswith("zero")
    assert set(other.report.ignored) == {"visual.proj", "logit_scale", "transformer.resblocks.0.ln_1.weight"}
    assert one.preprocess.mean[0] == pytest.approx(0.48145466)
    with pytest.raises(tsf.InputError, match="give the number of classes, num_classes="):
        tsf.load(folder)


def test_clip_without_its_first_norm_is_rejected(tmp_path: Path):
    theirs = {name: tensor for name, tensor in clip_tensors().items() if not name.startswith("pre_layrnorm")}
    with pytest.raises(tsf.InputError, match=r"norm_pre/bias .* not in the file"):
        tsf.load(write_folder(tmp_path / "hf", theirs, CLIP_CONFIG), num_classes=4)


def test_linear_patch_embeddings_are_read(tmp_path: Path):
    tensors = golden_tensors("inflate_divided_space_time", "vit/")
    convolution = tsf.load(write_safetensors(tmp_path / "a", tensors), num_heads=3, num_classes=2)
    tensors["patch_embed.proj.weight"] = tensors["patch_embed.proj.weight"].reshape(24, -1)
    linear = tsf.load(write_safetensors(tmp_path / "b", tensors), num_heads=3, num_classes=2)
    jax.tree.map(np.testing.assert_array_equal, linear.params, convolution.params)


def test_image_model_of_another_width_is_rejected(tmp_path: Path):
    source = write_safetensors(tmp_path / "a", golden_tensors("inflate_divided_space_time", "vit/"))
    model = tsf.TimeSformer(5, image_size=16, patch_size=4, num_frames=4, embed_dim=48, depth=2, num_heads=3)
    with pytest.raises(tsf.InputError, match=r"embed_dim is 24 by .*, but 48 by the model"):
        tsf.load(source, model=model, num_classes=5)


@pytest.mark.parametrize("prefix", ["", "model.", "module.model."])
def test_space_only_model_is_an_image_model_unless_stated(prefix: str, tmp_path: Path):
    """Holds for any prefix. The report names the argument to pass; files of the official trainer need none."""
    tensors = {prefix + name: tensor for name, tensor in golden_tensors("official_space_only").items()}
    image = tsf.load(write_safetensors(tmp_path / "a", tensors), num_heads=3)
    assert image.model.attention_type == "divided_space_time"
    assert "format='official'" in str(image.report)
    assert tsf.load(tmp_path / "a", num_heads=3, format="official").model.attention_type == "space_only"
    held = Tensors({name: tensor.shape for name, tensor in tensors.items()}, tensors.__getitem__)
    for stated in ({"wrapper": "model_state"}, {"notes": {"cfg": "TIMESFORMER:\n  ATTENTION_TYPE: space_only\n"}}):
        assert recognise(held._replace(**stated), "it").format is FORMATS["official"]
