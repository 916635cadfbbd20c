"""Random access to records, and damage to prepared data."""

import errno
import os
import resource
from pathlib import Path

import numpy as np
import pytest

from input_pipeline import ClipOptions, EvalViews, clips, preparation
from input_pipeline._tensorflow import tfds
from input_pipeline.records import Records, index_path, read_index, save_index
from tests.input_pipeline.miniatures import folder
from timesformer_jax.errors import InputError


def test_records_are_read_by_index(digits):
    """A missing index is rebuilt from the files, and a truncated file is reported."""
    records = digits.records("val")
    names = [record.features.feature["name"].bytes_list.value[0].decode() for record in records]
    read = digits.builder.as_dataset(split="val", decoders={"video": tfds.decode.SkipDecoding()})
    assert names == [example["name"].decode() for example in read.as_numpy_iterator()]
    assert index_path(str(digits.builder.data_path), "val").exists()


def test_records_read_more_files_than_may_be_open(tmp_path: Path, made_clips: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(preparation, "PART_BYTES", 1)
    monkeypatch.setattr(resource, "getrlimit", lambda which: (8, 1024))
    records = Records(folder(made_clips, tmp_path).builder, "train")
    names = {record.features.feature["name"].bytes_list.value[0] for _ in range(2) for record in records}
    assert len(names) == 9
    assert records._opened.cache_info().currsize == 2


def test_records_report_truncated_files(tmp_path: Path, made_clips: Path):
    data = folder(made_clips, tmp_path)
    (path,) = tmp_path.rglob("*train.tfrecord*")
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(
        InputError, match=r"tfrecord.* is damaged \(it ends in the middle of record 8\): delete .* to prepare the data again"
    ):
        list(Records(data.builder, "train"))
    index_path(str(data.builder.data_path), "train").unlink()
    with pytest.raises(
        InputError, match=r"tfrecord.* is damaged \(it ends in the middle of record 8\): delete .* to prepare the data again"
    ):
        Records(data.builder, "train")


def test_records_detect_any_flipped_bit(tmp_path: Path, made_clips: Path):
    """Flips bits in the length, the data and both checksums; the error names the file, the record and the remedy."""
    data = folder(made_clips, tmp_path)
    (path,) = tmp_path.rglob("*train.tfrecord*")
    whole = path.read_bytes()
    records = Records(data.builder, "train")
    _, begin, length = records._where[4].tolist()
    for place in (begin - 12, begin - 2, begin, begin + length // 2, begin + length - 1, begin + length + 3):
        path.write_bytes(flipped(whole, place))
        with pytest.raises(
            InputError, match=r"train\.tfrecord.* is damaged \(record 4, at .*\): delete .* to prepare the data"
        ):
            records[4]
        assert records[3].features.feature["name"]
    path.write_bytes(whole)
    assert len(list(records)) == 9


def test_train_batches_raise_the_error_of_a_damaged_record(tmp_path: Path, made_clips: Path):
    data = folder(made_clips, tmp_path)
    (path,) = tmp_path.rglob("*val.tfrecord*")
    path.write_bytes(flipped(path.read_bytes(), 400))
    options = ClipOptions(num_frames=2, crop_size=24, sampling="uniform", sampling_rate=2.0, short_side=(24, 30))
    with pytest.raises(InputError, match=r"^\S*val\.tfrecord\S* is damaged \(record 0, "):
        list(clips.eval_batches(data, "val", options, batch_size=1, views=EvalViews()))


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO, errno.ENOENT])
def test_records_do_not_report_failed_reads_as_damage(
    tmp_path: Path, made_clips: Path, monkeypatch: pytest.MonkeyPatch, number: int
):
    def fail(*arguments):
        raise OSError(number, os.strerror(number))

    records = Records(folder(made_clips, tmp_path).builder, "train")
    monkeypatch.setattr("input_pipeline.records.os.open", fail)
    with pytest.raises(InputError, match=f"^Can't read .*tfrecord.*: {os.strerror(number)}: ") as caught:
        records[0]
    assert "damaged" not in str(caught.value)
    assert "again" not in str(caught.value)


@pytest.mark.parametrize("digest", [True, False], ids=["digest", "older"])
def test_record_index_detects_any_flipped_bit(digest: bool, tmp_path: Path):
    """Even without the digest that older versions lack, except in the length of a file's last record, which its header has."""
    rows = [np.array([[12, 100], [128, 50], [194, 77]]), np.array([[12, 20], [48, 30]])]
    save_index(str(tmp_path), "train", rows)
    content = index_path(str(tmp_path), "train").read_bytes()
    content = content if digest else content[:-16]
    index = read_index(content)
    assert index is not None
    last = set() if digest else {len(content) - back + byte for back in (8, 8 + 2 * 24) for byte in range(8)}
    for place in set(range(len(content))) - last:
        found = read_index(flipped(content, place))
        assert found is None or np.array_equal(found, index), place


def flipped(content: bytes, place: int) -> bytes:
    changed = bytearray(content)
    changed[place] ^= 1 << place % 7
    return bytes(changed)


@pytest.mark.parametrize("kept", [0, 40, -8])
def test_damaged_record_index_is_rebuilt(tmp_path: Path, made_clips: Path, kept: int):
    data = folder(made_clips, tmp_path)
    path = index_path(str(data.builder.data_path), "train")
    whole = path.read_bytes()
    path.write_bytes(whole[:kept])
    assert len(list(Records(data.builder, "train"))) == 9
    assert path.read_bytes() == whole


def test_records_report_a_wrong_number_of_records(tmp_path: Path, made_clips: Path):
    data = folder(made_clips, tmp_path)
    index_path(str(data.builder.data_path), "train").unlink()
    (path,) = tmp_path.rglob("*train.tfrecord*")
    path.write_bytes(b"")
    with pytest.raises(
        InputError, match=r"are damaged \(expected 9 records of the split 'train', got 0\): delete .* to prepare"
    ):
        Records(data.builder, "train")
