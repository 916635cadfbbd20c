"""8-bit floating-point tensors in safetensors files, which safetensors can't give to NumPy."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import timesformer_jax as tsf
from tests.pretrained.files import golden_tensors


@pytest.mark.parametrize(("name", "dtype"), [("F8_E4M3", jnp.float8_e4m3fn), ("F8_E5M2", jnp.float8_e5m2)])
def test_eight_bit_safetensors_are_read(name: str, dtype: type, tmp_path: Path):
    """Written by hand, with one tensor in float32 before the others."""
    tensors = golden_tensors("official_divided_space_time")
    stored = {key: value if key == "norm.bias" else value.astype(dtype) for key, value in tensors.items()}
    header, data = {}, b""
    for key, value in sorted(stored.items(), key=lambda item: item[0] != "norm.bias"):
        kind = "F32" if value.dtype == np.float32 else name
        header[key] = {"dtype": kind, "shape": value.shape, "data_offsets": [len(data), len(data) + value.nbytes]}
        data += value.tobytes()
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (tmp_path / "a.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    params = tsf.load(tmp_path / "a.safetensors", num_heads=3).params
    for leaf, key in (("scale", "norm.weight"), ("bias", "norm.bias")):
        np.testing.assert_array_equal(params["norm"][leaf], stored[key].astype(np.float32))
    np.testing.assert_array_equal(params["head"]["kernel"].T, stored["head.weight"].astype(np.float32))
