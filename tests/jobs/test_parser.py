"""The parser of the command `timesformer`."""

from pathlib import Path
from typing import Any

import pytest

from timesformer_jax.__main__ import JOBS, _parsers
from timesformer_jax.jobs.parser import PATHS

NOT_PATHS = {"N", "A,B,...", "LABEL", "FORMAT", "PATTERN", "ENTRY"}


@pytest.mark.parametrize("job", JOBS)
def test_paths_may_begin_with_the_home(job: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("HOME", str(tmp_path))
    _, jobs = _parsers()
    for action in jobs[job]._actions:
        if action.metavar in PATHS:
            convert: Any = action.type
            assert Path(convert("~/given")) == tmp_path / "given", action.dest
            assert Path(convert("other/given")) == Path("other/given")
        else:
            words = (action.help or "").split()
            assert action.metavar in NOT_PATHS or not {"file", "folder", "files", "folders"} & set(words[:2]), action


@pytest.mark.parametrize("name", ["-abc_1.mp4", "-q"])
def test_files_that_begin_with_a_dash(name: str, capsys: pytest.CaptureFixture[str]):
    _, jobs = _parsers()
    with pytest.raises(SystemExit):
        jobs["predict"].check_spelling(["predict", name])
    assert f"there is no flag {name}; a file whose name begins with - is given as ./{name}" in capsys.readouterr().err
    jobs["predict"].check_spelling(["-h", "-1", "-.5", "-", "--", name])
