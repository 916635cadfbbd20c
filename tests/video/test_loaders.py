"""`ClipSource` with Grain; tests/parity covers PyTorch's loader."""

from pathlib import Path

import grain
import numpy as np

from timesformer_jax.video import ClipOptions, ClipSource

OPTIONS = ClipOptions(num_frames=4, crop_size=24, sampling="uniform", sampling_rate=1.0, short_side=(26, 40))


def expected(source: ClipSource, first: int) -> dict[str, np.ndarray]:
    clips = [source[index] for index in range(first, first + 5)]
    return {name: np.stack([clip[name] for clip in clips]) for name in clips[0]}


def assert_same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


def loader_of(source: ClipSource) -> grain.DataLoader:
    sampler = grain.samplers.SequentialSampler(len(source), grain.sharding.NoSharding())
    return grain.DataLoader(data_source=source, sampler=sampler, operations=[grain.transforms.Batch(5, drop_remainder=True)])


def test_grain_loader_resumes_in_another_process(made_clips: Path):
    """Its state identifies the source by its text, so an equal source created anew is accepted."""
    source = ClipSource(made_clips, OPTIONS).shuffled(2)
    batches = iter(loader_of(source))
    for first in (0, 5):
        assert_same(next(batches), expected(source, first))
    state = batches.get_state()
    resumed = iter(loader_of(ClipSource(made_clips, OPTIONS).shuffled(2)))
    resumed.set_state(state)
    assert_same(next(resumed), expected(source, 10))


def test_grain_data_set_reads_the_source_in_threads(made_clips: Path):
    source = ClipSource(made_clips, OPTIONS).shuffled(2)
    data = grain.MapDataset.source(source).batch(5, drop_remainder=True)
    batches = list(data.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)))
    assert len(batches) == 4
    for number, batch in enumerate(batches):
        assert_same(batch, expected(source, 5 * number))
