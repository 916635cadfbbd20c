"""What jobs make of a config before anything runs."""

from pathlib import Path

from experiment.follow import follow_weights
from experiment.setup import Job
from tests.runs import small_folder


def test_a_share_of_the_training_videos(tmp_path: Path, made_clips: Path, data_dir: str):
    """A smaller share's videos are some of a larger one's; the test has all of its own; another seed draws others."""

    def names(seed: int = 0, **changes: float) -> list[bytes]:
        config = follow_weights(small_folder(made_clips, data_dir, seed=seed, **changes), str(tmp_path), "train")
        job = Job(config, str(tmp_path), read_only=False)
        job.checkpoints.close()
        assert job.data.num_videos("val") == 3
        records = job.data.records("train")
        return [records[i].features.feature["name"].bytes_list.value[0] for i in range(job.data.num_videos("train"))]

    every, half, few = (names(**{"train.data_share": share}) for share in (1.0, 0.5, 0.25))
    assert (len(every), len(half), len(few)) == (9, 4, 2)
    assert set(few) < set(half) < set(every)
    assert {tuple(names(seed, **{"train.data_share": 0.5})) for seed in range(4)} != {tuple(half)}
