"""Contents of pickled files: inert stand-ins, entries, and NumPy arrays."""

import collections
import contextlib
import datetime
import importlib
import io
import pickle
import sys
import types
from _compat_pickle import NAME_MAPPING
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import timesformer_jax as tsf
from tests.pretrained.files import golden_tensors
from timesformer_jax.pretrained.torch_pickles import Unread, choose_entry, plain_values, tensors_by_entry


class HistoryBuffer:
    """mmengine's, whose state refers to its own methods by `getattr`."""

    def __init__(self) -> None:
        self.values = np.arange(3.0)

    def mean(self) -> float:
        return float(self.values.mean())

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "statistics_methods": {"mean": HistoryBuffer.mean}}


class TorchVersion(str):
    """PyTorch's version."""


class Evil:
    def __reduce__(self) -> Any:
        return __import__("os").system, ("echo owned > owned.txt",)


@pytest.fixture(autouse=True)
def modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the classes above be pickled under the names of their originals."""
    for module, cls in (("mmengine.logging.history_buffer", HistoryBuffer), ("torch.torch_version", TorchVersion)):
        for end in range(1, module.count(".") + 2):
            name = ".".join(module.split(".")[:end])
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
            if name not in sys.modules:
                monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        monkeypatch.setattr(sys.modules[module], cls.__name__, cls, raising=False)
        monkeypatch.setattr(cls, "__module__", module)
    for function in (HistoryBuffer.mean, HistoryBuffer.__getstate__):
        monkeypatch.setattr(function, "__module__", HistoryBuffer.__module__)


NESTED = collections.defaultdict(list, a=[1], b=[2])
EXTRAS = {
    "message_hub": {"log_scalars": collections.OrderedDict(loss=HistoryBuffer())},
    "version": TorchVersion("2.9"),
    "lists": NESTED,
    "counts": collections.defaultdict(int, a=3),
    "recent": collections.deque([1, 2], maxlen=5),
    "began": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    "took": datetime.timedelta(seconds=3),
    "day": datetime.date(2026, 1, 1),
}


class AllowedOnly(pickle.Unpickler):
    """Finds what `plain_values` allows, as PyTorch's unpickler does."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = {value[1]: value[0] for value in plain_values() if isinstance(value, tuple)}
        module, name = NAME_MAPPING.get((module, name), (module.replace("__builtin__", "builtins"), name))
        if f"{module}.{name}" in allowed:
            return allowed[f"{module}.{name}"]
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if module.startswith(("numpy", "_codecs")):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name}")


def unpickled(value: Any) -> Any:
    return AllowedOnly(io.BytesIO(pickle.dumps(value, 2))).load()


def test_logs_and_dates_become_inert_objects():
    loaded = unpickled(EXTRAS)
    log = loaded["message_hub"]["log_scalars"]["loss"]
    for value in (log, loaded["version"], loaded["began"], loaded["took"], loaded["day"]):
        assert type(value) is Unread
        assert not vars(value)
    assert loaded["lists"] == {"a": [1], "b": [2]}
    assert loaded["counts"] == {"a": 3}
    assert loaded["recent"] == [1, 2]


def test_getattr_in_a_pickle_looks_nothing_up():
    found = unpickled(HistoryBuffer.mean)
    assert type(found) is Unread
    assert not callable(found)


@pytest.mark.parametrize("value", [Evil(), print, eval, __import__], ids=["system", "print", "eval", "import"])
def test_code_is_not_found(value: Any):
    with pytest.raises(pickle.UnpicklingError):
        unpickled(value)


def arrays(count: int = 6) -> dict[str, np.ndarray]:
    return {f"x{i}": np.zeros(2, np.float32) for i in range(count)}


@pytest.mark.parametrize(
    ("content", "chosen"),
    [
        ({"state_dict": arrays(1), "net": arrays()}, "net"),
        ({"model": arrays(3), "state_dict": arrays()}, "state_dict"),
        ({"state_dict": {**arrays(1), "model": arrays()}}, "state_dict.model"),
        ({"state_dict": arrays(1)}, "state_dict"),
        ({"state_dict": arrays(1), "loss": arrays(2)}, "state_dict"),
        ({"net": arrays(), "model": arrays()}, "model"),
        ({"net": arrays(), **arrays(2)}, "net"),
        (arrays(), ""),
    ],
)
def test_entry_with_few_tensors_is_not_the_model(content: dict[str, Any], chosen: str):
    assert choose_entry(Path("a.pth"), content, tensors_by_entry(content), None) == chosen


class FakeTensor:
    def detach(self) -> "FakeTensor":
        return self


def test_arrays_next_to_tensors_are_not_entries():
    assert tensors_by_entry({"net": {"x": FakeTensor()}, "log": np.zeros(3)}).keys() == {"net"}
    assert tensors_by_entry({"net": {"x": np.zeros(3)}}).keys() == {"net"}


@pytest.mark.parametrize("content", [{"model": golden_tensors("official_divided_space_time")}, {"epoch": 3}, [1]])
def test_plain_pickles_are_refused_for_a_true_reason(content: Any, tmp_path: Path):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(tsf.InputError, match="pickle without the arrays by name") as caught:
        tsf.load(tmp_path / "a.pkl", num_heads=3)
    assert "could run code" not in str(caught.value)


def test_plain_pickles_of_named_arrays_are_read(tmp_path: Path):
    tensors = golden_tensors("official_divided_space_time")
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(tensors))
    scale = tsf.load(tmp_path / "a.pkl", num_heads=3).params["norm"]["scale"]
    np.testing.assert_array_equal(scale, tensors["norm.weight"])


def test_code_in_a_plain_pickle_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({**arrays(), "surprise": Evil()}))
    with pytest.raises(tsf.InputError, match="is not loaded, because that could run code"):
        tsf.load(tmp_path / "a.pkl")
    assert not (tmp_path / "owned.txt").exists()
