"""Run-time resizing of the embeddings."""

import jax.numpy as jnp
import numpy as np
import pytest

from timesformer_jax.modeling.embeddings import nearest_indices, resize_position_embedding, resize_time_embedding


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [  # torch.nn.functional.interpolate(arange(source), size=target, mode="nearest")
        (8, 4, [0, 2, 4, 6]),
        (8, 12, [0, 0, 1, 2, 2, 3, 4, 4, 5, 6, 6, 7]),
        (14, 8, [0, 1, 3, 5, 7, 8, 10, 12]),
        (3, 3, [0, 1, 2]),
    ],
)
def test_nearest_is_pytorchs(source: int, target: int, expected: list[int]):
    assert nearest_indices(source, target).tolist() == expected


def test_nearest_rounds_in_float32_as_pytorch_does():
    """At 2 -> 82 place 41 is exactly 1, but float32 puts it just below."""
    assert nearest_indices(2, 82)[41] == 0


def test_time_embedding():
    embedding = jnp.arange(8.0).reshape(1, 8, 1)
    assert resize_time_embedding(embedding, 4).reshape(-1).tolist() == [0, 2, 4, 6]
    assert resize_time_embedding(embedding, 8) is embedding


def test_position_embedding_follows_rows_and_columns_and_keeps_cls():
    embedding = jnp.concatenate([jnp.array([-1.0]), jnp.arange(6.0)]).reshape(1, 7, 1)  # CLS, then a grid of 2 x 3
    resized = np.asarray(resize_position_embedding(embedding, (2, 3), (4, 3))).reshape(-1)
    assert resized.tolist() == [-1, 0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5]


def test_a_grid_of_equal_size_but_other_shape_is_resized_too():
    """The official code compares only the number of patches, and would use a 2 x 3 grid's entries for 3 x 2 as they are."""
    embedding = jnp.concatenate([jnp.array([-1.0]), jnp.arange(6.0)]).reshape(1, 7, 1)
    resized = np.asarray(resize_position_embedding(embedding, (2, 3), (3, 2))).reshape(-1)
    assert resized.tolist() == [-1, 0, 1, 0, 1, 3, 4]
