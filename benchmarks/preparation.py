"""Cost of preparing a data set: processor time and bytes per second of video, for real videos on one core.

    python benchmarks/preparation.py --videos=FOLDER

FOLDER holds videos (LABEL/*.mp4). The videos of each label are concatenated and resized to ten seconds at 30 frames per second
in each of the `SIZES`, encoded like typical downloads (H.264, a key frame every 250 frames), and prepared as jpeg and h264 with
a short side of 256. Processor time is measured, so that other work on the machine doesn't count. The second table extrapolates
to whole data sets.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

sys.path[0] = str(Path(__file__).parent.parent)  # replaces this file's folder, whose input_pipeline.py hides the package

SECONDS, FPS, SHORT_SIDE = 10, 30, 256
SIZES = ((340, 256), (640, 360), (1280, 720))
ROUNDS = 3


class DataSet(NamedTuple):
    """Size of a whole data set, for the extrapolation."""

    videos: int
    seconds: float
    """Average duration of a video."""
    size: tuple[int, int]
    """Width and height in pixels."""
    max_fps: float | None = None
    """Frame rate of storage; None keeps each video's own."""


DATA_SETS = {
    "Kinetics-400": DataSet(260_000, 10.0, (340, 256)),
    "Kinetics-400, files of 720 lines": DataSet(260_000, 10.0, (1280, 720)),
    "HowTo100M (the paper's 120,000)": DataSet(120_000, 390.0, (640, 360), max_fps=2.0),
}
"""Numbers of videos are from section 4 of the paper. Kinetics' segments are trimmed to 10 s; HowTo100M's videos last 6.5
minutes on average (Miech et al. 2019). Sizes are those of common downloads. configs/howto100m.py keeps 2 frames per second."""


def frames_of(paths: list[Path], size: tuple[int, int]) -> Iterator[Any]:
    """Yield resized frames of the concatenated videos, repeating them until `SECONDS` are filled."""
    import av

    count = 0
    while True:
        for path in paths:
            with av.open(str(path)) as container:
                for frame in container.decode(video=0):
                    if count == SECONDS * FPS:
                        return
                    count += 1
                    yield frame.reformat(width=size[0], height=size[1], format="yuv420p", interpolation="BICUBIC")


def write_original(path: Path, sources: list[Path], size: tuple[int, int]) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=FPS, options={"crf": "23", "g": "250", "preset": "medium"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for number, frame in enumerate(frames_of(sources, size)):
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def measure(paths: list[Path], codec: str, max_fps: float | None) -> tuple[float, float]:
    """Return processor seconds and bytes per second of video, in the fastest of `ROUNDS` rounds."""
    from timesformer_jax.datasets import Entry, Storage, store_video

    storage = Storage(codec=codec, short_side=SHORT_SIDE, **({} if max_fps is None else {"max_fps": max_fps}))
    entries = [Entry(name=path.name, path=path, labels=("x",)) for path in paths]
    seconds, size = [], 0
    for _ in range(ROUNDS):
        began = time.process_time()
        stored = [store_video(entry, storage) for entry in entries]
        seconds.append(time.process_time() - began)
        size = sum(len(frame) for parts in stored for part in parts for frame in part.frames)
    length = SECONDS * len(paths)
    return min(seconds) / length, size / length


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, required=True)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    labels = [sorted(folder.glob("*.mp4")) for folder in sorted(arguments.videos.iterdir()) if folder.is_dir()]
    wanted = {(data.size, data.max_fps) for data in DATA_SETS.values()} | {(size, None) for size in SIZES}
    found: dict[tuple[tuple[int, int], float | None, str], tuple[float, float]] = {}
    print("| videos of 30 frames per second | stored as | x real time on a core | MB per minute |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for size in SIZES:
            paths = [Path(folder) / f"{size[0]}_{number}.mp4" for number in range(len(labels))]
            for path, sources in zip(paths, labels, strict=True):
                write_original(path, sources, size)
            for max_fps in (None, 2.0):
                for codec in ("jpeg", "h264"):
                    if (size, max_fps) in wanted:
                        found[size, max_fps, codec] = seconds, kept = measure(paths, codec, max_fps)
                        rate = "" if max_fps is None else f", {max_fps:g} frames per second"
                        print(
                            f"| {size[0]} x {size[1]} | `{codec}`{rate} | {1 / seconds:.1f} | {60 * kept / 1e6:.2f} |",
                            flush=True,
                        )
    print("\n| | `jpeg` | `h264` |\n|---|---|---|")
    for name, data in DATA_SETS.items():
        cells = []
        for codec in ("jpeg", "h264"):
            seconds, kept = found[data.size, data.max_fps, codec]
            total = data.videos * data.seconds
            cells.append(f"{total * seconds / 3600:,.0f} core-hours, {total * kept / 1e9:,.0f} GB")
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
