"""State files: reading returns what was written, or raises an error."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from timesformer_jax.errors import InputError
from timesformer_jax.state_files import DamagedFileError, read_arrays, read_json, write_json

VALUE = {"step": 1200, "top1": 0.71875, "names": ["a", "häns"], "none": None, "labels": {"b": [1, 2.5, True]}}
REMEDY = {"remedy": "evaluate again"}


def flips(content: bytes, step: int) -> list[bytes]:
    """Yield the content with one bit flipped, for every `step`th bit in turn."""
    flipped = []
    for place in range(0, 8 * len(content), step):
        changed = bytearray(content)
        changed[place // 8] ^= 1 << place % 8
        flipped.append(bytes(changed))
    return flipped


def test_json_state_detects_any_flipped_bit(tmp_path: Path):
    """Except for those that JSON ignores; including the digest's own key."""
    path = tmp_path / "state.json"
    write_json(path, VALUE)
    assert read_json(path, **REMEDY) == VALUE
    found = 0
    for content in flips(path.read_bytes(), 5):
        path.write_bytes(content)
        try:
            value = read_json(path, **REMEDY)
        except DamagedFileError as error:
            found += str(path) in str(error) and str(error).endswith(": evaluate again.")
        else:
            assert value == VALUE
    assert found > 200


def test_json_state_of_older_versions_is_checked_by_field(tmp_path: Path):
    path = tmp_path / "state.json"
    path.write_text('{"step": 12, "split": "val"}')
    assert read_json(path, fields={"step": int, "split": str}, **REMEDY) == {"step": 12, "split": "val"}
    for content in (
        b"",
        b"[]",
        b'{"step": 12',
        b'{"step": "12", "split": "val"}',
        b'{"stop": 12, "split": "val"}',
        b"\xff" * 9,
    ):
        path.write_bytes(content)
        with pytest.raises(DamagedFileError, match=r"state\.json is damaged \(.*\): evaluate again\.$"):
            read_json(path, fields={"step": int, "split": str}, **REMEDY)


def test_array_state_detects_any_flipped_bit(tmp_path: Path):
    """A shape that became smaller would otherwise end before the checksum is compared."""
    path = tmp_path / "shard.npz"
    arrays = {"values": np.arange(12, dtype=np.float32).reshape(4, 3), "names": np.array(["a", "b"])}
    np.savez(path, **arrays)
    for content in flips(path.read_bytes(), 31):
        path.write_bytes(content)
        try:
            found = read_arrays(path, names=("values", "names"), **REMEDY)
        except DamagedFileError:
            continue
        assert all(np.array_equal(found[name], array) for name, array in arrays.items())


def test_failed_read_is_not_reported_as_damage(tmp_path: Path):
    class Failing:
        def read_bytes(self) -> bytes:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        def __str__(self) -> str:
            return "state.json"

    with pytest.raises(InputError, match=r"^Can't read state\.json: Too many open files: .*ulimit -n") as caught:
        read_json(Failing(), **REMEDY)
    assert not isinstance(caught.value, DamagedFileError)
