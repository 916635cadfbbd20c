"""Speed and storage of the data pipeline on one core: random 8 x 32 clips from stored videos of 340 x 256, for 224 px crops.

    python benchmarks/input_pipeline.py [--videos=FOLDER] [--batches=5000]

FOLDER holds videos (LABEL/*.mp4), which are concatenated and resized to ten seconds of 340 x 256; the default is synthetic
videos. All figures of the table come from one run that alternates between the contenders, so their ratios are what counts.
`--batches` measures resident memory.
"""

import argparse
import io
import itertools
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).parent.parent)  # replaces this file's folder, where this file hides the package

HEIGHT, WIDTH, FRAMES, FPS = 256, 340, 300, 30
ROUNDS, BATCH, COPIES = 7, 8, 6


def drawn(seed: int) -> Iterator[Any]:
    """Yield frames of a panning textured scene with independently moving discs and camera noise."""
    import numpy as np

    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[: HEIGHT + 80, : WIDTH + 340]
    scene = np.full((*rows.shape, 3), 120.0)
    for pitch in np.geomspace(0.01, 0.25, 24):
        angle = random.uniform(0, 2 * np.pi)
        wave = np.sin(2 * np.pi * pitch * (np.cos(angle) * rows + np.sin(angle) * columns) + random.uniform(0, 6))
        scene += wave[..., None] * random.uniform(0.2, 1.0, 3) * 0.6 / pitch**0.7
    discs = [(random.uniform(20, 60), random.uniform(0, 1, 4), random.uniform(0, 255, 3)) for _ in range(5)]
    for time_ in range(FRAMES):
        top, left = int(40 + 38 * np.sin(time_ / 40)), time_
        frame = scene[top : top + HEIGHT, left : left + WIDTH].copy()
        for radius, (a, b, c, d), colour in discs:
            centre = (a + 0.3 * np.sin(time_ * c / 9)) * HEIGHT, (b + 0.3 * np.cos(time_ * d / 9)) * WIDTH
            inside = (rows[:HEIGHT, :WIDTH] - centre[0]) ** 2 + (columns[:HEIGHT, :WIDTH] - centre[1]) ** 2 < radius**2
            frame[inside] = colour + 0.3 * scene[:HEIGHT, :WIDTH][inside]
        yield (frame + random.normal(0, 1.2, frame.shape)).clip(0, 255).astype(np.uint8)


def joined(paths: list[Path]) -> Iterator[Any]:
    """Yield `FRAMES` resized frames of the concatenated videos, repeating them as needed."""
    import av

    count = 0
    while True:
        for path in paths:
            with av.open(str(path)) as container:
                for frame in container.decode(video=0):
                    if count == FRAMES:
                        return
                    count += 1
                    yield frame.to_ndarray(format="rgb24", width=WIDTH, height=HEIGHT, interpolation="BICUBIC")


def make_videos(root: Path, source: Path | None) -> None:
    """Write originals like typical downloads: H.264 with a key frame every 250 frames."""
    import av

    if source is None:
        scenes = [drawn(seed) for seed in range(4)]
    else:
        folders = sorted(folder for folder in source.iterdir() if folder.is_dir())
        scenes = [joined(sorted(folder.glob("*.mp4"))) for folder in folders]
    for number, frames in enumerate(scenes):
        path = root / f"label{number % 2}" / f"{number}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w") as container:
            stream: Any = container.add_stream("libx264", rate=FPS, options={"crf": "23", "g": "250", "preset": "medium"})
            stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
        for copy in range(1, COPIES):
            shutil.copy(path, path.with_stem(f"{number}_{copy}"))


def decode_whole(path: Path) -> None:
    """Decode every frame without conversion: the minimal cost of a clip from the original."""
    decode_stream(path.read_bytes())


