"""Fixtures shared by the tests of jobs."""

from pathlib import Path
from types import ModuleType

import pytest

from timesformer_jax.jobs import explain, features, predict

COMPUTING: tuple[ModuleType, ...] = (predict, explain, features)


@pytest.fixture(autouse=True)
def silence_device_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence the line that names the devices, so that only the jobs' own output is compared (tests/test_devices.py has it)."""
    for module in COMPUTING:
        monkeypatch.setattr(module, "print_devices", lambda: None)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cache folder in which jobs keep intermediate findings."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder
