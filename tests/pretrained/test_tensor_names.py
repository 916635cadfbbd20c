"""Tensor names left by training code and wrappers: equal weights, or a choice that the message names."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest

import timesformer_jax as tsf
from tests.pretrained.files import golden_huggingface, golden_tensors, official_file, write_safetensors
from tests.support import load_golden
from timesformer_jax.pretrained.matching import recognise
from timesformer_jax.pretrained.tensor_files import open_tensors
from timesformer_jax.pretrained.tensor_names import choose_one


def assert_divided(pretrained: tsf.Pretrained):
    jax.tree.map(np.testing.assert_array_equal, pretrained.params, load_golden("divided_space_time").params())


@pytest.mark.parametrize(
    "prefix", ["net.", "_orig_mod.", "backbone.", "module.module.", "model.backbone.", "module._orig_mod.model.encoder."]
)
def test_prefixes_are_stripped_in_any_combination(prefix: str, tmp_path: Path):
    path = official_file(tmp_path / "a.safetensors", prefix=prefix)
    assert_divided(tsf.load(path, num_heads=3, format=None))


@pytest.mark.parametrize("prefix", ["", "net.", "module._orig_mod."])
@pytest.mark.parametrize("short", [False, True])
def test_prefixes_of_hugging_face_names_are_stripped(prefix: str, short: bool, tmp_path: Path):
    """Including the model without a classifier, whose names lack `timesformer.`."""
    tensors = golden_tensors("huggingface_divided")
    if short:
        tensors = {name.removeprefix("timesformer."): tensor for name, tensor in tensors.items() if "classifier" not in name}
    path = write_safetensors(tmp_path / "a", {prefix + name: tensor for name, tensor in tensors.items()})
    found = recognise(open_tensors(path), str(path))
    assert (found.format.title, len(found.places)) == ("Hugging Face TimeSformer", len(tensors))


def test_wrapper_components_within_names_are_removed(tmp_path: Path):
    """Names of compiled, sharded or rematerialized blocks, and the counter of an averaged model."""
    tensors = {
        re.sub(r"^(blocks\.\d+\.)", r"\1_checkpoint_wrapped_module._fsdp_wrapped_module.", name): tensor
        for name, tensor in golden_tensors("official_divided_space_time").items()
    }
    tensors = {f"module.{name}": tensor for name, tensor in tensors.items()} | {"n_averaged": np.ones(1, np.int64)}
    pretrained = tsf.load(write_safetensors(tmp_path / "a", tensors), num_heads=3)
    assert_divided(pretrained)
    assert pretrained.report.ignored.keys() == {"n_averaged"}


def test_classifier_next_to_the_backbone_is_read(tmp_path: Path):
    tensors = {
        ("model." if name.startswith("head.") else "model.backbone.") + name: tensor
        for name, tensor in golden_tensors("official_divided_space_time").items()
    }
    assert_divided(tsf.load(write_safetensors(tmp_path / "a", tensors), num_heads=3))


def test_moving_average_in_the_names_is_ignored(tmp_path: Path):
    tensors = golden_tensors("official_divided_space_time")
    both = {f"model.{k}": v for k, v in tensors.items()} | {f"ema_model.{k}": v + 1 for k, v in tensors.items()}
    path = write_safetensors(tmp_path / "a", both)
    pretrained = tsf.load(path, num_heads=3)
    assert_divided(pretrained)
    assert "prefix='ema_model.' chooses that one" in str(pretrained.report)
    average = tsf.load(path, num_heads=3, prefix="ema_model.")
    np.testing.assert_array_equal(average.params["norm"]["scale"], tensors["norm.weight"] + 1)
    assert "not under the prefix ema_model." in str(average.report)


def test_moving_average_of_a_compiled_pair_is_ignored(tmp_path: Path):
    """`torch.compile` outside the container of both models, whose names it precedes."""
    tensors = golden_tensors("official_divided_space_time")
    both = {f"_orig_mod.{prefix}.{k}": v + i for i, prefix in enumerate(("model", "ema")) for k, v in tensors.items()}
    pretrained = tsf.load(write_safetensors(tmp_path / "a", both), num_heads=3)
    assert_divided(pretrained)
    assert len(pretrained.report.ignored) == len(tensors)


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (("semantic.", "motion."), None),
        (("swap.", "motion."), None),
        (("model", "model_ema"), "model"),
        (("state_dict_ema", "state_dict"), "state_dict"),
        (("EMA.net.", "net."), "net."),
        (("swa_model.", "net."), "net."),
        (("net.", "averaged."), "net."),
        (("semantic",), "semantic"),
    ],
)
def test_averages_are_recognised_by_whole_words(names: tuple[str, ...], chosen: str | None):
    assert choose_one(names) == chosen


def test_multiple_models_need_a_choice(tmp_path: Path):
    tensors = golden_tensors("official_divided_space_time")
    both = {f"student.net.{k}": v for k, v in tensors.items()} | {f"teacher.net.{k}": v + 1 for k, v in tensors.items()}
    path = write_safetensors(tmp_path / "a", both)
    with pytest.raises(tsf.InputError, match=r"several models, under the prefixes student\.net\., teacher\.net\.: choose"):
        tsf.load(path, num_heads=3)
    assert_divided(tsf.load(path, num_heads=3, prefix="student."))
    with pytest.raises(tsf.InputError, match=r"No tensor of .* has the prefix 'pupil'; .* begin with student\., teacher\.\."):
        tsf.load(path, num_heads=3, prefix="pupil")


def test_allow_patterns_match_names_without_their_prefix(tmp_path: Path):
    tensors = golden_tensors("official_divided_space_time") | {"decoder_norm.weight": np.ones(3, np.float32)}
    path = write_safetensors(tmp_path / "a", {f"module.{name}": tensor for name, tensor in tensors.items()})
    with pytest.raises(tsf.InputError, match=r"module\.decoder_norm\.weight \(3,\): no place in the model.*--allow"):
        tsf.load(path, num_heads=3)
    for pattern in ("decoder_.*", r"module\.decoder_.*"):
        assert tsf.load(path, num_heads=3, allow=pattern).report.ignored.keys() == {"module.decoder_norm.weight"}


@pytest.mark.parametrize("head", ["fc", "heads", "classifier", "linear_head", "dino_head"])
def test_allowed_heads_of_other_tasks_leave_the_classifier(head: str, tmp_path: Path):
    tensors = golden_tensors("official_divided_space_time")
    others = {f"{head}.weight": np.ones((7, 24), np.float32), f"{head}.bias": np.ones(7, np.float32)}
    path = write_safetensors(tmp_path / "a", {f"module.{name}": tensor for name, tensor in (tensors | others).items()})
    for options in ({}, {"num_classes": 5}):
        pretrained = tsf.load(path, num_heads=3, allow=[f"{head}.*"], **options)
        np.testing.assert_array_equal(pretrained.params["head"]["kernel"].T, tensors["head.weight"])
        assert pretrained.report.ignored.keys() == {f"module.{name}" for name in others}
    with pytest.raises(tsf.InputError, match="classifier of another task, or of several layers"):
        tsf.load(path, num_heads=3)


def test_allowed_layers_before_the_classifier_still_drop_it(tmp_path: Path):
    tensors = golden_tensors("official_divided_space_time") | {"pre_logits.fc.weight": np.ones((24, 24), np.float32)}
    with pytest.raises(tsf.InputError, match="classifier of another layer after the CLS"):
        tsf.load(write_safetensors(tmp_path / "a", tensors), num_heads=3, allow=["pre_logits.*"])


def test_entry_of_a_file_without_entries_is_rejected(tmp_path: Path):
    path = official_file(tmp_path / "a.safetensors")
    with pytest.raises(tsf.InputError, match=r"without entries such as 'model_ema': .* with prefix=\.\.\."):
        tsf.load(path, entry="model_ema")


def test_entry_selects_parameters_of_a_checkpoint(tmp_path: Path):
    tsf.save(tsf.load(golden_huggingface(tmp_path / "folder")), tmp_path / "own")
    assert tsf.load(tmp_path / "own", entry="params").report.entry == "params"
    with pytest.raises(tsf.InputError, match=r"has no entry 'ema' of parameters, but params\."):
        tsf.load(tmp_path / "own", entry="ema")
