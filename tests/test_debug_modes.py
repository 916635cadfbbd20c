"""`--config.debug` and `--config.overfit_batch`: short runs that look for mistakes in data and model."""

import re
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

import main
from tests.runs import results, small_folder
from timesformer_jax import InputError

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True, scope="module")
def optax_promotes() -> Iterator[None]:
    """Allow dtype promotion, since optax mixes dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def test_overfit_succeeds_on_one_batch(tmp_path: Path, made_clips: Path, data_dir: str, caplog):
    options = {"overfit_batch": True, "pixels.flip": "on", "pixels.blur": 0.5, "mixing.mixup": 0.8, "model.drop_path_rate": 0.1}
    with caplog.at_level("INFO", logger="timesformer_jax"):
        main.run(small_folder(made_clips, data_dir, **options), str(tmp_path), "train")
    assert re.search(r"overfit_batch: the loss of the first batch is 0\.0\d+ after \d+ steps", caplog.text)
    assert re.search(r"This process's share of a batch: video uint8 \[8, 8, \d+, \d+, 3\]", caplog.text)
    assert [path.name for path in tmp_path.iterdir()] == ["overfit_batch"]  # the run itself is unchanged


def test_overfit_reports_failure(tmp_path: Path, made_clips: Path, data_dir: str):
    options = {"overfit_batch": True, "optimizer.learning_rate": 1e-9}
    with pytest.raises(InputError, match=r"overfit_batch: the loss of a single batch is still .* after 500 steps"):
        main.run(small_folder(made_clips, data_dir, **options), str(tmp_path), "train")


def test_debug_draws_the_first_batch(tmp_path: Path, made_clips: Path, data_dir: str):
    main.run(small_folder(made_clips, data_dir, debug=True, profile=True), str(tmp_path), "train")
    assert (tmp_path / "debug" / "train.png").is_file()
    assert list((tmp_path / "debug" / "profile").rglob("*.xplane.pb"))
    assert results(tmp_path / "debug")["step"] == 2


def test_debug_stops_at_the_first_nan(tmp_path: Path, made_clips: Path, data_dir: str):
    options = {"optimizer.name": "sgd", "optimizer.learning_rate": 1e30, "train.num_epochs": 4.0}
    with pytest.raises(FloatingPointError, match=r"(nan|inf)"):
        main.run(small_folder(made_clips, data_dir, debug=True, **options), str(tmp_path), "train")
