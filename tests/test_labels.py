"""Class names from the file formats that people use."""

from pathlib import Path

import pytest

import timesformer_jax as tsf
from tests.pretrained.files import official_file
from timesformer_jax.pretrained import read_labels

NAMES = ["abseiling", "air drumming", "answering, questions"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "abseiling\nair drumming\nanswering, questions\n\n"),
        ("a.txt", "\ufeffabseiling\nair drumming\nanswering, questions\n"),
        ("a.json", '["abseiling", "air drumming", "answering, questions"]'),
        ("a.json", '{"1": "air drumming", "0": "abseiling", "2": "answering, questions"}'),
        ("a.json", '{"\\"air drumming\\"": 1, "abseiling": 0, "\\"answering, questions\\"": 2}'),  # the format of Kinetics
        ("a.json", '{"air drumming": "1", "abseiling": "0", "answering, questions": "2"}'),  # the format of Something-Something
        ("a.csv", 'id,name\n0,abseiling\n1,air drumming\n2,"answering, questions"\n'),
        ("A.CSV", 'id,name\n0,abseiling\n1,air drumming\n2,"answering, questions"\n'),
        ("A.JSON", '["abseiling", "air drumming", "answering, questions"]'),
        ("a.csv", '1,air drumming\n0,abseiling\n2,"answering, questions"\n'),
    ],
)
def test_labels_are_read_from_every_format(name: str, text: str, tmp_path: Path):
    (tmp_path / name).write_text(text)
    assert read_labels(tmp_path / name) == NAMES


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.json", "{", "as JSON"),
        ("a.json", "3", "should hold a list of names"),
        ("a.json", '{"0": "a", "2": "b"}', "number its 2 names from 0 to 1"),
        ("a.json", '{"a": 0, "b": 0}', "number its|from 0"),
        ("a.json", '{"a": "x"}', "every name its number"),
        ("a.json", '{"a": 0.9, "b": 1.2}', "every name its number, but 0.9 is no whole number"),
        ("a.json", '{"a": Infinity}', "every name its number"),
        ("a.csv", "0,a,b\n", "two columns"),
        ("a.csv", "0,a\n0,b\n", "number its 2 names"),
    ],
)
def test_malformed_label_files_are_rejected(name: str, text: str, words: str, tmp_path: Path):
    (tmp_path / name).write_text(text)
    with pytest.raises(tsf.InputError, match=words):
        read_labels(tmp_path / name)


def test_labels_of_a_checkpoint(tmp_path: Path):
    path = official_file(tmp_path / "a.safetensors")
    assert tsf.load(path, num_heads=3).labels is None
    assert tsf.load(path, num_heads=3).label(3) == "class 3"
    assert tsf.load(path, num_heads=3, labels=list("abcde")).label(3) == "d"
    with pytest.raises(tsf.InputError, match="labels names 3 labels, but the model has 5 classes"):
        tsf.load(path, num_heads=3, labels=NAMES)
    with pytest.raises(tsf.InputError, match=r"Can't read the labels in .*missing.txt: No such file"):
        tsf.load(path, num_heads=3, labels=tmp_path / "missing.txt")
