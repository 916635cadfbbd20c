"""Log lines, word by word."""

import pytest

from timesformer_jax.progress import duration, number
from timesformer_jax.training.log_lines import accuracy_text, step_line


def test_step_line_has_every_known_figure():
    figures = {"loss": 1.8712, "top1": 0.4123, "learning_rate": 5e-3, "clips_per_second": 188.3, "waiting_for_data": 0.021}
    line = "step 50/750 (epoch 1.3) loss 1.87 top1 41.2 % lr 5.0e-3 188 clips/s 2 % waiting for data ETA 3 min"
    assert step_line(50, 750, figures, steps_per_epoch=37.5, seconds_left=190.0) == line
    assert (
        step_line(1, 750, {"loss": 0.00123, "top1": 1.0, "learning_rate": 0.0}) == "step 1/750 loss 0.00123 top1 100.0 % lr 0"
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (3540, "59 min"),
        (3599, "1 h"),
        (7500, "2 h 5 min"),
        (86399, "1 d"),
        (100 * 3600, "4 d 4 h"),
    ],
)
def test_durations_show_the_two_largest_units(seconds: float, text: str):
    assert duration(seconds) == text


def test_numbers_and_percentages_are_formatted():
    assert [number(value) for value in (0.0512, 1.874, 188.3, 999.6, 12345.6)] == ["0.0512", "1.87", "188", "1,000", "12,346"]
    assert accuracy_text({"loss": 1.52, "top1": 0.49, "map": 0.815}) == "loss 1.52 top1 49.0 % map 81.5 %"
