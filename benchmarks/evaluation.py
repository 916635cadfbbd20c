"""How well a test keeps decoding and the device busy at once: `python benchmarks/evaluation.py`.

Tests of 10 clips x 3 crops at 224 px, each video decoded once: decoding alone (all batches, no model), the forward pass alone
(the same batches, kept in memory), and the whole test, in turns, in one process. Prints one table; the last column is what
counts, the whole by the larger of its two parts.

On a CPU the two parts share the cores, so the whole can't take less than their sum where each alone keeps all cores busy. There
cutting and scaling the crops, which is the device's, takes longer than decoding even with next to no model. So the last
rows have a device of its own: in place of the forward pass something waits, one batch after the other, as long as the named
share of a batch's decoding takes; below 1 decoding dominates.
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

sys.path[0] = str(Path(__file__).parent.parent)  # in place of this file's folder, where it is called as the package is

CLIPS, CROPS, BATCH, TURNS = 10, 3, 8, 5

MODELS = {
    "forward dominates": {"embed_dim": 96, "depth": 2, "num_heads": 2, "patch_size": 16},
    "next to no model": {"embed_dim": 16, "depth": 1, "num_heads": 1, "patch_size": 56},
}
STORAGES = {"forward dominates": "jpeg", "next to no model": "h264"}
SHARES = (0.5, 1.0, 2.0)


class Waiting:
    """A batch's scores, there after a while."""

    def __init__(self, shape: tuple[int, ...]):
        self.shape, self.done = shape, threading.Event()

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        import numpy as np

        self.done.wait()
        return np.zeros(self.shape, dtype)


class Device:
    """Takes `seconds` for each batch, one after the other, and no core."""

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
        """One line of the table; the seconds of a batch's decoding."""

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
    print("| | decoding alone | forward alone | the whole test | sum / larger | whole / larger |")
    print("|---|---|---|---|---|---|")
    a_batch = 0.0
    for name, fields in MODELS.items():
        a_batch = row(f"{name} ({STORAGES[name]})", batches_of(STORAGES[name]), *score_of(fields))
    for share in SHARES:
        row(f"a device of its own, {share:g} x decoding", batches_of("h264"), Device(share * a_batch), None)


def main() -> None:
    from benchmarks.input_pipeline import make_videos

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, help="a folder of your own videos, LABEL/*.mp4, in place of drawn ones")
    parser.add_argument("--turns", type=int, default=TURNS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_videos(Path(folder) / "videos", arguments.videos)
        measure(Path(folder), arguments.turns)


if __name__ == "__main__":
    main()
