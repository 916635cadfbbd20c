"""What all tests of jobs share."""

from pathlib import Path
from types import ModuleType

import pytest

from timesformer_jax.jobs import explain, features, predict

COMPUTING: tuple[ModuleType, ...] = (predict, explain, features)


@pytest.fixture(autouse=True)
def without_the_line_on_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """The jobs' own words are what is compared here; tests/test_devices.py has the line."""
    for module in COMPUTING:
        monkeypatch.setattr(module, "print_devices", lambda: None)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where jobs keep what they have found so far."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder
