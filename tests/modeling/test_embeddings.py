"""Run-time resizing of the embeddings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import timesformer_jax as tsf
from tests.support import random_variables
from timesformer_jax.interpolation import nearest_indices
from timesformer_jax.modeling.embeddings import RESIZES, resize_position_embedding, resize_time_embedding


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [  # torch.nn.functional.interpolate(arange(source), size=target, mode="nearest")
        (8, 4, [0, 2, 4, 6]),
        (8, 12, [0, 0, 1, 2, 2, 3, 4, 4, 5, 6, 6, 7]),
        (14, 8, [0, 1, 3, 5, 7, 8, 10, 12]),
        (3, 3, [0, 1, 2]),
    ],
)
def test_nearest_resizing_matches_pytorch(source: int, target: int, expected: list[int]):
    assert nearest_indices(source, target).tolist() == expected


def test_nearest_resizing_rounds_in_float32():
    """From 2 to 82, position 41 is exactly 1, but float32 puts it just below."""
    assert nearest_indices(2, 82)[41] == 0


def test_time_embedding_is_resized():
    embedding = jnp.arange(8.0).reshape(1, 8, 1)
    assert resize_time_embedding(embedding, 4).reshape(-1).tolist() == [0, 2, 4, 6]
    assert resize_time_embedding(embedding, 8) is embedding


def test_position_embedding_is_resized_by_rows_and_columns_and_keeps_cls():
    embedding = jnp.concatenate([jnp.array([-1.0]), jnp.arange(6.0)]).reshape(1, 7, 1)  # CLS, then a grid of 2 x 3
    resized = np.asarray(resize_position_embedding(embedding, (2, 3), (4, 3))).reshape(-1)
    assert resized.tolist() == [-1, 0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5]


def test_grid_of_equal_size_but_other_shape_is_resized():
    """The official code only compares the number of patches and would use a 2 x 3 grid's entries for 3 x 2 unchanged."""
    embedding = jnp.concatenate([jnp.array([-1.0]), jnp.arange(6.0)]).reshape(1, 7, 1)
    resized = np.asarray(resize_position_embedding(embedding, (2, 3), (3, 2))).reshape(-1)
    assert resized.tolist() == [-1, 0, 1, 0, 1, 3, 4]


# torch.nn.functional.interpolate(..., align_corners=False), PyTorch 2.13, mode "linear" and "bilinear" or "bicubic"
LINE = [0.3, -1.0, 2.0, 0.5, 4.0]
LINEAR = {8: [0.3, -0.26875, -0.8125, 1.0625, 1.53125, 0.59375, 2.46875, 4.0], 3: [-0.133333, 2.0, 2.833333]}
GRID = [[1.0, 5, 2, 8], [3, -1, 7, 0], [-4, 6, 2, 9]]
PLANE = {
    ("linear", 5, 3): [
        [1.66667, 3.5, 7.0],
        [1.93333, 3.3, 4.66667],
        [2.33333, 3.0, 1.16667],
        [-0.46667, 3.6, 5.16667],
        [-2.33333, 4.0, 7.83333],
    ],
    ("linear", 2, 6): [[1.5, 2.5, 3.45833, 3.29167, 4.625, 6.0], [-2.25, 1.0, 4.08333, 3.41667, 5.0, 6.75]],
    ("bicubic", 5, 3): [
        [1.56271, 3.3155, 7.65736],
        [2.22691, 3.22838, 4.29248],
        [2.28704, 3.28125, 1.14352],
        [-0.59221, 3.891, 4.86644],
        [-2.95448, 4.37725, 8.57704],
    ],
    ("bicubic", 2, 6): [
        [1.55206, 2.55493, 3.48487, 3.12792, 4.58179, 6.09353],
        [-2.91206, 1.01355, 4.58452, 3.25801, 4.91028, 6.97232],
    ],
}


@pytest.mark.parametrize("num_frames", LINEAR)
@pytest.mark.parametrize("resize", ["linear", "bicubic"])
def test_time_embedding_is_interpolated(resize: str, num_frames: int):
    resized = resize_time_embedding(jnp.array(LINE).reshape(1, 5, 1), num_frames, resize)
    np.testing.assert_allclose(resized.reshape(-1), LINEAR[num_frames], atol=1e-5)


@pytest.mark.parametrize(("resize", "rows", "columns"), PLANE)
def test_position_embedding_is_interpolated(resize: str, rows: int, columns: int):
    embedding = jnp.array([-1.0, *np.ravel(GRID)]).reshape(1, 13, 1)
    resized = np.asarray(resize_position_embedding(embedding, (3, 4), (rows, columns), resize)).reshape(-1)
    assert resized[0] == -1
    np.testing.assert_allclose(resized[1:].reshape(rows, columns), PLANE[resize, rows, columns], atol=2e-5)


def test_model_resizes_embeddings_by_its_fields():
    """In space and in time, each field changes the logits at another size but not at the model's own."""
    video = jax.random.normal(jax.random.key(0), (1, 4, 32, 32, 3))
    other = jax.random.normal(jax.random.key(0), (1, 6, 40, 24, 3))
    models = [tsf.create("timesformer-tiny", num_classes=3, resize=resize) for resize in RESIZES]
    variables = random_variables(models[0])
    same, different = (np.stack([jax.jit(m.apply)(variables, v)[0] for m in models]) for v in (video, other))
    np.testing.assert_array_equal(same, np.broadcast_to(same[:1], same.shape))
    assert min(np.abs(different[i] - different[j]).max() for i, j in ((0, 1), (0, 2), (1, 2))) > 1e-4
