"""Hypothesis changes one field of valid files, which then load or raise an `InputError`."""

import contextlib
import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import timesformer_jax as tsf
from tests.pretrained.files import (
    OPEN_CLIP_CONFIG,
    TIMM_CONFIG,
    golden_huggingface,
    golden_tensors,
    official_file,
    openai_tensors,
    timm_tensors,
    write_safetensors,
)
from timesformer_jax.pretrained.file_notes import notes_for

hypothesis = pytest.importorskip("hypothesis")
given, settings, st = hypothesis.given, hypothesis.settings, hypothesis.strategies

pytestmark = pytest.mark.slow
SETTINGS = settings(max_examples=60, deadline=None, suppress_health_check=list(hypothesis.HealthCheck), database=None)

NUMBERS = st.integers() | st.integers(-3, 30) | st.floats() | st.just(10**400)
SCALARS = st.none() | st.booleans() | NUMBERS | st.text(max_size=20) | st.just("x" * 5000)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner))
SHAPES = st.lists(st.integers(0, 30), max_size=5).map(tuple)


@st.composite
def changed(draw: Any, value: Any) -> Any:
    """Replace or remove one field of a JSON value, at any depth."""
    value = copy.deepcopy(value)
    place = value
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = draw(st.sampled_from(keys))
        if isinstance(place[key], dict | list) and place[key] and draw(st.booleans()):
            place = place[key]
            continue
        if isinstance(place, dict) and draw(st.integers(0, 4)) == 0:
            del place[key]
        else:
            place[key] = draw(VALUES)
        return value


def load(path: Path, **options: Any) -> None:
    with contextlib.suppress(tsf.InputError):
        tsf.load(path, **options)


def dump(value: Any) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_fuzzed_folders_are_read_or_rejected(name: str, tmp_path: Path):
    tsf.save_huggingface(tsf.load(golden_huggingface(tmp_path / "golden")), tmp_path / "folder")
    path = tmp_path / "folder" / name
    original = json.loads(path.read_text())

    @SETTINGS
    @given(changed(original))
    def run(value: Any) -> None:
        path.write_bytes(dump(value))
        load(tmp_path / "folder")

    run()


@pytest.mark.parametrize("name", ["config.json", "open_clip_config.json"])
def test_fuzzed_image_model_configs_are_read_or_rejected(name: str, tmp_path: Path):
    clip = name != "config.json"
    write_safetensors(tmp_path / "a.safetensors", openai_tensors() if clip else timm_tensors())
    original = OPEN_CLIP_CONFIG if clip else TIMM_CONFIG

    @SETTINGS
    @given(changed(original))
    def run(value: Any) -> None:
        (tmp_path / name).write_bytes(dump(value))
        load(tmp_path / "a.safetensors", num_classes=2)

    run()


def test_fuzzed_checkpoints_are_read_or_rejected(tmp_path: Path):
    tsf.save(tsf.load(official_file(tmp_path / "a"), num_heads=3, labels=list("abcde")), tmp_path / "own")
    original = json.loads((tmp_path / "own" / "_CHECKPOINT_METADATA").read_text())

    @SETTINGS
    @given(changed(original["custom_metadata"]))
    def run(value: Any) -> None:
        (tmp_path / "own" / "_CHECKPOINT_METADATA").write_bytes(dump({**original, "custom_metadata": value}))
        load(tmp_path / "own")

    run()


def test_fuzzed_metadata_and_configs_are_read_or_rejected(tmp_path: Path):
    from safetensors.numpy import save_file

    tensors = golden_tensors("official_divided_space_time")
    notes = notes_for(tsf.load(official_file(tmp_path / "a"), num_heads=3, labels=list("abcde")))
    pieces = st.sampled_from(["  NUM_FRAMES: ", "  MEAN:", "\n  - ", "4", "x", "\n", " ", "  DATASET: ", "[", "0.5"])
    yaml = st.lists(pieces).map("".join)

    @SETTINGS
    @given(changed(notes), yaml)
    def run(value: Any, cfg: str) -> None:
        save_file(tensors, tmp_path / "b", {"timesformer_jax": json.dumps(value), "cfg": cfg})
        load(tmp_path / "b", num_heads=3)

    run()


@pytest.mark.parametrize("form", ["safetensors", "npz"])
def test_fuzzed_tensors_are_read_or_rejected(form: str, tmp_path: Path):
    tensors = golden_tensors("official_divided_space_time")
    names = st.sampled_from(list(tensors)) | st.text(max_size=9) | st.sampled_from(list(tensors)).map("net.".__add__)
    kinds = st.sampled_from(["float32", "float16", "float64", "int32", "bool"])

    @SETTINGS
    @given(names, SHAPES, kinds)
    def run(name: str, shape: tuple[int, ...], kind: str) -> None:
        with contextlib.suppress(UnicodeEncodeError, OSError, ValueError):  # names that can't be written
            changed_tensors: dict[str, Any] = {**tensors, name: np.zeros(shape, kind)}
            if form == "npz":
                np.savez(tmp_path / "a.npz", **changed_tensors)
            else:
                write_safetensors(tmp_path / "a.npz", changed_tensors)
        load(tmp_path / "a.npz", num_heads=3)

    run()
