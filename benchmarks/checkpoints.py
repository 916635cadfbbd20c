"""Cost of a checkpoint's digests: `python benchmarks/checkpoints.py`.

Saves checkpoints of the base model with momentum (about 1 GB), alternately with and without digests, in one process, while a
loop computes steps on the device. Prints one table with the processor and wall time of a save and the time of a concurrent
step, followed by the processor time of the digests.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import timesformer_jax as tsf
from timesformer_jax import training
from timesformer_jax.training import checkpoints as module

TURNS = 4
DIGESTS = module.write_digests


def main() -> None:
    model = tsf.create("timesformer-base", num_classes=400)
    mesh = training.make_mesh(jax.devices()[:1])
    state = training.init_state(model, optax.sgd(0.1, momentum=0.9), 0, mesh)
    random = np.random.default_rng(0)
    noise = [jnp.asarray(random.standard_normal(x.shape, np.float32)) for x in jax.tree.leaves(state.opt_state)]
    state = state.replace(opt_state=jax.tree.unflatten(jax.tree.structure(state.opt_state), noise))  # zeros compress to nothing
    size = sum(x.nbytes for x in jax.tree.leaves((state.params, state.opt_state)))
    step = jax.jit(lambda x: x @ x / jnp.abs(x).max())
    operand = jnp.ones((1000, 1000))
    jax.block_until_ready(step(operand))
    spent: list[float] = []

    def timed(folder: Any) -> None:
        began = time.thread_time()
        DIGESTS(folder)
        spent.append(time.thread_time() - began)

    def save(number: int, digests: bool) -> tuple[float, float, float]:
        """Return the processor and wall seconds of a save, and the milliseconds of a concurrent step."""
        module.write_digests = timed if digests else lambda folder: None
        began, worked = time.perf_counter(), time.process_time()
        checkpoints.save(state, number)
        checkpoints.wait()
        wall, processor = time.perf_counter() - began, time.process_time() - worked
        checkpoints.save(state, number + 1)
        began = time.perf_counter()
        for _ in range(20):
            jax.block_until_ready(step(operand))
        steps = (time.perf_counter() - began) / 20 * 1000
        checkpoints.wait()
        return processor, wall, steps

    with tempfile.TemporaryDirectory() as folder:
        checkpoints = training.Checkpoints(str(Path(folder) / "c"), {"model": {}})
        save(1, True)
        rows = [(digests, save(2 * number + 1, digests)) for number, digests in enumerate([True, False] * TURNS, 1)]
        checkpoints.close()
    median = {kind: np.median([figures for digests, figures in rows if digests == kind], axis=0) for kind in (True, False)}
    share = np.median(spent) / median[False][0]
    print(f"{size / 1e9:.2f} GB, {TURNS} turns, medians")
    print("| | processor s | wall s | concurrent step, ms |\n| --- | --- | --- | --- |")
    for kind, name in ((False, "without digests"), (True, "with digests")):
        print(f"| {name} | " + " | ".join(f"{figure:.3f}" for figure in median[kind]) + " |")
    print(f"Digests take {np.median(spent):.3f} s of processor time, {100 * share:.1f} % of a save's.")


if __name__ == "__main__":
    main()
