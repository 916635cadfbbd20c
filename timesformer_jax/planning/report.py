"""Plans as text."""

from collections.abc import Mapping, Sequence
from typing import Any

from timesformer_jax.planning.memory import GIB
from timesformer_jax.planning.plan import Plan
from timesformer_jax.planning.search import Search
from timesformer_jax.planning.step_time import StepTime
from timesformer_jax.planning.targets import CHIPS, find_target

ROWS = {
    "parameters": "parameters",
    "optimizer": "optimizer state",
    "average": "moving average",
    "gradients": "gradients",
    "activations": "activations and workspace",
    "batch": "batch",
    "other": "padding and program",
}
"""Maps a field of `Memory` to its row."""


REMEDY = """\
To make it fit, try --config.train.accumulation=2, 4, ... (micro-batches, the same gradient) or --config.model.remat=full, and
--config.mesh.data=1 --config.mesh.fsdp=-1 if the parameters and the optimizer state are large. --config.plan.search=True tries
them on TPUs."""


def plan_text(plan: Plan, title: str = "") -> str:
    """Describe a plan: verdict, memory of a chip, estimated time, communication."""
    blocks = [_head(plan, title), _memory(plan), _buffers(plan)]
    blocks += [REMEDY] if plan.fits is False else [_time(plan), _collectives(plan)]
    return "\n\n".join(block for block in blocks if block)


def _head(plan: Plan, title: str) -> str:
    request, groups = plan.request, plan.mesh["data"] * plan.mesh["fsdp"]
    model = request.model
    parts = [f"{groups} x" if groups > 1 else "", f"{request.accumulation} micro-batches x" if request.accumulation > 1 else ""]
    split = " ".join([*filter(None, parts), str(plan.micro_batch)])
    return "\n".join(
        [
            f"{title or 'Training step'} on {plan.target}: {verdict(plan)}",
            f"{plan.num_chips} x {plan.device}, mesh {mesh_text(plan.mesh)}; {request.batch_size} clips a step = {split}; "
            f"{model['dtype']}{_how(model)}. "
            f"Compiled in {plan.compile_seconds:.0f} s, not run.",
        ]
    )


def _how(model: Mapping[str, Any]) -> str:
    """How a model with blocks is computed; empty for others."""
    return f", remat {model['remat']}, scan {'on' if model['scan_layers'] else 'off'}" if "remat" in model else ""


def verdict(plan: Plan) -> str:
    """Answer in a few words: whether the step fits, and the estimated length of the training."""
    if plan.fits is None:
        return f"needs {plan.memory.total / GIB:.2f} GiB a chip."
    spare = plan.available - plan.memory.total / GIB if plan.available else 0.0
    if not plan.fits:
        return f"does not fit: {-spare:.2f} GiB too much on each chip."
    hours = f", {duration(plan.hours)} for the schedule (estimated)" if plan.hours else ""
    return f"fits, {spare:.2f} GiB to spare{hours}."


def duration(hours: float) -> str:
    """Hours as text, such as "3.1 hours" or "12 minutes"."""
    return f"{hours:.3g} hours" if hours >= 1 else f"{60 * hours:.0f} minutes"


def _memory(plan: Plan) -> str:
    available = f" of {plan.available:g}" if plan.available else ""
    rows = [(label, getattr(plan.memory, field) / GIB) for field, label in ROWS.items()]
    lines = [f"  {label:<32}{value:>8.2f}" for label, value in rows if value >= 0.005]
    return "\n".join(["Memory of a chip, GiB", *lines, f"  {'total':<32}{plan.memory.total / GIB:>8.2f}{available}"])


def _buffers(plan: Plan) -> str:
    if not plan.buffers:
        return ""
    elsewhere = f", in the same step compiled for {plan.buffers_of}" if plan.buffers_of != find_target(plan.target).chip else ""
    lines = [
        f"  {buffer.num_bytes / 2**20:>8.0f}  {buffer.array:<34} {buffer.source}"
        + (f" (+{buffer.places - 1} of this shape)" if buffer.places > 1 else "")
        for buffer in plan.buffers
    ]
    return "\n".join([f"Largest arrays, MiB{elsewhere}", *lines])


def _time(plan: Plan) -> str:
    if plan.time is None:
        return ""
    return "\n".join(["Step time, estimated, ms", *_bounds(plan, plan.time), *_estimate(plan, plan.time)])


