"""Official weights: everything finds its place, and what doesn't is told at once."""

import jax
import numpy as np
import pytest

import timesformer_jax as tsf
from tests.support import load_golden
from timesformer_jax.pretrained import params_from_official


def test_all_problems_are_listed_at_once():
    golden = load_golden("divided_space_time")
    tensors = {name[6:]: array for name, array in golden.arrays.items() if name.startswith("param/")}
    del tensors["blocks.1.mlp.fc2.bias"]
    tensors["head.weight"] = tensors["head.weight"][:3]
    tensors["extra.thing"] = np.zeros(3)
    with pytest.raises(tsf.InputError) as caught:
        params_from_official(tensors, golden.model)
    message = str(caught.value)
    assert "extra.thing (3,): no place" in message
    assert "blocks_1/mlp/fc2/bias (24,): not in the file" in message
    assert "head/kernel: expected (24, 5), got (24, 3)" in message


def test_the_prefix_of_released_files_is_taken_off():
    golden = load_golden("space_only")
    tensors = {"model." + name[6:]: array for name, array in golden.arrays.items() if name.startswith("param/")}
    jax.tree.map(np.testing.assert_array_equal, params_from_official(tensors, golden.model), golden.params())


def test_heads_that_do_not_fit_are_told():
    golden = load_golden("space_only")
    tensors = {name[6:]: array for name, array in golden.arrays.items() if name.startswith("param/")}
    with pytest.raises(tsf.InputError, match="can't be split over 5 heads"):
        params_from_official(tensors, golden.model.clone(num_heads=5, embed_dim=25))


def test_a_block_too_many_is_told():
    golden = load_golden("space_only")
    tensors = {name[6:]: array for name, array in golden.arrays.items() if name.startswith("param/")}
    with pytest.raises(tsf.InputError, match=r"blocks_1/.*no place in the model"):
        params_from_official(tensors, golden.model.clone(depth=1))
