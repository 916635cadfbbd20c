"""Records written without TensorFlow have the same bytes as TensorFlow's."""

import io
from pathlib import Path

import pytest

from input_pipeline._tensorflow import tf
from timesformer_jax.datasets.tfrecords import Features, encode_example, write_record

EXAMPLES: dict[str, Features] = {
    "every kind": {
        "video": (bytes, [b"", b"\x00\xff" * 100, b"x" * 20000]),
        "fps": (float, [29.97, 1e30, -0.0]),
        "n": (int, [3]),
    },
    "integers": {"n": (int, [0, 1, 127, 128, 2**31, 2**63 - 1, -1, -(2**63)]), "é": (bytes, ["ü".encode()])},
    "empty lists": {"labels": (int, []), "video": (bytes, []), "fps": (float, [])},
    "nothing": {},
}


@pytest.mark.parametrize("features", EXAMPLES.values(), ids=EXAMPLES.keys())
def test_examples_equal_those_of_tensorflow_bytewise(features: Features):
    lists = {
        bytes: lambda values: tf.train.Feature(bytes_list=tf.train.BytesList(value=values)),
        float: lambda values: tf.train.Feature(float_list=tf.train.FloatList(value=values)),
        int: lambda values: tf.train.Feature(int64_list=tf.train.Int64List(value=values)),
    }
    feature = {name: lists[kind](values) for name, (kind, values) in features.items()}
    expected = tf.train.Example(features=tf.train.Features(feature=feature))
    assert b"".join(encode_example(features)) == expected.SerializeToString(deterministic=True)


def test_records_equal_those_of_tensorflow_bytewise(tmp_path: Path):
    records = [b"", b"short", b"x" * 100_000]
    with tf.io.TFRecordWriter(str(tmp_path / "theirs")) as writer:
        for record in records:
            writer.write(record)
    ours = io.BytesIO()
    assert [write_record(ours, [record[:3], record[3:]]) for record in records] == [0, 5, 100_000]
    assert ours.getvalue() == (tmp_path / "theirs").read_bytes()
