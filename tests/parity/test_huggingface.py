"""Comparison with Hugging Face transformers on random weights, in both directions."""

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

import timesformer_jax as tsf
from tests.support import moving_square, random_variables, write_video
from timesformer_jax.modeling import flatten_params

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default")]

SMALL = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 96,
    "image_size": 16,
    "patch_size": 4,
}


def randomised(model: Any, scale: float) -> Any:
    """Shift every parameter so that none is zero or one."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def theirs(model: Any, pixels: np.ndarray) -> Any:
    with torch.no_grad():
        return model(torch.from_numpy(pixels))


def video_model(**fields: Any) -> Any:
    return transformers.TimesformerForVideoClassification(transformers.TimesformerConfig(**fields))


@pytest.mark.parametrize("attention_type", ["divided_space_time", "joint_space_time"])
@pytest.mark.parametrize("form", ["safetensors", "bin", "sharded", "sharded bin", "one file"])
def test_every_form_of_transformers_files_is_read(form: str, attention_type: str, tmp_path: Path):
    model = randomised(video_model(**SMALL, num_frames=4, num_labels=5, attention_type=attention_type), 0.3)
    model.config.save_pretrained(tmp_path)
    if form == "bin":
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    elif form == "sharded bin":
        items, index = list(model.state_dict().items()), {}
        for i in range(2):
            torch.save(dict(items[i::2]), tmp_path / f"pytorch_model-{i}.bin")
            index |= {name: f"pytorch_model-{i}.bin" for name, _ in items[i::2]}
        (tmp_path / "pytorch_model.bin.index.json").write_text(__import__("json").dumps({"weight_map": index}))
    else:
        model.save_pretrained(tmp_path, max_shard_size="20KB" if form == "sharded" else "1GB")
        assert len(list(tmp_path.glob("*.safetensors"))) == (1 if form != "sharded" else len(list(tmp_path.glob("model-*"))))
    pretrained = tsf.load(tmp_path / "model.safetensors" if form == "one file" else tmp_path)
    pixels = np.random.default_rng(0).normal(size=(2, 4, 3, 16, 16)).astype(np.float32)
    expected = theirs(model, pixels).logits.numpy()
    np.testing.assert_allclose(pretrained(pixels.transpose(0, 1, 3, 4, 2)), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("config_size", "height", "width"),
    # Their layers only accept sizes whose number of patches the configured row divides; the embedding is resized on the way.
    [(224, 224, 224), (256, 256, 320)],
    ids=["224", "256x320"],
)
@pytest.mark.parametrize("num_frames", [8, 12, 16])
def test_base_size_round_trip(num_frames: int, config_size: int, height: int, width: int, tmp_path: Path):
    model = randomised(video_model(num_frames=num_frames, image_size=config_size, num_labels=400), 0.01)
    model.save_pretrained(tmp_path / "theirs")
    pixels = np.random.default_rng(0).normal(size=(1, num_frames, 3, height, width)).astype(np.float32)
    expected = theirs(model, pixels)
    pretrained = tsf.load(tmp_path / "theirs", scan_layers=True)
    assert (pretrained.model.num_frames, pretrained.model.image_size) == (num_frames, config_size)
    ours = pretrained(pixels.transpose(0, 1, 3, 4, 2))
    np.testing.assert_allclose(ours, expected.logits.numpy(), atol=1e-5)

    tsf.save_huggingface(pretrained, tmp_path / "ours")
    again = transformers.TimesformerForVideoClassification.from_pretrained(tmp_path / "ours").eval()
    for (name, before), (other, after) in zip(model.state_dict().items(), again.state_dict().items(), strict=True):
        assert name == other
        assert torch.equal(before, after), name
    # Only to rounding: the same weights in memory of another alignment may be summed in another order.
    np.testing.assert_allclose(theirs(again, pixels).logits.numpy(), expected.logits.numpy(), atol=1e-5)


def test_hidden_states_match_transformers(tmp_path: Path):
    model = randomised(video_model(**SMALL, num_frames=4, num_labels=5), 0.3)
    model.save_pretrained(tmp_path)
    pixels = np.random.default_rng(0).normal(size=(2, 4, 3, 16, 16)).astype(np.float32)
    with torch.no_grad():
        expected = model(torch.from_numpy(pixels), output_hidden_states=True).hidden_states
    pretrained = tsf.load(tmp_path)
    video = jnp.asarray(pixels.transpose(0, 1, 3, 4, 2))
    blocks = pretrained.model.apply({"params": pretrained.params}, video, method="features", blocks=True).blocks
    patches = blocks.patches.transpose(0, 1, 3, 4, 2, 5).reshape(2, 2, -1, 24)  # [depth, B, T, h, w, D] -> [.., h w T, D]
    for block in range(2):
        hidden = np.concatenate([blocks.cls[block], patches[block]], axis=1)
        np.testing.assert_allclose(hidden, expected[block + 1].numpy(), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu"])
def test_activations_match_transformers(activation: str, tmp_path: Path):
    model = randomised(video_model(**SMALL, num_frames=2, num_labels=5, hidden_act=activation, layer_norm_eps=1e-3), 0.3)
    model.save_pretrained(tmp_path / "theirs")
    pixels = np.random.default_rng(0).normal(size=(1, 2, 3, 16, 16)).astype(np.float32)
    pretrained = tsf.load(tmp_path / "theirs")
    np.testing.assert_allclose(pretrained(pixels.transpose(0, 1, 3, 4, 2)), theirs(model, pixels).logits.numpy(), atol=1e-5)
    tsf.save_huggingface(pretrained, tmp_path / "ours")
    again = transformers.TimesformerForVideoClassification.from_pretrained(tmp_path / "ours").eval()
    np.testing.assert_allclose(theirs(again, pixels).logits.numpy(), theirs(model, pixels).logits.numpy(), atol=1e-5)


def image_models() -> dict[str, Any]:
    vit = transformers.ViTConfig(**SMALL, num_labels=5)
    clip = transformers.CLIPVisionConfig(**SMALL, projection_dim=8)
    text = transformers.CLIPTextConfig(
        vocab_size=20, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, projection_dim=8
    )
    return {
        "vit": transformers.ViTForImageClassification(vit),
        "vit without a classifier": transformers.ViTModel(vit),
        "clip's image tower": transformers.CLIPVisionModel(clip),
        "clip's image tower with its projection": transformers.CLIPVisionModelWithProjection(clip),
        "clip": transformers.CLIPModel(
            transformers.CLIPConfig(text_config=text.to_dict(), vision_config=clip.to_dict(), projection_dim=8)
        ),
    }


@pytest.mark.parametrize("name", image_models())
def test_image_models_match_transformers_on_still_videos(name: str, tmp_path: Path):
    """The CLS after the last LayerNorm matches, and so do the logits if there is a classifier."""
    model = randomised(image_models()[name], 0.2)
    model.save_pretrained(tmp_path)
    images = np.random.default_rng(0).normal(size=(2, 3, 16, 16)).astype(np.float32)
    tower = getattr(model, "vision_model", None) or getattr(model, "vit", model)
    with torch.no_grad():
        outputs = tower(torch.from_numpy(images))
    is_clip = "clip" in name
    expected = (outputs.pooler_output if is_clip else outputs.last_hidden_state[:, 0]).numpy()
    pretrained = tsf.load(tmp_path, num_frames=3, **({} if name == "vit" else {"num_classes": 2}))
    video = jnp.repeat(jnp.asarray(images.transpose(0, 2, 3, 1))[:, None], 3, axis=1)
    features = pretrained.model.apply({"params": pretrained.params}, video, method="features")
    np.testing.assert_allclose(features.cls, expected, atol=2e-5)
    if name == "vit":
        np.testing.assert_allclose(pretrained(video), theirs(model, images).logits.numpy(), atol=2e-5)
    assert pretrained.model.layer_norm_epsilon == (1e-5 if is_clip else 1e-12)


def test_transformers_processor_reads_a_saved_folder(tmp_path: Path):
    """Frames at a size that needs no scaling yield the same pixels."""
    model = tsf.create("timesformer-nano", num_classes=2)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 2, 16, 16, 3)))["params"]
    preprocess = tsf.Preprocess(num_frames=2, crop_size=16, mean=(0.4, 0.5, 0.6))
    tsf.save_huggingface(tsf.Pretrained(model, params, preprocess), tmp_path / "ours")
    assert len(flatten_params(params)) > 20
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "ours")
    frames = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    theirs = processor(list(frames), return_tensors="np")["pixel_values"]  # [1, T, C, H, W]
    ours = preprocess(frames, num_crops=1)
    np.testing.assert_allclose(np.asarray(theirs)[0].transpose(0, 2, 3, 1), ours[0], atol=1e-5)


def test_in_memory_names_of_transformers_5_are_read(tmp_path: Path):
    """`torch.save(model.state_dict())` uses other names than transformers' own files."""
    model = randomised(image_models()["vit"], 0.2)
    model.save_pretrained(tmp_path / "folder")
    torch.save(model.state_dict(), tmp_path / "a.pt")
    in_memory = tsf.load(tmp_path / "a.pt", num_heads=3)
    assert in_memory.report.format.startswith("a Hugging Face image transformer")
    jax.tree.map(np.testing.assert_array_equal, in_memory.params, tsf.load(tmp_path / "folder").params)


