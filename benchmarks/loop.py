"""Overhead of the training loop beyond the steps themselves: `python benchmarks/loop.py`.

Runs a step of about 100 ms of device time repeatedly, in a bare loop and in `timesformer_jax.training.train` with its logging,
clock, preemption check and batch transfer. The two alternate in one process. Prints one table.
"""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from timesformer_jax import training
from timesformer_jax.training.loop import compile_step

STEPS = 60
TURNS = 5


class NoCheckpoints:
    """Checkpoints that write nothing, since saving runs in separate threads."""

    latest_step = None

    def save(self, *arguments: Any) -> None:
        pass

    def wait(self) -> None:
        pass


def make_step(size: int, repeats: int) -> Any:
    """Return a step of `repeats` products of `size` x `size` matrices, with the state and metrics of training."""

    def step(state: training.TrainState, batch: dict[str, jax.Array]) -> tuple[training.TrainState, dict[str, jax.Array]]:
        def product(_: int, x: jax.Array) -> jax.Array:
            y = x @ state.params["kernel"]
            return y / jnp.abs(y).max()

        x = jax.lax.fori_loop(0, repeats, product, state.params["x"])
        loss = x.sum() + batch["video"].astype(jnp.float32).mean()
        zero = jnp.zeros((), jnp.int32)
        metrics = dict.fromkeys(("loss", "top1", "grad_norm", "update_norm"), loss)
        new = state.replace(step=state.step + 1, params={**state.params, "x": x})
        return new, {**metrics, "skipped": zero, "skipped_in_a_row": zero}

    return jax.jit(step)


def fresh_state(size: int) -> training.TrainState:
    zero = jnp.zeros((), jnp.int32)
    kernel = jax.random.normal(jax.random.key(0), (size, size)) / size**0.5
    params = {
        "kernel": kernel,
        "x": kernel,
        **{f"p{i}": jnp.zeros(8) for i in range(200)},
    }  # about the number of a model's arrays
    return training.TrainState(zero, params, {}, None, zero, zero)


def main() -> None:
    size = 512
    mesh = training.make_mesh(jax.devices()[:1])
    batch = {"video": np.zeros((8, 8, 64, 64, 3), np.uint8), "label": np.zeros(8, np.int32)}
    on_device = training.to_devices(batch, mesh)
    repeats = 20
    for _ in range(3):  # adjusts `repeats` to about 100 ms
        compiled = compile_step(make_step(size, repeats), fresh_state(size), on_device)
        state, _ = compiled(fresh_state(size), on_device)
        jax.block_until_ready(state)
        began = time.perf_counter()
        for _ in range(5):
            state, metrics = compiled(state, on_device)
        jax.block_until_ready(metrics)
        repeats = max(round(repeats * 0.1 / ((time.perf_counter() - began) / 5)), 1)
    step = make_step(size, repeats)
    compiled = compile_step(step, fresh_state(size), on_device)

    def bare() -> float:
        state = fresh_state(size)
        began = time.perf_counter()
        for _ in range(STEPS):
            state, metrics = compiled(state, on_device)
            jax.block_until_ready(metrics)
        return (time.perf_counter() - began) / STEPS

    def loop() -> float:
        checkpoints: Any = NoCheckpoints()
        times: list[float] = []

        def batches() -> Any:
            while True:
                times.append(time.perf_counter())
                yield batch

        plan = training.Plan(STEPS + 1, batch_size=8, log_every=10, evaluate_every=10**9, checkpoint_every=10**9)
        training.train(
            state=fresh_state(size),
            train_step=step,
            batches=batches(),
            mesh=mesh,
            plan=plan,
            learning_rate=lambda step: 0.1,
            flops_per_clip=1e9,
            write_scalars=lambda step, scalars: None,
            checkpoints=checkpoints,
            pipeline_state=lambda step: {},
            evaluate=lambda state, check: ({}, 0.0),
        )
        return (time.perf_counter() - times[1]) / STEPS  # since the second batch: the first waits for the compiler

    figures = [(bare(), loop()) for _ in range(TURNS)]
    ratios = sorted(b / a for a, b in figures)
    print("| bare step, ms | step in the loop, ms | ratio, median of 5 turns | smallest, largest |")
    print("|---|---|---|---|")
    milliseconds = [1000 * float(np.median(column)) for column in zip(*figures, strict=True)]
    print(f"| {milliseconds[0]:.1f} | {milliseconds[1]:.1f} | {ratios[TURNS // 2]:.3f} | {ratios[0]:.3f}, {ratios[-1]:.3f} |")


if __name__ == "__main__":
    main()