def decode_stream(content: bytes) -> None:
    """Decode every frame of a video in memory, in one thread."""
    import av

    with av.open(io.BytesIO(content)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for _ in container.decode(stream):
            pass


def memory_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path)
    parser.add_argument("--batches", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_videos(root / "videos", arguments.videos)
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # before TensorFlow counts cores
        measure(root, arguments.batches)


def measure(root: Path, num_batches: int) -> None:
    import numpy as np

    from input_pipeline import ClipOptions, EvalViews, eval_batches, open_dataset, training_batches
    from input_pipeline._tensorflow import tf
    from timesformer_jax.video import clip_frames

    options = ClipOptions(num_frames=8, crop_size=224, sampling="uniform", sampling_rate=32.0, short_side=(256, 320))
    originals = sorted((root / "videos").rglob("*.mp4"))
    folder = {"name": "video_folder", "root": str(root / "videos"), "val_fraction": 0.5, "max_fps": None, "num_workers": 1}
    data = {
        storage: open_dataset(**folder, storage=storage, short_side=256, data_dir=str(root / storage))
        for storage in ("jpeg", "h264")
    }

    records = data["jpeg"].records("train")
    stored = [records[number].features.feature["video"].bytes_list.value for number in range(len(records))]
    random = np.random.default_rng(0)

    @tf.function
    def decode(pictures: Any) -> Any:
        return tf.map_fn(
            lambda picture: tf.io.decode_jpeg(picture, channels=3, dct_method="INTEGER_ACCURATE"),  # as the pipeline does
            pictures,
            fn_output_signature=tf.uint8,
        )

    def merely_decode() -> None:
        frames = stored[random.integers(len(stored))]
        indices = clip_frames(len(frames), FPS, num_frames=8, sampling_rate=32.0, start=random.random())
        decode(tf.constant([frames[index] for index in indices]))

    turns = itertools.cycle(originals)

    def batches_of(storage: str) -> Callable[[], Any]:
        """Build a new pipeline for each turn: one that prefetches in the background would slow down the others."""
        batches = training_batches(data[storage], "train", options, batch_size=BATCH, seed=0)
        return lambda: next(batches)

    loop, jpeg, whole, h264 = (
        "frames, decoded by TensorFlow in a loop",
        "`jpeg`, batches",
        "original, decoded from start to end",
        "`h264`, batches",
    )
    ways: dict[str, tuple[Callable[[], Callable[[], Any]], int, int]] = {  # factory, clips per call, calls per turn
        loop: (lambda: merely_decode, 1, 100),
        jpeg: (lambda: batches_of("jpeg"), BATCH, 25),
        whole: (lambda: lambda: decode_whole(next(turns)), 1, 16),
        h264: (lambda: batches_of("h264"), BATCH, 25),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, (begin, clips, calls) in ways.items():
            call = begin()
            for _ in range(5):  # starts the threads and drains what they have prefetched
                call()
            began = time.perf_counter()
            for _ in range(calls):
                call()
            seconds[name].append((time.perf_counter() - began) / calls / clips)
            del call

    sizes = {name: each.builder.info.dataset_size for name, each in data.items()}
    sizes["original"] = sum(path.stat().st_size for path in originals)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    print("| | ms per clip | clips/s/core | rate | bytes per video |")
    print("|---|---|---|---|---|")
    for name, beside, stored_as in (
        (loop, loop, "jpeg"),
        (jpeg, loop, "jpeg"),
        (whole, whole, "original"),
        (h264, whole, "h264"),
    ):
        size = sizes[stored_as] / len(originals)
        more = f" ({sizes[stored_as] / sizes['original']:.1f} x)" if stored_as != "original" else ""
        print(
            f"| {name} | {1e3 * median[name]:.2f} | {1 / median[name]:.0f} | {median[beside] / median[name]:.2f} | "
            f"{size / 1e6:.2f} MB{more} |"
        )

    print("\n| evaluation views | ms per video, jpeg | h264 |\n|---|---|---|")
    for clips, crops in ((1, 1), (1, 3), (5, 3)):
        figures = []
        for each in data.values():
            views = eval_batches(each, "val", options, batch_size=clips, views=EvalViews(num_clips=clips, num_crops=crops))
            next(views)  # starts the threads
            began = time.perf_counter()
            count = sum(1 for _ in views)
            figures.append(f"{1e3 * (time.perf_counter() - began) / count:.1f}")
        print(f"| {clips} x {crops} | {' | '.join(figures)} |")

    if num_batches:
        batches = {name: training_batches(each, "train", options, batch_size=BATCH, seed=0) for name, each in data.items()}
        print(f"\n| resident memory, {num_batches} batches | MiB |\n|---|---|")
        for number in range(num_batches + 1):
            next(batches["jpeg"])
            next(batches["h264"])
            if number in {num_batches // 10, num_batches // 2, num_batches}:
                print(f"| after {number} of each storage | {memory_mib():.0f} |", flush=True)


if __name__ == "__main__":
    main()
