"""Cost of explanations, and how well they point at the moving digit.

python benchmarks/explain.py memory                           temporary memory compared with the forward pass
python benchmarks/explain.py speed                            time of rollout and relevance compared with the forward pass
python benchmarks/explain.py digits runs/demo [--clips=1000]  how often a run's maps point at the moving digit
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).parent.parent)  # replaces this file's folder, whose files hide packages

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

import timesformer_jax as tsf  # noqa: E402
from timesformer_jax import explain  # noqa: E402
from timesformer_jax.explain.relevance import _class_relevance  # noqa: E402
from timesformer_jax.explain.rollout import _rollout  # noqa: E402

GIB = 2**30


def model_of(num_frames: int) -> tsf.TimeSformer:
    return tsf.create("timesformer-base", num_classes=400, num_frames=num_frames, scan_layers=True)


def memory() -> None:
    """Print the compiler's estimate for one clip in float32, without running anything."""
    print("| frames | forward, GiB | rollout, GiB | rollout beyond the forward pass | class relevance, GiB |")
    print("|---|---|---|---|---|")
    for frames in (8, 32, 96):
        model = model_of(frames)
        video = jax.ShapeDtypeStruct((1, frames, 224, 224, 3), jnp.float32)
        params = jax.eval_shape(model.init, jax.random.key(0), video)["params"]
        labels = jax.ShapeDtypeStruct((1,), jnp.int32)
        forward = jax.jit(lambda params, video, model=model: model.apply({"params": params}, video))
        found = []
        for lowered in (
            forward.lower(params, video),
            _rollout.lower(model, params, video, None),
            _class_relevance.lower(model, params, video, labels, None),
        ):
            analysis: Any = lowered.compile().memory_analysis()
            found.append(analysis.temp_size_in_bytes / GIB)
        print(f"| {frames} | {found[0]:.2f} | {found[1]:.2f} | {found[1] - found[0]:.2f} | {found[2]:.2f} |", flush=True)


def speed(turns: int = 5) -> None:
    """Time the base model on one clip of 8 frames; each turn runs all three contenders."""
    model = model_of(8)
    video = jnp.asarray(np.random.default_rng(0).normal(size=(1, 8, 224, 224, 3)), jnp.float32)
    params: Any = jax.jit(model.init)(jax.random.key(0), video)["params"]
    forward = jax.jit(lambda params, video: model.apply({"params": params}, video))
    ways: dict[str, Callable[[], Any]] = {
        "forward": lambda: forward(params, video),
        "rollout": lambda: explain.attention_rollout(model, params, video),
        "class relevance": lambda: explain.class_relevance(model, params, video, jnp.array([3])),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(turns + 1):
        for name, way in ways.items():
            began = time.perf_counter()
            jax.block_until_ready(way())
            times[name] += [time.perf_counter() - began] if turn else []  # the first turn compiles
    print("| base, 8 x 224, one clip | ms, median | times the forward pass |")
    print("|---|---|---|")
    for name, seconds in times.items():
        ratio = statistics.median(a / b for a, b in zip(seconds, times["forward"], strict=True))
        print(f"| {name} | {1000 * statistics.median(seconds):.0f} | {ratio:.2f} |")


def digits(run: str, num_clips: int) -> None:
    """Print how many validation clips have maps that point at the digit.

    A map points at the digit if its mean inside the digit's box is at least 1.5 times its mean elsewhere.
    """
    from input_pipeline.moving_digits import FRAME_SIZE, digit_boxes, draw_clip

    trained = tsf.load(run)
    numbers = range(num_clips)
    video = np.stack([trained.preprocess(draw_clip("val", number)[0], num_crops=1)[0] for number in numbers])
    inside = explain.box_mask(np.stack([digit_boxes("val", number) for number in numbers]), FRAME_SIZE, FRAME_SIZE)
    fresh: Any = jax.jit(trained.model.init)(jax.random.key(1), jnp.asarray(video[:1]))["params"]
    print("| model | map | points at the digit | median of inside / outside |")
    print("|---|---|---|---|")
    for name, params in (("trained", trained.variables["params"]), ("fresh", fresh)):
        scores: Any = trained.model.apply({"params": params}, jnp.asarray(video))
        maps = {
            "rollout": explain.attention_rollout(trained.model, params, video),
            "relevance of the best label": explain.class_relevance(trained.model, params, video, scores.argmax(axis=1)),
        }
        for kind, found in maps.items():
            ratios = explain.inside_over_outside(np.asarray(found), inside)
            print(f"| {name} | {kind} | {(ratios >= 1.5).mean():.1%} of {num_clips} clips | {np.median(ratios):.2f} |")
        features: Any = trained.model.apply({"params": params}, jnp.asarray(video), method="features", attention="mean")
        if "temporal" in features.attention:
            weights = features.attention["temporal"].weights
            moved = 0.5 * jnp.abs(weights - 1 / weights.shape[-1]).sum(axis=-1).mean()
            print(f"| {name} | temporal maps | {moved:.1%} of the attention deviates from uniform over frames | |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("memory", "speed", "digits"))
    parser.add_argument("run", nargs="?", help="workdir of a run, for digits")
    parser.add_argument("--clips", type=int, default=1000)
    arguments = parser.parse_args()
    if arguments.what == "digits" and arguments.run is None:
        parser.error("digits needs a run's workdir, such as runs/demo")
    {"memory": memory, "speed": speed, "digits": lambda: digits(arguments.run, arguments.clips)}[arguments.what]()


if __name__ == "__main__":
    main()
