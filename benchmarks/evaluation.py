"""Overlap of decoding and device work in evaluation: `python benchmarks/evaluation.py`.

Evaluates 10 clips x 3 crops per video at 224 px, decoding each video once. Times decoding alone (all batches, no model), the
forward pass alone (the same batches, kept in memory) and the whole evaluation, alternating in one process. Prints one table.
The last column is the one that counts: the whole relative to the slower of its two stages.

On a CPU the two stages share the cores, so if each alone keeps all cores busy, the whole can't take less than their sum.
Cropping and resizing are the device's work, and take longer there than decoding even with a minimal model. The last rows
therefore simulate a separate device: instead of a forward pass, each batch in turn waits for the given multiple of its decoding
time. Below 1, decoding dominates.
"""

import argparse
import os
import queue
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).parent.parent)  # replaces this file's folder, whose input_pipeline.py hides the package

CLIPS, CROPS, BATCH, TURNS = 10, 3, 8, 5

MODELS = {
    "forward dominates": {"embed_dim": 96, "depth": 2, "num_heads": 2, "patch_size": 16},
    "minimal model": {"embed_dim": 16, "depth": 1, "num_heads": 1, "patch_size": 56},
}
STORAGES = {"forward dominates": "jpeg", "minimal model": "h264"}
SHARES = (0.5, 1.0, 2.0)


class Waiting:
    """Scores of a batch that are available once `done` is set."""

    def __init__(self, shape: tuple[int, ...]):
        self.shape, self.done = shape, threading.Event()

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        import numpy as np

        self.done.wait()
        return np.zeros(self.shape, dtype)


class Device:
    """Simulated device that spends `seconds` on each batch in turn without using a core."""

    def __init__(self, seconds: float):
        self._seconds = seconds
        self._queue: queue.Queue[Waiting] = queue.Queue()
        threading.Thread(target=self._work, daemon=True).start()

    def __call__(self, params: Any, batch: dict[str, Any]) -> Waiting:
        scores = Waiting((BATCH, 2, 400))
        self._queue.put(scores)
        return scores

    def _work(self) -> None:
        while True:
            scores = self._queue.get()
            time.sleep(self._seconds)
            scores.done.set()


def seconds_of(function: Callable[[], Any]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def exhaust(batches: Iterable[Any]) -> None:
    for _ in batches:
        pass


def measure(root: Path, turns: int) -> None:
    import functools

    import jax

    import timesformer_jax as tsf
    from input_pipeline import ClipOptions, EvalViews, PixelOptions, eval_batches, open_dataset, prepare_eval
    from timesformer_jax import evaluation, training

    options = ClipOptions(num_frames=8, crop_size=224, sampling="uniform", sampling_rate=32.0, short_side=(256, 320))
    pixels = PixelOptions(flip="off", mean=(0.45,) * 3, std=(0.225,) * 3)
    folder = {"name": "video_folder", "root": str(root / "videos"), "val_fraction": 0.9, "max_fps": None, "num_workers": 0}
    mesh = training.make_mesh(jax.devices()[:1])

    def batches_of(storage: str) -> Callable[[], Any]:
        data = open_dataset(**folder, storage=storage, short_side=256, data_dir=str(root / storage))
        return lambda: eval_batches(data, "val", options, batch_size=BATCH, views=EvalViews(num_clips=CLIPS, num_crops=CROPS))

    def score_of(fields: dict[str, int]) -> tuple[Any, Any]:
        model = tsf.TimeSformer(num_classes=400, image_size=224, num_frames=8, **fields)
        params = jax.jit(model.init)(jax.random.key(0), jax.numpy.zeros((1, 8, 224, 224, 3)))["params"]
        return evaluation.make_score_fn(model=model, prepare=functools.partial(prepare_eval, options=pixels), mesh=mesh), params

    def row(name: str, batches: Callable[[], Any], score: Any, params: Any) -> float:
        """Print a row of the table; return the seconds that decoding takes per batch."""

        def test(incoming: Any) -> None:
            evaluation.score_clips(score, params, incoming, num_crops=CROPS, mesh=mesh)

        kept = list(batches())
        test(iter(kept))  # compiles
        ways = {
            "decode": lambda: exhaust(batches()),
            "forward": lambda: test(iter(kept)),
            "whole": lambda: test(batches()),
        }
        figures = [{way: seconds_of(run) for way, run in ways.items()} for _ in range(turns)]
        median = {way: statistics.median(figure[way] for figure in figures) for way in ways}
        larger, both = max(median["decode"], median["forward"]), median["decode"] + median["forward"]
        print(
            f"| {name} | {median['decode']:.2f} | {median['forward']:.2f} | {median['whole']:.2f} | {both / larger:.2f} | "
            f"{median['whole'] / larger:.2f} |",
            flush=True,
        )
        return median["decode"] / len(kept)

    print(f"{len(os.sched_getaffinity(0))} cores, JAX on {jax.default_backend()}, medians of {turns} turns, seconds\n")
    print("| | decoding alone | forward alone | whole evaluation | sum / larger | whole / larger |")
    print("|---|---|---|---|---|---|")
    a_batch = 0.0
    for name, fields in MODELS.items():
        a_batch = row(f"{name} ({STORAGES[name]})", batches_of(STORAGES[name]), *score_of(fields))
    for share in SHARES:
        row(f"separate device, {share:g} x decoding", batches_of("h264"), Device(share * a_batch), None)


def main() -> None:
    from benchmarks.input_pipeline import make_videos

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, help="folder of videos, LABEL/*.mp4 (default: synthetic ones)")
    parser.add_argument("--turns", type=int, default=TURNS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_videos(Path(folder) / "videos", arguments.videos)
        measure(Path(folder), arguments.turns)


if __name__ == "__main__":
    main()
