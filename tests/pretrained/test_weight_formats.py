"""The tables of names: every parameter of a model of that kind has its row, and layouts go back as they came."""

import jax
import numpy as np
import pytest

import timesformer_jax as tsf
from tests.pretrained.files import golden_tensors
from tests.support import random_variables
from timesformer_jax.modeling import flatten_params, parameter_shapes
from timesformer_jax.pretrained import weight_rows
from timesformer_jax.pretrained.tensor_names import template
from timesformer_jax.pretrained.weight_formats import KINDS, normalise
from timesformer_jax.pretrained.weight_rows import Layout

SMALL = {"num_classes": 2, "image_size": 8, "patch_size": 4, "num_frames": 2, "embed_dim": 24, "depth": 1, "num_heads": 3}
LAYOUTS = {name: value for name, value in vars(weight_rows).items() if isinstance(value, Layout)}

FIELDS = {  # kind -> fields of a model that has every parameter which the kind has
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


def test_every_kind_is_in_the_table():
    assert FIELDS.keys() == KINDS.keys()


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_s_rows_are_a_model_s_parameters(name: str):
    """Neither more nor less, but for what the kind has not: a classifier of the CLS alone, and what is zero."""
    kind = KINDS[name]
    model = tsf.TimeSformer(**SMALL, **FIELDS[name])
    expected = {template(path)[0] for path in flatten_params(parameter_shapes(model))}
    headless = {"head/kernel", "head/bias"} if name in ("clip", "huggingface_clip", "huggingface_dinov2") else set()
    assert {row.ours for row in kind.rows} == expected - headless - set(kind.zeros)
    assert kind.zeros == () or set(kind.zeros) <= expected
    assert len({row.theirs for row in kind.rows}) == len(kind.rows)
    parts = [(row.ours, row.part) for row in kind.rows]
    assert len(set(parts)) == len(parts)
    for path in {row.ours for row in kind.rows if row.part is not None}:
        assert {part for ours, part in parts if ours == path} == {0, 1, 2}
    for row in (*kind.scales, *kind.asked_scales):
        assert row.ours.removesuffix("/gamma") + "/kernel" in expected
    assert set(kind.aliases.values()) <= {row.theirs for row in kind.rows}
    assert all(field in tsf.TimeSformer.__dataclass_fields__ for field in kind.fields)


@pytest.mark.parametrize("name", KINDS)
def test_a_name_in_its_normal_form_stays(name: str):
    kind = KINDS[name]
    for row in kind.rows:
        written = row.theirs.replace("{i}", "11")
        assert normalise(kind, written) == written
        assert template(written) == (row.theirs, "11" if "{i}" in row.theirs else "")


def test_the_golden_names_are_all_known():
    for file, name, prefix in (
        ("official_divided_space_time", "official", "param/"),
        ("huggingface_divided", "huggingface", "param/"),
        ("inflate_divided_space_time", "timm", "vit/"),
    ):
        theirs = {row.theirs for row in KINDS[name].rows}
        assert {template(tensor)[0] for tensor in golden_tensors(file, prefix)} == theirs


@pytest.mark.parametrize("name", [name for name, layout in LAYOUTS.items() if layout.write is not None])
def test_layouts_go_back_as_they_came(name: str):
    """On the parameters that the official table gives them."""
    layout = LAYOUTS[name]
    params = flatten_params(random_variables(tsf.TimeSformer(**SMALL))["params"])
    used = [row.ours.replace("{i}", "0") for row in KINDS["official"].rows if row.layout is layout]
    assert used
    for path in used:
        ours = np.asarray(params[path])
        assert layout.write is not None
        np.testing.assert_array_equal(layout.read(layout.write(ours), 3), ours, err_msg=path)


def test_every_layout_is_used():
    assert set(LAYOUTS.values()) == {row.layout for kind in KINDS.values() for row in (*kind.rows, *kind.scales)}


def test_shapes_of_one_block_are_those_of_all():
    """`parameter_shapes` traces one block; this traces them all."""
    for scan_layers in (False, True):
        model = tsf.TimeSformer(**{**SMALL, "depth": 3}, scan_layers=scan_layers)
        video = jax.ShapeDtypeStruct((1, 2, 8, 8, 3), np.float32)
        assert parameter_shapes(model) == jax.eval_shape(model.init, jax.random.key(0), video)["params"]
