"""Reading of compiled programs: loops, cycles, memory traffic, largest arrays, collectives."""

import jax
import jax.numpy as jnp
import pytest

from tests.planning.programs import BRANCHES, TPU
from timesformer_jax.planning.collectives import Collective, find_collectives, first_group
from timesformer_jax.planning.flops import count_flops
from timesformer_jax.planning.hlo import executed, parse_program
from timesformer_jax.planning.memory import describe_source, largest_buffers
from timesformer_jax.planning.step_time import KERNEL_SLOWDOWN, estimated_cycles, kernel_flops, step_time
from timesformer_jax.planning.targets import CHIPS
from timesformer_jax.planning.traffic import memory_traffic

MESH = {"data": 2, "fsdp": 4, "tensor": 1, "context": 1}
PROGRAM = parse_program(TPU)


def test_loops_count_by_their_iterations():
    times = {each.instruction.name: each.times for each in executed(PROGRAM)}
    assert (times["loop"], times["saves"], times["ended"]) == (1, 11, 1)
    assert "dus" not in times  # within a fusion
    assert estimated_cycles(PROGRAM) == 11 * 50 + 1000


def test_loops_of_other_compilers_note_their_iterations():
    noted = TPU.replace("body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"3"}}')
    assert estimated_cycles(parse_program(noted)) == 3 * 50 + 1000
    unknown = TPU.replace("direction=LT", "direction=NE")
    assert estimated_cycles(parse_program(unknown)) == 50 + 1000


def test_only_branch_of_a_condition_counts():
    program = parse_program(BRANCHES)
    assert estimated_cycles(program) == 20 + 300 + 700  # the fusion's own estimate, without that of its contents
    assert kernel_flops(program) == (1e9, 0)
    (sent,) = find_collectives(program, {"data": 1, "fsdp": 4, "tensor": 1, "context": 1})
    assert (sent.kind, sent.axes, sent.count, sent.num_bytes) == ("collective-permute", "fsdp", 1, 4 * 128 * 4)


def test_pallas_kernels_count_by_their_cost_estimate():
    assert kernel_flops(PROGRAM) == (0, 0)
    unknown = TPU.replace('custom_call_target="AllocateBuffer"', 'custom_call_target="tpu_custom_call"')
    assert kernel_flops(parse_program(unknown)) == (0, 1)
    counted = unknown.replace('"tpu_custom_call"', '"tpu_custom_call", backend_config={"cost_estimate":{"flops":"1000000000"}}')
    assert kernel_flops(parse_program(counted)) == (1e9, 0)
    chip = CHIPS["v5e"]
    time = step_time(chip, flops=0.0, memory_bytes=0.0, link_bytes=0.0, cycles=1000, kernels=(1e9, 0))
    assert time.cycles == pytest.approx(1000 + KERNEL_SLOWDOWN * 1e9 / (chip.peak * 1e12) * chip.clock * 1e9, abs=1)


def test_arrays_have_the_padding_of_their_layout():
    gradient = PROGRAM.computations["main"].instructions["g"].results[0]
    assert (str(gradient), gradient.num_bytes, gradient.on_chip) == ("f32[4,96]", 4 * 128 * 4, False)
    gathered = PROGRAM.computations["body"].instructions["gathered"].results[0]
    assert (gathered.num_bytes, gathered.on_chip) == (8 * 512 * 2, True)


def test_memory_traffic_counts_slices_and_leaves_out_the_chip():
    gather = 8 * 128 * 2  # its result stays on the chip
    save = 2 * 8 * 128 * 2 + 4  # reads and writes a row of eleven, and reads its number
    prefetch = 8 * 128 * 4
    padded = 4 * 128 * 4
    assert memory_traffic(PROGRAM) == 11 * (gather + save) + prefetch + 2 * 2 * padded + 2 * 128 * 4


def test_collectives_have_kind_axes_count_and_bytes():
    gather, reduced, scattered = 8 * 512 * 2, 4 * 128 * 4, 8 * 128 * 4
    assert find_collectives(PROGRAM, MESH) == [
        Collective("all-gather", "fsdp", 11, 11 * gather, 11 * gather * 3 // 4),
        Collective("all-reduce", "fsdp", 1, reduced, 2 * reduced * 3 // 4),
        Collective("reduce-scatter", "data", 1, scattered, scattered // 2),
    ]


def test_collectives_on_one_channel_count_unless_they_are_steps_of_one():
    """A combined reduce-scatter may have the channel of another one; `%begun` and `%ended` are one all-reduce."""
    twice = "%scattered.1 = f32[2,128]{1,0:T(2,128)} fusion(%arrived), kind=kCustom, calls=%all-reduce-scatter.1"
    found = find_collectives(parse_program(TPU.replace("  %scattered = ", f"  {twice}\n  %scattered = ")), MESH)
    assert {each.kind: each.count for each in found} == {"all-gather": 11, "all-reduce": 1, "reduce-scatter": 2}


def test_started_collectives_count_without_their_operands():
    start = "%result = (f32[4,96]{1,0:T(4,128)}, f32[16,96]{1,0:T(8,128)}) all-gather-start(%x), channel_id=5, dimensions={0}"
    text = BRANCHES.replace("  %before = ", f"  {start}\n  %before = ")
    sizes = {each.kind: each.num_bytes for each in find_collectives(parse_program(text), MESH)}
    assert sizes["all-gather"] == 16 * 128 * 4


@pytest.mark.parametrize(
    ("groups", "first"),
    [
        ("replica_groups={{0,2},{1,3}}, x", [0, 2]),
        ("replica_groups=[4,2]<=[8], x", [0, 1]),
        ("replica_groups=[4,2]<=[2,4]T(1,0), x", [0, 4]),
        ("replica_groups=mesh['a'=2,'b'=4] {'b'}, x", [0, 1, 2, 3]),
        ("replica_groups=mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'a'}, x", [0, 1]),
        ("replica_groups=mesh['a'=8] {'a':(2)2}, x", [0, 2]),
        ("replica_groups=mesh['a'=8] {'a':(1)2}, x", [0, 4]),
        ("source_target_pairs={{0,3},{3,0}}, x", [0, 3]),
        ("to_apply=%add", [0, 1, 2, 3, 4, 5, 6, 7]),
    ],
)
def test_first_group_reads_every_notation(groups: str, first: list[int]):
    assert first_group(groups, 8) == first


def test_largest_buffers_are_named_by_their_code():
    largest = largest_buffers(PROGRAM)[0]
    assert (largest.array, largest.num_bytes) == ("bf16[11,8,128]", 11 * 8 * 128 * 2)
    assert largest.source == "blocks/mlp/fc1/add, forward"


@pytest.mark.parametrize(
    ("path", "described"),
    [
        ("jit(f)/jvp(TimeSformer)/TimeSformer._run/blocks_0/attn.mix/cond/branch_0_fun/sub", "blocks_0/attn.mix/sub, forward"),
        (
            "jit(f)/transpose(jvp(TimeSformer))/checkpoint/rematted_computation/blocks.run/blocks/attn.mix/qkv/BL,Dd->Bd/dot_general",
            "blocks/attn.mix/qkv/dot_general, recomputed",
        ),
        ("jit(train_step)/transpose(jvp(TimeSformer))/head/dot_general", "head/dot_general, backward"),
        ("jit(train_step)/mul", "mul"),
        ("", ""),
        (
            "jit(train_step)/eval_jaxpr/jvp(TimeSformer)/blocks/attn.mix/qkv/dot_general",
            "blocks/attn.mix/qkv/dot_general, forward",
        ),
    ],
)
def test_describe_source_names_module_and_pass(path: str, described: str):
    assert describe_source(path) == described


def test_flops_count_loops_recomputation_and_the_dearest_branch():
    weights = jnp.ones((3, 8, 8))

    def layer(x: jax.Array, w: jax.Array) -> jax.Array:
        return jax.lax.cond(x.sum() > 0, lambda: jnp.tanh(x @ w), lambda: x)

    def loss(weights: jax.Array, x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda x, w: (jax.checkpoint(layer)(x, w), None), x, weights)[0].sum()

    x, product = jnp.ones((4, 8)), 2 * 4 * 8 * 8
    assert count_flops(jax.make_jaxpr(loss)(weights, x)) == 3 * product
    assert count_flops(jax.make_jaxpr(jax.grad(loss))(weights, x)) == 3 * (1 + 1 + 2) * product


def test_flops_count_convolutions():
    image, kernel = jnp.ones((2, 8, 8, 3)), jnp.ones((4, 4, 3, 16))
    patches = jax.make_jaxpr(
        lambda x, k: jax.lax.conv_general_dilated(x, k, (4, 4), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    )
    assert count_flops(patches(image, kernel)) == 2 * (2 * 2 * 2 * 16) * (4 * 4 * 3)
