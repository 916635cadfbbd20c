"""Hugging Face's TimeSformer in PyTorch on the same card, alternating with ours.

The peer runs in its own process (`python -m benchmarks.accelerator.peer`), which keeps the two frameworks' CUDA libraries
apart. Its parameters are bfloat16, its faster choice; ours are float32 and cast.
"""

import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import IO, Any

from benchmarks.accelerator.compiling import quiet
from benchmarks.accelerator.sizes import Size
from benchmarks.accelerator.timing import Measurement, Skipped, end_of_compilation

ROOT = Path(__file__).parent.parent.parent
ROUNDS = 5
CALLS = 5
"""Calls per turn."""
ENVIRONMENT = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
"""Variables for a card whose memory is shared by two processes."""

SDPA = "SDPA"
"""Torch's fused attention, which not every version of the peer supports."""

CONTENDERS: dict[str, dict[str, Any]] = {
    "eager": {},
    "compiled": {"compiled": True},
    SDPA: {"attention": "sdpa"},
    f"{SDPA}, compiled": {"attention": "sdpa", "compiled": True},
}
"""Maps each contender to the settings of the peer."""


FIRST = ("compiled", "train"), ("compiled", "forward")
"""The fastest contenders that are sure to run."""


def first_measurements(size: Size) -> list[Measurement]:
    """Return the measurements of `FIRST`."""
    return [_measurement(size, *contender, later=False) for contender in FIRST]


def measurements(size: Size) -> list[Measurement]:
    """Return the remaining measurements."""
    return [
        _measurement(size, contender, job, later=True)
        for contender in CONTENDERS
        for job in ("train", "forward")
        if (contender, job) not in FIRST
    ]


def _measurement(size: Size, contender: str, job: str, *, later: bool) -> Measurement:
    return Measurement(f"{job}, {contender}", partial(compare, size, contender, job), limit=170, later=later)


def compare(size: Size, contender: str, job: str, results: dict[str, Any]) -> dict[str, Any]:
    """Time both frameworks in alternating rounds; return their medians and the ratio."""
    if missing := [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]:
        raise Skipped(f"not installed: {' and '.join(missing)}")
    if SDPA in contender and any(
        entry["section"] == "peer" and SDPA in entry["name"] and "failure" in entry for entry in results["entries"]
    ):
        raise Skipped("this version of the peer does not work with SDPA")
    import jax

    batch_size = max(size.batch_size // 2, 1)
    ours = _our_call(size, batch_size, job)
    arguments = {"job": job, "batch_size": batch_size, "model": dict(size.model), **CONTENDERS[contender]}
    command = [sys.executable, "-m", "benchmarks.accelerator.peer", json.dumps(arguments)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as peer:
        assert peer.stdin is not None
        assert peer.stdout is not None
        try:
            about = json.loads(peer.stdout.readline() or '{"error": "the peer\'s process ended"}')
            if "error" in about:
                raise Skipped(about["error"])
            jax.block_until_ready(ours())
            end_of_compilation()
            with quiet():
                times = _alternate(ours, peer.stdin, peer.stdout)
        finally:
            peer.kill()
    seconds = {name: median(values) for name, values in times.items()}
    ratios = [a / b for a, b in zip(times["ours"], times["peer"], strict=True)]
    return {
        "batch_size": batch_size,
        "our_seconds": seconds["ours"],
        "peer_seconds": seconds["peer"],
        "our_clips_per_second": batch_size / seconds["ours"],
        "peer_clips_per_second": batch_size / seconds["peer"],
        "ratio": median(ratios),
        "peer": about,
    }


def _alternate(ours: Callable[[], Any], questions: IO[str], answers: IO[str]) -> dict[str, list[float]]:
    """Return the seconds per call of both, in alternating rounds."""
    import jax

    times: dict[str, list[float]] = {"ours": [], "peer": []}
    for _ in range(ROUNDS):
        print(CALLS, file=questions, flush=True)
        times["peer"].append(json.loads(answers.readline()))
        began = time.perf_counter()
        for _ in range(CALLS):
            output = ours()
        jax.block_until_ready(output)
        times["ours"].append((time.perf_counter() - began) / CALLS)
    return times


def _our_call(size: Size, batch_size: int, job: str) -> Callable[[], Any]:
    import jax
    import jax.numpy as jnp

    from benchmarks.accelerator.whole_model import MEAN, STD, TrainingBench, make_model, random_batch
    from timesformer_jax.video import normalize

    model = make_model(size, None, {})
    if job == "train":
        return TrainingBench(model, batch_size, lambda key, batch: normalize(batch["video"], mean=MEAN, std=STD)).step
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 1, model.patch_size, model.patch_size, 3)))
    video = jax.device_put(random_batch(model, batch_size, seed=0)["video"])
    logits = jax.jit(lambda variables, video: model.apply(variables, normalize(video, mean=MEAN, std=STD)))
    return lambda: logits(variables, video)


def serve(arguments: dict[str, Any]) -> None:
    """Serve the peer: print its versions and device, then the seconds per call for each number of calls on stdin."""
    try:
        call, wait, about = _peer_call(**arguments)
        for _ in range(3):  # the first compiles
            call()
        wait()
    except Exception as error:  # from either framework; recorded in the results file
        print(json.dumps({"error": f"{type(error).__name__}: {error}"[:1000]}), flush=True)
        return
    print(json.dumps(about), flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        for _ in range(int(line)):
            call()
        wait()
        print((time.perf_counter() - began) / int(line), flush=True)


def _peer_call(
    *, job: str, batch_size: int, model: dict[str, Any], attention: str = "eager", compiled: bool = False
) -> tuple[Callable[[], Any], Callable[[], None], dict[str, Any]]:
    import torch  # pyright: ignore[reportMissingImports]
    import transformers  # pyright: ignore[reportMissingImports]
    from transformers import (  # pyright: ignore[reportMissingImports]
        TimesformerConfig,
        TimesformerForVideoClassification,
    )

    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = TimesformerConfig(
        image_size=model["image_size"],
        num_frames=model["num_frames"],
        hidden_size=model["embed_dim"],
        num_hidden_layers=model["depth"],
        num_attention_heads=model["num_heads"],
        intermediate_size=4 * model["embed_dim"],
        num_labels=model["num_classes"],
        attn_implementation=attention,
    )
    network: Any = TimesformerForVideoClassification(config).to(device, torch.bfloat16)
    network.train(job == "train")
    run = torch.compile(network) if compiled else network
    frames, side = model["num_frames"], model["image_size"]
    video = torch.randint(0, 256, (batch_size, frames, 3, side, side), dtype=torch.uint8, device=device)
    labels = torch.randint(0, model["num_classes"], (batch_size,), device=device)
    optimizer = torch.optim.SGD(network.parameters(), lr=5e-3, momentum=0.9)

    def normalized() -> torch.Tensor:
        return ((video.float() / 255 - 0.45) / 0.225).to(torch.bfloat16)

    def forward() -> None:
        with torch.inference_mode():
            run(normalized())

    def train() -> None:
        optimizer.zero_grad(set_to_none=True)
        logits = run(normalized()).logits
        torch.nn.functional.cross_entropy(logits.float(), labels).backward()
        optimizer.step()

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    about = {"torch": torch.__version__, "transformers": transformers.__version__, "device": device}
    return (train if job == "train" else forward), wait, about


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]))