def folder_with_a_clip(path: Path, *, height: int, width: int, **preprocessing: Any) -> tsf.Pretrained:
    """A path with FOLDER, which has random weights, and a video clip.mp4."""
    model = tsf.TimeSformer(5, image_size=32, patch_size=8, num_frames=4, embed_dim=48, depth=2, num_heads=3)
    preprocess = tsf.Preprocess(num_frames=4, crop_size=32, **preprocessing)
    mine = tsf.Pretrained(model, random_variables(model)["params"], preprocess, tuple("abcde"))
    tsf.save_huggingface(mine, path / "FOLDER")
    write_video(path / "clip.mp4", moving_square(0, 0, num_frames=40, height=height, width=width))
    return tsf.load(path / "FOLDER")


def run_card(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, float] | None, np.ndarray]:
    """Run the Python of a model card: returns the pipeline's probabilities (None without it), and those of our frames."""
    monkeypatch.chdir(folder.parent)
    names: dict[str, Any] = {}
    for code in re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), flags=re.DOTALL):
        exec(compile(code, "model card", "exec"), names)
    found = names.get("predictions")
    return found and {row["label"]: row["score"] for row in found}, names["probabilities"].numpy()


@pytest.mark.parametrize(
    ("preprocessing", "height", "width"),
    [
        ({"sampling_rate": 8.0}, 32, 48),
        ({"sampling_rate": 8.0, "short_side": 40}, 40, 64),
        ({"sampling_rate": 2.5, "short_side": 72}, 48, 64),
    ],
    ids=["crop alone", "border cropped", "scaled up"],
)
def test_transformers_pipeline_agrees_with_predict(
    preprocessing: dict[str, Any], height: int, width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Runs the model card's own code on a file with one crop; other scaling or another rate gives very different results."""
    pretrained = folder_with_a_clip(tmp_path, height=height, width=width, **preprocessing)
    expected = dict(pretrained.predict(tmp_path / "clip.mp4", num_crops=1))
    pipeline, ours = run_card(tmp_path / "FOLDER", monkeypatch)
    assert pipeline == pytest.approx(expected, abs=1e-3)
    assert dict(zip(pretrained.labels or (), ours.tolist(), strict=True)) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    "preprocessing", [{"channel_order": "bgr"}, {"sampling": "segments"}, {"placement": "centre"}], ids=str
)
def test_model_card_code_yields_the_same_frames(preprocessing: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Also when frames are scaled down, where the pipeline's antialiasing would give another image."""
    pretrained = folder_with_a_clip(tmp_path, height=90, width=122, sampling_rate=6.0, short_side=37, **preprocessing)
    expected = dict(pretrained.predict(tmp_path / "clip.mp4", num_crops=1))
    pipeline, ours = run_card(tmp_path / "FOLDER", monkeypatch)
    assert (pipeline is None) == ("placement" not in preprocessing)
    assert dict(zip(pretrained.labels or (), ours.tolist(), strict=True)) == pytest.approx(expected, abs=1e-5)


def test_transformers_configuration_keeps_the_number_of_frames(tmp_path: Path):
    folder_with_a_clip(tmp_path, height=32, width=48, sampling_rate=6.0)
    config = transformers.AutoConfig.from_pretrained(tmp_path / "FOLDER")
    assert (config.num_frames, config.frame_sampling_rate, config.frame_rate) == (4, 6, 30)
