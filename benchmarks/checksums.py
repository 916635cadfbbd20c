"""Cost of checksums and digests: `python benchmarks/checksums.py`.

Prepares ten-second videos of 340 x 256 pixels (those of benchmarks/input_pipeline.py) as `jpeg` and as `h264`. The first table
compares the processor time of a record's CRC-32C with that of decoding the record, and with that of a random 8 x 32 clip from
the data pipeline, on one core. The second table times steps of a small model on such batches, with a checkpoint every ten
steps, with and without verification. It shows processor time, since other programs may use the core too, and wall time.
"""

import contextlib
import functools
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

sys.path[0] = str(Path(__file__).parent.parent)  # replaces this file's folder, whose input_pipeline.py hides the package

ROUNDS, BATCH, CLIPS, STEPS = 7, 8, 64, 40
STORAGES = ("jpeg", "h264")


def main() -> None:
    from benchmarks.input_pipeline import make_videos

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_videos(root / "videos", None)
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # before TensorFlow counts the cores
        measure(root)


def measure(root: Path) -> None:
    from input_pipeline import ClipOptions, open_dataset, training_batches

    options = ClipOptions(num_frames=8, crop_size=224, sampling="uniform", sampling_rate=32.0, short_side=(256, 320))
    folder = {"name": "video_folder", "root": str(root / "videos"), "val_fraction": 0.5, "max_fps": None, "num_workers": 1}

    columns = ["storage", "a record, MB", "its CRC-32C, ms", "decoding it, ms", "share", "a clip of it, ms", "share"]
    print(f"| {' | '.join([*columns, 'clips/s with / without'])} |\n|{'---|' * 8}")
    data = {}
    for storage in STORAGES:
        data[storage] = open_dataset(**folder, storage=storage, short_side=256, data_dir=str(root / storage))
        records = data[storage].records("train")
        contents = [records.read(number) for number in range(len(records))]

        def batches(of: Any = data[storage]) -> Iterator[Any]:
            return training_batches(of, "train", options, batch_size=BATCH, seed=0)

        crc, whole_record, rates = [], [], {True: [], False: []}
        for _ in range(ROUNDS):
            crc.append(crc_seconds(contents))
            whole_record.append(seconds_of_a_record(contents, storage))
            for compared, found in rates.items():
                with contextlib.nullcontext() if compared else uncompared():
                    found.append(seconds_of_a_clip(batches()))
        size = statistics.mean(map(len, contents)) / 1e6
        whole, decoding = (statistics.median(rates[compared]) for compared in (True, False))
        shares = [statistics.median(a / b for a, b in zip(crc, other, strict=True)) for other in (whole_record, rates[False])]
        ratio = statistics.median(b / a for a, b in zip(rates[True], rates[False], strict=True))
        print(
            f"| {storage} | {size:.2f} | {1e3 * statistics.median(crc):.3f} | "
            f"{1e3 * statistics.median(whole_record):.0f} | {100 * shares[0]:.2f} % | "
            f"{1e3 * decoding:.2f} | {100 * shares[1]:.1f} % | "
            f"{1 / whole:.0f} / {1 / decoding:.0f} ({ratio:.3f}) |",
            flush=True,
        )
    columns = ["training, storage", "processor time of a step, with / without, ms", "ratio (all turns)"]
    columns += ["wall time of a step, with / without, ms", "ratio (all turns)"]
    print(f"\n| {' | '.join(columns)} |\n|{'---|' * 5}")
    for storage in STORAGES:
        times = {True: [], False: []}
        for turn in range(ROUNDS):
            with tempfile.TemporaryDirectory() as where:
                for compared in (True, False) if turn % 2 else (False, True):
                    with contextlib.nullcontext() if compared else uncompared():
                        batches_ = training_batches(data[storage], "train", options, batch_size=BATCH, seed=0)
                        times[compared].append(seconds_of_a_step(batches_, Path(where) / str(compared)))
        clocks = [[[pair[clock] for pair in times[compared]] for compared in (True, False)] for clock in (0, 1)]
        print(f"| {storage} | {' | '.join(compare(*clock) for clock in clocks)} |", flush=True)