def _bounds(plan: Plan, time: StepTime) -> list[str]:
    chip = CHIPS[find_target(plan.target).chip]
    caches = "" if chip.clock else ", caches aside"
    rows = [
        ("lower bound by arithmetic", time.arithmetic, f"{time.flops / 1e12:.3g} TFLOP at {chip.peak:g} TFLOP/s"),
        ("lower bound by memory", time.memory, f"{time.memory_bytes / 1e9:.3g} GB at {chip.hbm:g} GB/s{caches}"),
        ("lower bound by links", time.links, f"{time.link_bytes / 1e9:.3g} GB at {chip.link:g} GB/s"),
    ]
    return [f"  {label:<32}{1e3 * seconds:>8.1f}   {why}" for label, seconds, why in rows if seconds]


def _estimate(plan: Plan, time: StepTime) -> list[str]:
    if plan.seconds is None:
        fastest = plan.request.batch_size / time.bound
        return [
            f"  {'at least':<32}{1e3 * time.bound:>8.1f}   at most {fastest:,.0f} clips/s; this compiler estimates no cycles",
        ]
    cycles = f"{time.cycles / 1e6:.1f} Mcycles" + (", then the links" if time.links else "")
    cycles += f"; {time.uncounted} calls of Pallas kernels not counted" if time.uncounted else ""
    return [
        f"  {'estimate of the compiler':<32}{1e3 * plan.seconds:>8.1f}   {cycles}",
        f"  {plan.clips_per_second:,.0f} clips/s, MFU {100 * (plan.mfu or 0):.0f} %, {duration(plan.hours or 0)} for "
        f"{plan.request.num_steps:,} steps ({plan.request.num_epochs:g} epochs), all estimated",
    ]


def _collectives(plan: Plan) -> str:
    if not plan.collectives:
        return ""
    rows = [f"  {each.kind:<20}{each.axes:<18}{each.count:>6}{each.num_bytes / 2**20:>10.1f}" for each in plan.collectives]
    return "\n".join([f"{'Collectives of a step':<22}{'axis':<18}{'count':>6}{'MiB':>10}", *rows])


def search_text(search: Search, shown: int = 8) -> str:
    """Describe the result of a search: the best candidates as predicted, the plan of the best, and the flags that choose it."""
    rows = [
        f"  {each.way.remat:<7}{'on' if each.way.scan else 'off':<6}{each.accumulation:>6}{each.micro_batch:>8}{each.gib:>8.2f}"
        f"{search.plan.request.batch_size / each.seconds:>10,.0f}   {mesh_text(each.mesh)}"
        for each in search.candidates[:shown]
    ]
    head = f"  {'remat':<7}{'scan':<6}{'micro':>6}{'clips':>8}{'GiB':>8}{'clips/s':>10}   mesh"
    others = f"{len(search.candidates)} candidates are predicted to fit, {search.refused} not; the fastest, all estimated:"
    found = (
        f"Found in {search.seconds / 60:.0f} min with {search.num_compiled} compiled programs. The best was compiled whole; "
        f"the prediction of its memory was off by {100 * search.memory_error:+.0f} %:"
    )
    paste = f"To use it, add:\n  {search.best.lines()}"
    return "\n\n".join(["\n".join([others, head, *rows]), found, plan_text(search.plan), paste])


def mesh_text(mesh: Mapping[str, int]) -> str:
    """Axes of a mesh that are larger than 1, such as "data 4 x context 2"."""
    return " x ".join(f"{axis} {size}" for axis, size in mesh.items() if size > 1) or "one device"


def table(plans: Sequence[Plan], titles: Sequence[str]) -> str:
    """Markdown table of several plans: memory, clips, estimated time and the time that planning took."""
    lines = [
        "| step | target | GiB of a chip | clips a step | estimated clips/s | MFU | hours | planned in |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for plan, title in zip(plans, titles, strict=True):
        memory = f"{plan.memory.total / GIB:.1f} of {plan.available:g}"
        rate = (
            f"{plan.clips_per_second:,.0f} | {100 * (plan.mfu or 0):.0f} % | {plan.hours:.3g}" if plan.seconds else "- | - | -"
        )
        cells = (title, plan.target, memory, plan.request.batch_size, rate, f"{plan.compile_seconds:.0f} s")
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)
