"""PyTorch's files with logs, dates and arrays next to the weights."""

from pathlib import Path

import numpy as np
import pytest
import torch

import timesformer_jax as tsf
from tests.pretrained.files import golden_tensors
from tests.pretrained.test_torch_pickles import EXTRAS, Evil, modules

__all__ = ["modules"]  # a fixture

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default")]


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files_with_extras_are_read(zipped: bool, tmp_path: Path):
    tensors = golden_tensors("official_divided_space_time")
    content = {"state_dict": {name: torch.from_numpy(tensor) for name, tensor in tensors.items()}, **EXTRAS}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    assert len(tsf.load(tmp_path / "a.pth", num_heads=3).report.loaded) == len(tensors)
    torch.save({**content, "surprise": Evil()}, tmp_path / "b.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(tsf.InputError, match="is not loaded, because that could run code"):
        tsf.load(tmp_path / "b.pth", num_heads=3)


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files_of_arrays_are_read(zipped: bool, tmp_path: Path):
    tensors = golden_tensors("official_divided_space_time")
    torch.save({"model": tensors}, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    params = tsf.load(tmp_path / "a.pth", num_heads=3).params
    np.testing.assert_array_equal(params["norm"]["scale"], tensors["norm.weight"])


def test_error_names_the_other_entries(tmp_path: Path):
    model = {name: torch.from_numpy(tensor) for name, tensor in golden_tensors("official_divided_space_time").items()}
    torch.save({"net": model, **{name: torch.zeros(1) for name in "abcd"}}, tmp_path / "a.pth")
    with pytest.raises(
        tsf.InputError, match=r"Its tensors: a, b, c, d \(the file has other entries: net; choose one with entry="
    ):
        tsf.load(tmp_path / "a.pth", num_heads=3)
