"""benchmarks/tpu.py: what it reads from a compiled program, and what it finds fault with."""

from typing import Any

import pytest

from benchmarks import tpu
from benchmarks.budgets import hlo
from timesformer_jax.planning import step_time

PROGRAM = """HloModule step, entry_computation_layout={()->f32[]}

%all-reduce-scatter.1 (x: bf16[768,3072]) -> bf16[192,3072] {
  %x = bf16[768,3072]{1,0} parameter(0)
  %sum = bf16[768,3072]{1,0:T(8,128)(2,1)} all-reduce(%x), channel_id=1, to_apply=%add
}

%condition (state: (s32[], f32[8,128])) -> pred[] {
  %end = s32[] constant(11)
  %less = pred[] compare(%step, %end), direction=LT
}

%body (state: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %fusion.1 = f32[8,128]{1,0} fusion(%y), kind=kLoop, backend_config={"estimated_cycles":"10"}
}

ENTRY %main (p: f32[]) -> f32[] {
  %fusion.2 = f32[8,128]{1,0} fusion(%p), kind=kLoop, backend_config={"estimated_cycles":"5"}
  %loop = (s32[], f32[8,128]{1,0}) while(%t), condition=%condition, body=%body
  %kernel = bf16[8,128]{1,0} custom-call(%p), custom_call_target="tpu_custom_call", backend_config={"flops":"13107200"}
  %gather = (bf16[192,12,64]{2,1,0}, bf16[768,12,64]{2,1,0:T(8,128)(2,1)}) all-gather-start(%w), channel_id=2, dimensions={0}
  %move = bf16[8,4,196,768]{3,2,1,0:T(8,128)(2,1)} all-to-all(%z), channel_id=3
  %again = bf16[8,4,196,768]{3,2,1,0:T(8,128)(2,1)} all-to-all(%z), channel_id=3
}
"""


def test_cycles_count_loops_and_kernels():
    assert hlo.cycles(PROGRAM) == 5 + 11 * 10 + int(13107200 / hlo.KERNEL_FLOPS)


def test_collectives_count_once_and_with_padding():
    found = hlo.collectives(PROGRAM)
    assert [(each.kind, each.dtypes, each.size) for each in found] == [
        ("reduce-scatter", ("bf16",), 768 * 3072 * 2),
        ("all-gather", ("bf16",), 768 * 16 * 128 * 2),  # 12 rows of 64 are padded to 16 of 128
        ("all-to-all", ("bf16",), 8 * 4 * 200 * 768 * 2),
    ]


def collective(kind: str, dtype: str = "bf16") -> dict[str, Any]:
    return {"kind": kind, "dtypes": [dtype], "size": 2**22}


@pytest.mark.parametrize(
    ("name", "found", "log", "words"),
    [
        ("training, fsdp 4", [collective("all-reduce")], "", "1 large gradients are summed on every chip"),
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


def test_kernels_count_as_in_plans():
    assert hlo.KERNEL_SLOWDOWN == step_time.KERNEL_SLOWDOWN
