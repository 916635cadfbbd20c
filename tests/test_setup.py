"""Completion of a config by the modes before anything runs."""

from pathlib import Path

from experiment.follow import follow_weights
from experiment.setup import set_up
from tests.runs import small_folder


def test_shares_of_the_training_videos_are_nested(tmp_path: Path, made_clips: Path, data_dir: str):
    """Shares are nested; evaluation keeps all of its videos; another seed draws others."""

    def names(seed: int = 0, **changes: float) -> list[bytes]:
        config = follow_weights(small_folder(made_clips, data_dir, seed=seed, **changes), str(tmp_path), "train")
        run = set_up(config, str(tmp_path), "train", lock=False)
        run.files.checkpoints.close()
        assert run.data.num_videos("val") == 3
        records = run.data.dataset.records("train")
        return [records[i].features.feature["name"].bytes_list.value[0] for i in range(run.data.num_videos("train"))]

    every, half, few = (names(**{"train.data_share": share}) for share in (1.0, 0.5, 0.25))
    assert (len(every), len(half), len(few)) == (9, 4, 2)
    assert set(few) < set(half) < set(every)
    assert {tuple(names(seed, **{"train.data_share": 0.5})) for seed in range(4)} != {tuple(half)}
