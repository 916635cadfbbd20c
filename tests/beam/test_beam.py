"""Preparation with Beam through TFDS's own command, in a separate environment (`make beam`).

It can't use the fixtures and helpers of the other tests, which need the training environment.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

ROOT = Path(__file__).parent.parent.parent


def build(name: str, manual_dir: Path, data_dir: Path, *flags: str) -> Path:
    command = [sys.executable, "-m", "tensorflow_datasets.scripts.cli.main", "build", name, "--imports=input_pipeline.builders"]
    command += [f"--manual_dir={manual_dir}", f"--data_dir={data_dir}", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": "."})
    assert done.returncode == 0, done.stderr[-3000:]
    return data_dir / name / "2.0.0"


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """A small Kinetics with one broken file and one missing file."""
    root = tmp_path / "videos"
    (root / "train").mkdir(parents=True)
    header = "label,youtube_id,time_start,time_end,split\n"
    rows = [f"{label},{name},0,10,train" for label, name in zip("abab", ("one", "two", "broken", "gone"), strict=True)]
    (root / "train.csv").write_text(header + "\n".join(rows))
    (root / "val.csv").write_text(header + "b,three,0,10,val\n")
    for number, name in enumerate(("one", "two", "three")):
        with av.open(str(root / "train" / f"{name}.mp4"), "w") as container:
            stream: Any = container.add_stream("libx264", rate=30)
            stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
            for time in range(12):
                frame = np.full((48, 64, 3), 20 * time + number, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
    (root / "train" / "broken.mp4").write_text("no video")
    return root


@pytest.mark.beam
def test_beam_prepares_the_same_data_as_processes(videos: Path, tmp_path: Path):
    """Beam yields the same examples and the same report of skipped videos."""
    name = "kinetics400/h264_256"
    alone = build(name, videos, tmp_path / "alone")
    beam = build(name, videos, tmp_path / "beam", "--beam_pipeline_options=runner=DirectRunner,direct_num_workers=2")
    reports = [json.loads((folder / "metadata.json").read_text()) for folder in (alone, beam)]
    assert reports[0]["left_out"]["train"].keys() == {"broken_000000_000010", "gone_000000_000010"}
    assert reports[1]["left_out"]["train"] == reports[0]["left_out"]["train"]
    assert not (beam / "notes").exists()

    from input_pipeline._tensorflow import tfds

    for split, count in (("train", 2), ("val", 1)):
        examples = []
        for folder in (alone, beam):
            read = tfds.builder_from_directory(folder).as_dataset(split=split).as_numpy_iterator()
            examples.append({example["name"]: (example["label"], *example["video"]) for example in read})
        assert examples[0] == examples[1]
        assert len(examples[0]) == count
