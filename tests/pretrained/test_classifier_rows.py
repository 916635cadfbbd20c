"""Classifier rows follow their labels in every file format."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import timesformer_jax as tsf
from tests.pretrained.files import golden_huggingface, golden_tensors, official_file
from tests.support import random_variables
from timesformer_jax.pretrained import save_official
from timesformer_jax.pretrained.classifier_rows import match_rows

NAMES = ("walks, runs", "über", "a", "b", "c")
MORE = ("c", "new", "b", "über", "walks, runs", "a")
"""The same labels in another order, with one more class."""
KEPT = {"c": 4, "b": 3, "über": 1, "walks, runs": 0, "a": 2}


def own(path: Path) -> Path:
    model = tsf.TimeSformer(5, image_size=8, patch_size=4, num_frames=2, embed_dim=24, depth=1, num_heads=3)
    params = random_variables(model)["params"]
    tsf.save(tsf.Pretrained(model, params, tsf.Preprocess(num_frames=2, crop_size=8), NAMES), path)
    return path


def huggingface(path: Path) -> Path:
    folder = golden_huggingface(path)
    config = json.loads((folder / "config.json").read_text())
    config |= {"id2label": dict(enumerate(NAMES)), "label2id": {name: number for number, name in enumerate(NAMES)}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def official(path: Path) -> Path:
    source = official_file(path.with_suffix(".bare.safetensors"))
    save_official(tsf.load(source, num_heads=3, labels=NAMES), path.with_suffix(".safetensors"))
    return path.with_suffix(".safetensors")


def image_model(path: Path) -> Path:
    """A Hugging Face folder of an image transformer, in bfloat16."""
    tensors = {}
    for name, tensor in golden_tensors("huggingface_divided").items():
        rest = name.removeprefix("timesformer.")
        if "temporal" in name or "time_embeddings" in name:
            continue
        if rest.endswith(("qkv.weight", "qkv.bias")):
            for part, array in zip(("query", "key", "value"), np.split(tensor, 3), strict=True):
                tensors["vit." + rest.replace("qkv", part)] = array
        else:
            tensors[rest if rest.startswith("classifier") else f"vit.{rest}"] = tensor
    path.mkdir()
    save_file(
        {name: np.asarray(jnp.asarray(tensor, jnp.bfloat16)) for name, tensor in tensors.items()}, path / "model.safetensors"
    )
    config = {"model_type": "vit", "num_attention_heads": 3, "id2label": dict(enumerate(NAMES)), "image_size": 16}
    (path / "config.json").write_text(json.dumps(config))
    return path


@functools.cache
def drawn() -> dict[str, np.ndarray]:
    """A fresh classifier of six classes."""
    model = tsf.TimeSformer(6, image_size=8, patch_size=4, num_frames=2, embed_dim=24, depth=1, num_heads=3)
    head = jax.jit(lambda key: model.init(key, jnp.zeros((1, 1, 8, 8, 3)))["params"]["head"])(jax.random.key(7))
    return {name: np.asarray(array) for name, array in head.items()}


@pytest.mark.parametrize(
    ("make", "into_a_model"),
    [
        (own, True),
        (huggingface, False),
        (official, False),
        pytest.param(own, False, marks=pytest.mark.slow),
        pytest.param(image_model, True, marks=pytest.mark.slow),
    ],
)
def test_classifier_rows_follow_their_labels(make: Callable[[Path], Path], into_a_model: bool, tmp_path: Path):
    """Labels are permuted with one more class, whose row is that of a fresh classifier."""
    source = make(tmp_path / "weights")
    old = tsf.load(source)
    assert old.labels == NAMES
    model = {"model": old.model.clone(num_classes=6)} if into_a_model else {}
    new = tsf.load(source, num_classes=6, labels=MORE, key=jax.random.key(7), **model)
    assert new.labels == MORE
    for leaf in ("kernel", "bias"):
        ours, theirs = (np.asarray(each.params["head"][leaf]) for each in (new, old))
        for column, label in enumerate(MORE):
            expected = theirs[..., KEPT[label]] if label in KEPT else drawn()[leaf][..., column]
            np.testing.assert_array_equal(ours[..., column], expected, err_msg=label)
    assert new.report.classifier == "5 rows kept by label, 1 fresh ('new'), 0 dropped"
    assert f"  classifier   {new.report.classifier}" in str(new.report)
    assert not new.report.initialised.keys() & {"head/kernel", "head/bias"}
    renamed = tsf.load(source, labels=MORE[1:])
    np.testing.assert_array_equal(renamed.params["head"]["kernel"], old.params["head"]["kernel"])
    assert renamed.labels == MORE[1:]
    assert renamed.report.classifier is None
    reordered, same = (tsf.load(source, labels=names) for names in (NAMES[::-1], NAMES))
    for pretrained, noted in ((reordered, True), (new, False), (renamed, False), (same, False)):
        assert any("own class names in another order" in note for note in pretrained.report.notes) is noted


@pytest.mark.parametrize(
    ("labels", "names", "origins", "account"),
    [
        (["b", "a"], ["a", "b"], [1, 0], "2 rows kept by label, 0 fresh, 0 dropped"),
        (["a", "x"], ["a", "b"], [0, -1], "1 rows kept by label, 1 fresh ('x'), 1 dropped ('b')"),
        (["x", "y"], ["a", "b"], [-1, -1], "0 rows kept by label, 2 fresh ('x', 'y'), 2 dropped ('a', 'b')"),
        (["a"], ["b", "a"], [1], "1 rows kept by label, 0 fresh, 1 dropped ('b')"),
        (["A", "a "], ["a", "b"], [-1, -1], "0 rows kept by label, 2 fresh ('A', 'a '), 2 dropped ('a', 'b')"),
        (["a", "b"], ["a", "a", "b"], [-1, 2], "1 rows kept by label, 1 fresh ('a'), 2 dropped ('a', 'a'); not matched"),
        (["a", "a"], ["a", "b"], [-1, -1], "0 rows kept by label, 2 fresh ('a', 'a'), 2 dropped"),
        (["a", "a", "b"], ["a", "a", "b"], [0, 1, 2], "3 rows kept by label"),
        (None, ["a", "b"], [0, 1], "2 rows kept, unchecked: the numbers are equal, but no labels were given"),
        (["a", "b"], None, [0, 1], "2 rows kept, unchecked: the numbers are equal, but the weights don't name"),
        (["a"], None, [-1], "0 rows kept, 1 fresh, 2 dropped: other numbers of classes, and the weights don't name"),
    ],
)
def test_match_rows(labels: list[str] | None, names: list[str] | None, origins: list[int], account: str):
    rows = match_rows(len(origins), labels, 2 if names is None else len(names), names)
    assert rows.origins.tolist() == origins
    assert rows.account.startswith(account)


def test_first_labels_keep_their_rows(tmp_path: Path):
    """The number of classes differs, though the rows that are kept are in the weights' order."""
    old = tsf.load(own(tmp_path / "weights"))
    new = tsf.load(tmp_path / "weights", num_classes=2, labels=NAMES[:2])
    for leaf in ("kernel", "bias"):
        np.testing.assert_array_equal(new.params["head"][leaf], old.params["head"][leaf][..., :2])
    assert new.report.classifier == "2 rows kept by label, 0 fresh, 3 dropped ('a', 'b', 'c')"


