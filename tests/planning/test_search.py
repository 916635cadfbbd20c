"""Search over ways to compute a step, with a made-up compiler whose costs are known."""

import re

import pytest

from tests.planning.test_plan import request_of
from timesformer_jax import InputError
from timesformer_jax.planning import CHIPS, Plan, StepRequest
from timesformer_jax.planning.memory import GIB, Memory
from timesformer_jax.planning.report import search_text
from timesformer_jax.planning.search import Search, search_plans
from timesformer_jax.planning.step_time import step_time

MCYCLES = {"none": 2.0, "dots": 2.5, "full": 3.0}
"""Cycles of a block for a clip, in millions."""
SAVED = {"none": 0.5, "dots": 0.25, "full": 0.05}
"""GiB that a block saves for a clip."""


class Compiler:
    """Plans with memory and cycles linear in depth and batch, like real ones; keeps what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[StepRequest] = []

    def __call__(self, request: StepRequest, target: str, *, explain: bool) -> Plan:
        self.asked.append(request)
        model, clips = request.model, request.batch_size / request.mesh["data"] / request.mesh["fsdp"]
        micro_batch, chip = clips / request.accumulation, CHIPS["v5e"]
        gib = 1.0 + model["depth"] * SAVED[model["remat"]] * micro_batch
        cycles = (10 + model["depth"] * MCYCLES[model["remat"]] * clips) * 1e6
        fits = gib <= chip.memory_gib
        return Plan(
            target=target,
            device="TPU v5 lite",
            mesh=request.mesh,
            request=request,
            memory=Memory(0, 0, 0, 0, 0, round(gib * GIB), 0),
            available=chip.memory_gib,
            time=step_time(chip, flops=0, memory_bytes=0, link_bytes=0, cycles=round(cycles)) if fits else None,
            model_flops=1.0,
            peak=chip.peak,
            buffers=(),
            buffers_of="v5e",
            collectives=(),
            compile_seconds=0.0,
        )


def search_for(batch_size: int, target: str, **changes: object) -> tuple[Search, Compiler]:
    compiler = Compiler()
    request = request_of(**{"train.batch_size": batch_size, "model.depth": 12, "plan.search": True, **changes})
    return search_plans(request, target, compiler), compiler


def test_search_prefers_what_is_fastest_and_fits():
    """Unrolled without remat is fastest, but fits only two clips at a time: 1 + 12 x 0.5 x 2 = 13 GiB."""
    found, compiler = search_for(64, "v5e-8")
    assert found.best.way == ("none", False)
    assert (found.best.micro_batch, found.best.accumulation, found.best.mesh["data"]) == (2, 4, 8)
    assert found.plan.memory.total == 13 * GIB
    assert abs(found.memory_error) < 0.01
    assert found.num_compiled == len(compiler.asked) <= 10
    depths = [request.model["depth"] for request in compiler.asked[:-1] if not request.model["scan_layers"]]
    assert set(depths) == {2, 3}  # only the best is compiled whole
    assert compiler.asked[-1].batch_size == 64


def test_search_splits_frames_if_there_are_more_chips_than_clips():
    found, compiler = search_for(16, "v5e-64")
    assert found.best.mesh == {"data": 16, "fsdp": 1, "tensor": 1, "context": 4}
    assert {request.batch_size for request in compiler.asked} == {16}


def test_search_text_has_the_flags_to_paste():
    found, _ = search_for(64, "v5e-8")
    assert Search.from_json(found.to_json()).to_json() == found.to_json()
    text = search_text(found)
    assert "--config.model.remat=none --config.model.scan_layers=False --config.train.accumulation=4 --config.mesh.data=8" in (
        text
    )
    assert re.search(r"with \d+ compiled programs.*memory was off by [+-]0 %", text)
    assert "estimated" in text


def test_search_refuses_what_it_cannot_compare(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(InputError, match=r"only the compiler for TPUs estimates, not for h100"):
        search_for(64, "h100")
    with pytest.raises(InputError, match=r"batch_size=6 can't be split evenly over the 64 chips of v5e-64: use a multiple"):
        search_for(6, "v5e-64")
    for remat in SAVED:
        monkeypatch.setitem(SAVED, remat, 100.0)
    with pytest.raises(InputError, match=r"no way to compute train\.batch_size=64 was found that fits v5e-8"):
        search_for(64, "v5e-8")
