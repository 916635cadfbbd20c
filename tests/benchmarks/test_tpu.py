"""benchmarks/tpu.py: what it reads from a compiled program, and what it finds fault with."""

from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import tpu
from benchmarks.budgets import programs
from tests.planning.programs import BRANCHES, TPU
from timesformer_jax.planning.step_time import KERNEL_SLOWDOWN


def figures(text: str) -> dict[str, Any]:
    memory = SimpleNamespace(temp_size_in_bytes=3 * 2**19)
    return programs.figures(SimpleNamespace(as_text=lambda: text, memory_analysis=lambda: memory))


def test_figures_of_a_program():
    """Cycles and collectives count once per iteration, kernels by their FLOPs, and arrays with their padding."""
    kernel = 'custom_call_target="tpu_custom_call", backend_config={"cost_estimate":{"flops":"200000000000"}}'
    text = TPU.replace('custom_call_target="AllocateBuffer"', kernel).replace('cycles":"1000"', 'cycles":"5000000"')
    found = figures(text)
    assert found.pop("all") == [
        {"kind": "all-gather", "dtypes": ["bf16"], "size": 8 * 512 * 2},
        {"kind": "all-reduce", "dtypes": ["f32"], "size": 4 * 128 * 4},  # 4 x 96, padded
        {"kind": "reduce-scatter", "dtypes": ["f32"], "size": 8 * 128 * 4},
    ]
    kernels = KERNEL_SLOWDOWN * 2e11 / (4 * 2 * 128 * 128)  # a v5e has 4 matrix units
    assert found.pop("mcycles") == pytest.approx((11 * 50 + 5e6 + kernels) / 1e6, rel=3e-3)
    mib = {"all-gather_mib": 11 * 8 * 512 * 2, "all-reduce_mib": 4 * 128 * 4, "reduce-scatter_mib": 8 * 128 * 4}
    assert found == {"temp_mib": 1.5, **{name: round(size / 2**20, 2) for name, size in mib.items()}}


def test_figures_include_the_only_branch_of_a_condition():
    text = BRANCHES.replace('cycles":"300"', 'cycles":"3000000"').replace('flops":"1000000000"', 'flops":"200000000000"')
    found = figures(text)
    assert [each["kind"] for each in found["all"]] == ["collective-permute"]
    assert found["mcycles"] == pytest.approx((3e6 + KERNEL_SLOWDOWN * 2e11 / (4 * 2 * 128 * 128)) / 1e6, rel=3e-3)


def collective(kind: str, dtype: str = "bf16") -> dict[str, Any]:
    return {"kind": kind, "dtypes": [dtype], "size": 2**22}


@pytest.mark.parametrize(
    ("name", "found", "log", "words"),
    [
        ("training, fsdp 4", [collective("all-reduce")], "", "4.0 MiB of gradients are summed on every chip"),
        ("training, fsdp 4", [collective("all-gather", "f32")] * 2, "", "gathered in float32"),
        ("training, context 4", [collective("all-to-all")] * 7, "", "expected 4 all-to-alls in bf16 per block"),
        ("training, context 4", [collective("all-to-all", "f32")] * 8, "", "expected 4 all-to-alls in bf16 per block"),
        ("forward", [], "[SPMD] Involuntary full rematerialization. ...", "involuntary full rematerialization"),
    ],
)
def test_faults(name: str, found: list[dict[str, Any]], log: str, words: str):
    (fault,) = tpu.check(name, found, log)
    assert words in fault


def test_growth():
    budget = {"mcycles": 100.0, "all-gather_mib": 10.0}
    assert tpu.grown({"mcycles": 102.9, "all-gather_mib": 10.9}, budget) == []
    (fault,) = tpu.grown({"mcycles": 103.1, "all-gather_mib": 9.0}, budget)
    assert fault == "mcycles is 103.1, more than 3% above its budget of 100.0."
    assert len(tpu.grown({"temp_mib": 5.0}, budget)) == 1  # a figure without a budget
