"""PyTorch's `DataLoader` over a `ClipSource`, with two worker processes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.test_docs import OF_THE_GUIDE, ROOT, WITH_TORCH
from timesformer_jax.video import ClipOptions, ClipSource

pytestmark = pytest.mark.parity

OPTIONS = ClipOptions(num_frames=4, crop_size=24, sampling="uniform", sampling_rate=1.0, short_side=(26, 40))


def test_torch_workers_yield_the_clips_of_the_source(made_clips: Path):
    source = ClipSource(made_clips, OPTIONS).shuffled(2)
    loader = torch.utils.data.DataLoader(source, batch_size=5, num_workers=2, multiprocessing_context="spawn")
    batches = list(loader)
    assert [len(batch["name"]) for batch in batches] == [5, 5, 5, 5, 4]
    clips = iter(source)
    for batch in batches:
        for row, name in enumerate(batch["name"]):
            clip = next(clips)
            assert name == clip.pop("name")
            for field, expected in clip.items():
                np.testing.assert_array_equal(batch[field][row].numpy(), expected, strict=True)


def test_guide_snippet_names_a_label_of_each_video(made_clips: Path, tmp_path: Path):
    (tmp_path / "videos").symlink_to(made_clips)
    (tmp_path / "evaluate.py").write_text(OF_THE_GUIDE[WITH_TORCH])
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "evaluate.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert re.fullmatch(r"((across|back|down)/\d\.mp4 (across|back|down)\n){12}", done.stdout)