def compare(with_: list[float], without: list[float]) -> str:
    """Return two table cells: both medians, and the median, minimum and maximum of the per-turn ratio."""
    ratios = sorted(a / b for a, b in zip(with_, without, strict=True))
    medians = " / ".join(f"{1e3 * statistics.median(column):.1f}" for column in (with_, without))
    return f"{medians} | {statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})"


@contextlib.contextmanager
def uncompared() -> Iterator[None]:
    """Read records without verifying their checksums, and write checkpoints without digests."""
    from input_pipeline.records import Records
    from timesformer_jax.training import checkpoints

    def read(self: Records, number: int) -> bytes:
        file, begin, length = self._where[number].tolist()
        return self._opened(file).read(begin, length)

    with mock.patch.object(Records, "read", read), mock.patch.object(checkpoints, "write_digests"):
        yield


def crc_seconds(contents: list[bytes]) -> float:
    """Processor time of a record's checksum; together, the records exceed the processor's caches."""
    from timesformer_jax.datasets.tfrecords import masked_crc

    began = time.thread_time()
    for content in contents:
        masked_crc(content)
    return (time.thread_time() - began) / len(contents)


def seconds_of_a_record(contents: list[bytes], storage: str) -> float:
    """Processor time of decoding all frames of a record."""
    from benchmarks.input_pipeline import decode_stream
    from input_pipeline._tensorflow import tf

    several = contents[:4]
    frames = [tf.train.Example.FromString(content).features.feature["video"].bytes_list.value for content in several]
    began = time.process_time()
    for each in frames:
        if storage == "h264":
            decode_stream(b"".join(each))
        else:
            for frame in each:
                tf.io.decode_jpeg(frame, channels=3, dct_method="INTEGER_ACCURATE")  # as the pipeline does
    return (time.process_time() - began) / len(several)


def seconds_of_a_clip(batches: Iterator[Any]) -> float:
    """Processor time of a training clip, since other programs may use the core too."""
    for _ in range(5):  # starts the threads and drains what they have prefetched
        next(batches)
    began = time.process_time()
    for _ in range(CLIPS // BATCH):
        next(batches)
    return (time.process_time() - began) / CLIPS


@functools.cache
def small_model() -> tuple[Callable[..., Any], Any]:
    """Return a forward pass and a training state with its parameters."""
    import jax
    import optax

    import timesformer_jax as tsf
    from timesformer_jax import training

    model = tsf.TimeSformer(num_classes=2, num_frames=8, image_size=224, patch_size=32, embed_dim=64, depth=1, num_heads=4)
    state = training.init_state(model, optax.sgd(0.1), 0, training.make_mesh(jax.devices()[:1]))
    forward = jax.jit(lambda params, window: model.apply({"params": params}, window[:, :, :224, :224] / 255.0))
    return forward, state


def seconds_of_a_step(batches: Iterator[Any], folder: Path) -> tuple[float, float]:
    """Processor and wall time of reading a batch and a forward pass, including background writes."""
    import jax

    from timesformer_jax import training

    forward, state = small_model()
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax logs every save
    checkpoints = training.Checkpoints(str(folder), {"model": {}})
    jax.block_until_ready(forward(state.params, next(batches)["video"]))
    worked, began = time.process_time(), time.perf_counter()
    for step in range(1, STEPS + 1):
        jax.block_until_ready(forward(state.params, next(batches)["video"]))
        if not step % 10:
            checkpoints.save(state, step)
    checkpoints.close()
    return (time.process_time() - worked) / STEPS, (time.perf_counter() - began) / STEPS


if __name__ == "__main__":
    main()
