"""The folder of a rehearsal (`debug`, `overfit_batch`) is emptied, and no other."""

from pathlib import Path

import pytest
from etils import epath

from experiment.train import REHEARSAL, _empty
from timesformer_jax import InputError


def test_folder_of_a_rehearsal_is_emptied(tmp_path: Path):
    folder = tmp_path / "runs" / "debug"
    for _ in range(2):
        _empty(epath.Path(folder))
        assert [path.name for path in folder.iterdir()] == [REHEARSAL]
        (folder / "results.json").write_text("{}")


def test_run_of_that_name_is_kept(tmp_path: Path):
    (tmp_path / "debug" / "checkpoints").mkdir(parents=True)
    with pytest.raises(InputError, match=r"debug may be more than a rehearsal, since it lacks the file \.rehearsal: delete it"):
        _empty(epath.Path(tmp_path / "debug"))
    assert (tmp_path / "debug" / "checkpoints").is_dir()


def test_impossible_folder_is_one_sentence(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/debug can't be emptied for a rehearsal: a component of the path is a file"):
        _empty(epath.Path(tmp_path / "file" / "debug"))
