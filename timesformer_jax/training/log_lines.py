"""Human-readable log lines: one per window of steps, one per validation."""

import re
from collections.abc import Mapping

from timesformer_jax.progress import duration, number


def step_line(
    step: int,
    total_steps: int,
    figures: Mapping[str, float],
    *,
    steps_per_epoch: float | None = None,
    seconds_left: float | None = None,
) -> str:
    """Format a step: `step 50/750 (epoch 1.3) loss 1.87 top1 41.2 % lr 5.0e-3 188 clips/s 2 % waiting for data ETA 3 min`.

    Unknown values are omitted.

    Args:
        step: Current step.
        total_steps: Number of steps of the run.
        figures: Result of `Window.take`, with `learning_rate`.
        steps_per_epoch: Steps per epoch, to show the epoch.
        seconds_left: Estimated time to the end.
    """
    words = [f"step {step}/{total_steps}"]
    if steps_per_epoch is not None:
        words.append(f"(epoch {epoch_text(step / steps_per_epoch)})")
    words += [accuracy_text({name: figures[name] for name in ("loss", "top1") if name in figures})]
    if "learning_rate" in figures:
        words.append(f"lr {_short(figures['learning_rate'])}")
    return " ".join([*words, *rate_words(figures, seconds_left)])


def rate_words(figures: Mapping[str, float], seconds_left: float | None) -> list[str]:
    """Format `188 clips/s`, `2 % waiting for data` and `ETA 3 min`, omitting unknown values."""
    words = []
    if "clips_per_second" in figures:
        words.append(f"{number(figures['clips_per_second'])} clips/s")
    if "waiting_for_data" in figures:
        words.append(f"{100 * figures['waiting_for_data']:.0f} % waiting for data")
    if seconds_left is not None:
        words.append(f"ETA {duration(seconds_left)}")
    return words


def accuracy_text(figures: Mapping[str, float]) -> str:
    """Format `loss 1.87 top1 41.2 %`; every figure except `loss` is a fraction."""
    return " ".join(
        f"{name} {number(value)}" if name == "loss" else f"{name} {100 * value:.1f} %" for name, value in figures.items()
    )


def epoch_text(epoch: float) -> str:
    """Format an epoch with one decimal (`1.3`), or with two significant digits if it is below 1 (`0.013`)."""
    return f"{epoch:.1f}" if epoch >= 1 else f"{epoch:.2g}"


def _short(value: float) -> str:
    """Format a number as `5.0e-3`."""
    return re.sub(r"e([+-])0*(\d+)", r"e\1\2", f"{value:.1e}").replace("+", "") if value else "0"