def test_match_rows_of_ten_thousand_classes():
    names = [f"class {number}" for number in range(10_000)]
    rows = match_rows(10_001, [*names[::-1], "one more"], 10_000, names)
    assert rows.origins.tolist() == [*range(9_999, -1, -1), -1]
    other = match_rows(10_000, [name.upper() for name in names], 10_000, names)
    assert len(other.account) < 300


def test_classifier_is_fresh_if_no_label_matches(tmp_path: Path):
    """Even if the number of classes is equal."""
    new = tsf.load(huggingface(tmp_path / "a"), num_classes=5, labels=list("vwxyz"))
    assert new.report.initialised.keys() == {"head/kernel", "head/bias"}
    assert new.report.classifier.startswith("0 rows kept by label, 5 fresh ('v', ")
    assert "classifier" not in "".join(new.report.notes)


def test_weights_without_labels_keep_their_rows(tmp_path: Path):
    source = official_file(tmp_path / "a.safetensors")
    new = tsf.load(source, num_heads=3, num_classes=5, labels=NAMES)
    np.testing.assert_array_equal(new.params["head"]["kernel"], golden_tensors("official_divided_space_time")["head.weight"].T)
    assert "unchecked: the numbers are equal, but the weights don't name their classes" in str(new.report)
    with pytest.raises(tsf.InputError, match="names 6 labels, but the model has 5 classes: give num_classes=6 for"):
        tsf.load(source, num_heads=3, labels=MORE)


def test_kept_rows_keep_the_objective(tmp_path: Path):
    folder = huggingface(tmp_path / "a")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "problem_type": "multi_label_classification"}))
    more: dict[str, Any] = {"num_classes": 6, "labels": MORE}
    assert tsf.load(folder, **more).objective == "sigmoid"
    assert tsf.load(folder, num_classes=2, labels=["x", "y"]).objective == "softmax"
    other = tsf.load(folder, **more, objective="softmax")
    assert "the classifier was trained with objective 'sigmoid', but 'softmax' is used here" in other.report.notes


def test_incomplete_classifier_gives_no_rows(tmp_path: Path):
    """The bias is missing or has another length."""
    own = {"timesformer_jax": json.dumps({"data": {"label_names": NAMES}})}
    tensors = golden_tensors("official_divided_space_time")

    def write(name: str, changed: dict[str, np.ndarray]) -> Path:
        save_file({key: np.ascontiguousarray(tensor) for key, tensor in changed.items()}, tmp_path / name, metadata=own)
        return tmp_path / name

    more: dict[str, Any] = {"num_heads": 3, "num_classes": 6, "labels": MORE}
    without = tsf.load(write("a.safetensors", {key: value for key, value in tensors.items() if key != "head.bias"}), **more)
    assert without.report.classifier.startswith("6 rows fresh")
    with pytest.raises(tsf.InputError, match=r"head/bias: expected \(6,\), got \(4,\)"):
        tsf.load(write("c.safetensors", {**tensors, "head.bias": np.zeros(4, np.float32)}), **more)


def test_classifier_of_one_class(tmp_path: Path):
    source = official_file(tmp_path / "a.safetensors")
    one = tsf.load(source, num_heads=3, num_classes=1, labels=["only"])
    save_official(one, tmp_path / "one.safetensors")
    again = tsf.load(tmp_path / "one.safetensors", num_classes=2, labels=["new", "only"])
    np.testing.assert_array_equal(again.params["head"]["kernel"][:, 1], one.params["head"]["kernel"][:, 0])
    assert again.report.classifier == "1 rows kept by label, 1 fresh ('new'), 0 dropped"
