"""Former names, kept for one release."""

import importlib

import pytest

RENAMED = {
    "timesformer_jax.augment": {"prepare_test": "prepare_eval"},
    "timesformer_jax.cnn3d": {
        "describe": "timesformer_jax.modeling.describe_model",
        "variable_shapes": "timesformer_jax.modeling.weight_shapes",
    },
    "timesformer_jax.evaluation": {"PartialTest": "PartialEvaluation"},
    "timesformer_jax.pretrained": {"KINDS": "FORMATS"},
    "timesformer_jax.modeling": {"create": "timesformer_jax.create", "VARIANTS": "timesformer_jax.VARIANTS"},
    "timesformer_jax.training": {
        "PLACEMENT": "SHARDING_RULES",
        "place": "sharding_of",
        "placement_table": "sharding_table",
        "split_batch": "batch_sharding",
    },
    "timesformer_jax.video": {"test_clips": "eval_clips"},
    "input_pipeline": {"prepare_test": "prepare_eval", "test_batches": "eval_batches"},
}


@pytest.mark.parametrize(("module", "old"), [(module, old) for module, names in RENAMED.items() for old in names])
def test_renamed_returns_the_new_object_and_warns(module: str, old: str):
    room = importlib.import_module(module)
    place, _, new = RENAMED[module][old].rpartition(".")
    with pytest.warns(DeprecationWarning, match=RENAMED[module][old]):
        assert getattr(room, old) is getattr(importlib.import_module(place or module), new)


def test_renamed_leaves_other_names_alone():
    from timesformer_jax import training

    assert training.Checkpoints.__name__ == "Checkpoints"  # imported on first use
    for module in RENAMED:
        with pytest.raises(AttributeError, match="no attribute 'nothing'"):
            getattr(importlib.import_module(module), "nothing")  # noqa: B009
