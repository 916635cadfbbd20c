"""Name tables of the formats: a row for every parameter, and layouts that round-trip."""

import jax
import numpy as np
import pytest

import timesformer_jax as tsf
from tests.pretrained.files import golden_tensors
from tests.support import random_variables
from timesformer_jax.modeling import flatten_params, parameter_shapes
from timesformer_jax.pretrained import weight_rows
from timesformer_jax.pretrained.tensor_names import template
from timesformer_jax.pretrained.weight_formats import FORMATS, normalise
from timesformer_jax.pretrained.weight_rows import Layout

SMALL = {"num_classes": 2, "image_size": 8, "patch_size": 4, "num_frames": 2, "embed_dim": 24, "depth": 1, "num_heads": 3}
LAYOUTS = {name: value for name, value in vars(weight_rows).items() if isinstance(value, Layout)}

FIELDS = {  # maps a format to fields of a model with all parameters of the format
    "official": {"attention_type": "divided_space_time"},
    "huggingface": {"attention_type": "divided_space_time"},
    "mmaction2_divided": {"attention_type": "divided_space_time"},
    "mmaction2": {"attention_type": "joint_space_time"},
    "timm": {"attention_type": "space_only"},
    "timm_clip": {"attention_type": "space_only", "pre_norm": True},
    "torchvision": {"attention_type": "space_only"},
    "huggingface_dinov2": {"attention_type": "space_only"},
    "huggingface_vit": {"attention_type": "space_only"},
    "huggingface_vit_5": {"attention_type": "space_only"},
    "huggingface_clip": {"attention_type": "space_only", "pre_norm": True},
    "clip": {"attention_type": "space_only", "pre_norm": True},
    "vision_transformer": {"attention_type": "space_only"},
    "big_vision": {"attention_type": "space_only"},
}


def test_every_format_is_in_the_table():
    assert FIELDS.keys() == FORMATS.keys()


@pytest.mark.parametrize("name", FORMATS)
def test_format_rows_match_the_model_parameters(name: str):
    """Exactly these, except for what the format lacks: a classifier of the CLS alone, and zeros."""
    format = FORMATS[name]
    model = tsf.TimeSformer(**SMALL, **FIELDS[name])
    expected = {template(path)[0] for path in flatten_params(parameter_shapes(model))}
    headless = {"head/kernel", "head/bias"} if name in ("clip", "huggingface_clip", "huggingface_dinov2") else set()
    assert {row.ours for row in format.rows} == expected - headless - set(format.zeros)
    assert format.zeros == () or set(format.zeros) <= expected
    assert len({row.theirs for row in format.rows}) == len(format.rows)
    slots = [(row.ours, row.slot) for row in format.rows]
    assert len(set(slots)) == len(slots)
    for path in {row.ours for row in format.rows if row.slot is not None}:
        assert {slot for ours, slot in slots if ours == path} == {0, 1, 2}
    for row in (*format.scales, *format.asked_scales):
        assert row.ours.removesuffix("/gamma") + "/kernel" in expected
    assert set(format.aliases.values()) <= {row.theirs for row in format.rows}
    assert all(field in tsf.TimeSformer.__dataclass_fields__ for field in format.fields)


@pytest.mark.parametrize("name", FORMATS)
def test_normalized_name_is_unchanged(name: str):
    format = FORMATS[name]
    for row in format.rows:
        written = row.theirs.replace("{i}", "11")
        assert normalise(format, written) == written
        assert template(written) == (row.theirs, "11" if "{i}" in row.theirs else "")


def test_golden_names_are_all_known():
    for file, name, prefix in (
        ("official_divided_space_time", "official", "param/"),
        ("huggingface_divided", "huggingface", "param/"),
        ("inflate_divided_space_time", "timm", "vit/"),
    ):
        theirs = {row.theirs for row in FORMATS[name].rows}
        assert {template(tensor)[0] for tensor in golden_tensors(file, prefix)} == theirs


@pytest.mark.parametrize("name", [name for name, layout in LAYOUTS.items() if layout.write is not None])
def test_layouts_round_trip(name: str):
    """Checked on the parameters that the official table gives."""
    layout = LAYOUTS[name]
    params = flatten_params(random_variables(tsf.TimeSformer(**SMALL))["params"])
    used = [row.ours.replace("{i}", "0") for row in FORMATS["official"].rows if row.layout is layout]
    assert used
    for path in used:
        ours = np.asarray(params[path])
        assert layout.write is not None
        np.testing.assert_array_equal(layout.read(layout.write(ours), 3), ours, err_msg=path)


def test_every_layout_is_used():
    assert set(LAYOUTS.values()) == {row.layout for format in FORMATS.values() for row in (*format.rows, *format.scales)}


def test_shapes_of_one_block_apply_to_all():
    """`parameter_shapes` traces one block; this test traces all of them."""
    for scan_layers in (False, True):
        model = tsf.TimeSformer(**{**SMALL, "depth": 3}, scan_layers=scan_layers)
        video = jax.ShapeDtypeStruct((1, 2, 8, 8, 3), np.float32)
        assert parameter_shapes(model) == jax.eval_shape(model.init, jax.random.key(0), video)["params"]
