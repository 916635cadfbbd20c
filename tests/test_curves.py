"""Training curves read back from TensorBoard's files."""

import logging
import struct
from pathlib import Path

import pytest

from experiment.curves import find_damage, read_curves
from timesformer_jax.datasets.tfrecords import header_of, masked_crc

CONTENT = b"".join(
    header_of(len(data)) + data + struct.pack("<I", masked_crc(data)) for data in (b"a first record", b"", b"x" * 30)
)


def test_find_damage_finds_every_flipped_bit():
    assert find_damage(CONTENT) is None
    for bit in range(8 * len(CONTENT)):
        damaged = bytearray(CONTENT)
        damaged[bit // 8] ^= 1 << bit % 8
        place = find_damage(bytes(damaged))
        assert place is not None, bit
        assert place <= bit // 8


def test_find_damage_allows_an_unfinished_record():
    assert all(find_damage(CONTENT[:length]) is None for length in range(len(CONTENT)))


def test_read_curves_warns_of_a_damaged_file(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    from clu import metric_writers

    writer = metric_writers.SummaryWriter(str(tmp_path))
    for step in range(20):
        writer.write_scalars(step, {"train/loss": 2.0 - step / 16})
    writer.close()
    (path,) = tmp_path.glob("*tfevents*")
    assert read_curves(str(tmp_path))["loss"]["training"] == (list(range(20)), [2.0 - step / 16 for step in range(20)])
    assert not caplog.messages
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING, "timesformer_jax"):
        steps, _ = read_curves(str(tmp_path))["loss"]["training"]
    assert steps == list(range(len(steps)))
    assert 0 < len(steps) < 20
    (message,) = caplog.messages
    assert f"{path} is damaged at byte " in message
