"""What all tests of jobs share."""

from types import ModuleType

import pytest

from timesformer_jax.jobs import explain, features, predict

COMPUTING: tuple[ModuleType, ...] = (predict, explain, features)


@pytest.fixture(autouse=True)
def without_the_line_on_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """The jobs' own words are what is compared here; tests/test_devices.py has the line."""
    for module in COMPUTING:
        monkeypatch.setattr(module, "print_devices", lambda: None)
