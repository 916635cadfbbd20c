"""Records by their number, and prepared data that were damaged since."""

from pathlib import Path

import pytest

from input_pipeline import preparation
from input_pipeline._tensorflow import tfds
from input_pipeline.records import Records, index_path
from tests.input_pipeline.miniatures import folder
from timesformer_jax.errors import InputError


def test_records_by_number(digits):
    """The index is made from the files where the builder left none, and a cut file is told."""
    records = digits.records("val")
    names = [record.features.feature["name"].bytes_list.value[0].decode() for record in records]
    read = digits.builder.as_dataset(split="val", decoders={"video": tfds.decode.SkipDecoding()})
    assert names == [example["name"].decode() for example in read.as_numpy_iterator()]
    assert index_path(str(digits.builder.data_path), "val").exists()


def test_more_files_than_may_be_open(tmp_path: Path, made_clips: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(preparation, "PART_BYTES", 1)
    monkeypatch.setattr("input_pipeline.records.OPEN_FILES", 2)
    records = Records(folder(made_clips, tmp_path).builder, "train")
    names = {record.features.feature["name"].bytes_list.value[0] for _ in range(2) for record in records}
    assert len(names) == 9
    assert records._mapped.cache_info().currsize == 2


def test_a_record_file_that_was_cut_is_told(tmp_path: Path, made_clips: Path):
    data = folder(made_clips, tmp_path)
    (path,) = tmp_path.rglob("*train.tfrecord*")
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match="ends in the middle of a record: prepare the data set again"):
        list(Records(data.builder, "train"))
    index_path(str(data.builder.data_path), "train").unlink()
    with pytest.raises(InputError, match="ends in the middle of a record: prepare the data set again"):
        Records(data.builder, "train")


@pytest.mark.parametrize("kept", [0, 40, -8])
def test_a_damaged_index_is_made_again(tmp_path: Path, made_clips: Path, kept: int):
    data = folder(made_clips, tmp_path)
    path = index_path(str(data.builder.data_path), "train")
    whole = path.read_bytes()
    path.write_bytes(whole[:kept])
    assert len(list(Records(data.builder, "train"))) == 9
    assert path.read_bytes() == whole


def test_another_number_of_records_is_told(tmp_path: Path, made_clips: Path):
    data = folder(made_clips, tmp_path)
    index_path(str(data.builder.data_path), "train").unlink()
    (path,) = tmp_path.rglob("*train.tfrecord*")
    path.write_bytes(b"")
    with pytest.raises(InputError, match=r"are damaged \(expected 9 records of the split 'train', got 0\): prepare them again"):
        Records(data.builder, "train")
