"""Search for the fastest way to compute a training step on a target, with the same batch and the same result.

The way is the batch per chip, remat, scan, mesh and accumulation. Few programs are compiled, and the others follow from them:

- Unrolled blocks: programs of depth 2 and 3, whose difference is a block. (Depth 1 has only the last block, which computes just
  what the CLS needs, and its memory is that of the augmentation.) Compiling takes longer the deeper the model is.
- Scanned blocks: the whole model, since a scan compiles as fast at any depth.

Each is compiled for two batches; memory and cycles are linear in the batch. The best way is then compiled whole.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax

from timesformer_jax.errors import InputError
from timesformer_jax.modeling import parameter_shapes
from timesformer_jax.planning.memory import GIB
from timesformer_jax.planning.plan import Plan, plan_step
from timesformer_jax.planning.request import StepRequest
from timesformer_jax.planning.targets import CHIPS, Chip, Target, find_target
from timesformer_jax.training.sharding import CONTEXT_SCHEMES


class Way(NamedTuple):
    """A way to compute the blocks."""

    remat: str
    """Rematerialization, as in `timesformer_jax.TimeSformer`."""
    scan: bool
    """Whether the blocks are scanned."""


WAYS = (Way("none", False), Way("full", True), Way("dots", True))
"""Ways to try. Each costs two compiled programs, an unrolled one four."""


DEPTHS = (2, 3)
"""Depths of the unrolled programs whose difference is a block."""


class Cost(NamedTuple):
    """Cost of a step on a chip: a constant, and as much again for every clip of the micro-batch."""

    bytes_fixed: float
    bytes_per_clip: float
    cycles_fixed: float
    cycles_per_clip: float


class Candidate(NamedTuple):
    """A way with its batch and mesh, and what it is predicted to need."""

    way: Way
    mesh: dict[str, int]
    accumulation: int
    micro_batch: int
    """Clips that a group of chips computes at a time."""
    gib: float
    """Predicted memory of a chip in GiB."""
    seconds: float
    """Estimated seconds of a step."""

    def lines(self) -> str:
        """Flags of `main.py` that choose it."""
        mesh = " ".join(f"--config.mesh.{axis}={size}" for axis, size in self.mesh.items())
        return (
            f"--config.model.remat={self.way.remat} --config.model.scan_layers={self.way.scan} "
            f"--config.train.accumulation={self.accumulation} {mesh}"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Search:
    """Result of a search."""

    candidates: tuple[Candidate, ...]
    """Those that were predicted to fit, the fastest first."""
    refused: int
    """Number of candidates that were predicted not to fit."""
    best: Candidate
    """The fastest that was compiled whole and fits."""
    plan: Plan
    """Plan of the best."""
    num_compiled: int
    """Number of compiled programs."""
    seconds: float
    """Time of the search."""

    @property
    def memory_error(self) -> float:
        """Relative error of the predicted memory."""
        return self.best.gib * GIB / self.plan.memory.total - 1

    def to_json(self) -> str:
        """Text from which `from_json` makes an equal result."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return json.dumps({**values, "plan": self.plan.to_json()})

    @classmethod
    def from_json(cls, text: str) -> "Search":
        """Parse the result of `to_json`."""
        values = json.loads(text)
        values["candidates"] = tuple(map(_candidate, values["candidates"]))
        return cls(**{**values, "best": _candidate(values["best"]), "plan": Plan.from_json(values["plan"])})


def _order(candidate: Candidate) -> tuple[float, int, int]:
    """Fastest first; among those within half a percent, the simplest mesh and the fewest micro-batches."""
    return float(f"{candidate.seconds:.2e}"), candidate.mesh["fsdp"], candidate.accumulation


def _candidate(fields: Sequence[Any]) -> Candidate:
    return Candidate(Way(*fields[0]), *fields[1:])


def search_plans(request: StepRequest, target_name: str, compile_plan: Callable[..., Plan] = plan_step) -> Search:
    """Search for the fastest way to compute a step on TPUs.

    Args:
        request: The step; its batch stays the same.
        target_name: Name of the TPUs.
        compile_plan: `plan_step`, or a substitute in tests.

    Raises:
        InputError: If the target is no TPU, or no way is found that fits.
    """
    target = find_target(target_name)
    if target.platform != "tpu":
        raise InputError(f"plan.search compares the cycles that only the compiler for TPUs estimates, not for {target.name}.")
    began, count = time.perf_counter(), 0

    def measure(changed: StepRequest) -> Plan:
        nonlocal count
        count += 1
        return compile_plan(changed, target.name, explain=False)

    meshes = list(_meshes(request, target))
    candidates: list[Candidate] = []
    for way in WAYS:
        if cost := _fit(request, way, meshes[0], measure):
            candidates += _candidates(request, way, meshes, cost, CHIPS[target.chip], target)
    fitting = sorted((each for each in candidates if each.gib <= CHIPS[target.chip].memory_gib), key=_order)
    for best in fitting[:3]:
        plan = measure(_request(request, best.way, best.mesh, request.batch_size, best.accumulation))
        if plan.fits:
            return Search(
                candidates=tuple(fitting),
                refused=len(candidates) - len(fitting),
                best=best,
                plan=plan,
                num_compiled=count,
                seconds=time.perf_counter() - began,
            )
    raise InputError(
        f"plan.search: no way to compute train.batch_size={request.batch_size} was found that fits {target.name}: choose more "
        "chips, or model.dtype=bfloat16."
    )


def _request(
    request: StepRequest, way: Way, mesh: dict[str, int], batch: int, accumulation: int, depth: int = 0
) -> StepRequest:
    changes = {"remat": way.remat, "scan_layers": way.scan, **({"depth": depth} if depth else {})}
    return dataclasses.replace(
        request, model={**request.model, **changes}, mesh=mesh, batch_size=batch, accumulation=accumulation
    )


def _groups(mesh: dict[str, int]) -> int:
    return mesh["data"] * mesh["fsdp"]


def _meshes(request: StepRequest, target: Target) -> Iterator[dict[str, int]]:
    """Meshes to try: clips over all chips, or as many as there are, and then the frames; parameters on each chip or sharded."""
    chips, model = target.num_chips, request.module
    patches = model.grid[0] * model.grid[1]
    for context in (size for size in (1, 2, 4, 8) if chips % size == 0):
        divides = model.num_frames % context == 0 and patches % context == 0 and model.attention_type in CONTEXT_SCHEMES
        if request.batch_size % (chips // context) == 0 and (context == 1 or divides):
            groups = chips // context
            yield {"data": groups, "fsdp": 1, "tensor": 1, "context": context}
            if groups > 1:
                shards = max(size for size in (2, 4, 8) if groups % size == 0) if groups % 2 == 0 else groups
                yield {"data": groups // shards, "fsdp": shards, "tensor": 1, "context": context}
            return
    raise InputError(
        f"train.batch_size={request.batch_size} can't be split evenly over the {chips} chips of {target.name}: use a multiple "
        f"of {chips}."
    )


def _fit(request: StepRequest, way: Way, mesh: dict[str, int], measure: Callable[[StepRequest], Plan]) -> Cost | None:
    """Cost of a way by compiling it for two micro-batches; None if it doesn't fit with one clip."""
    clips = request.batch_size // _groups(mesh)
    measured: list[tuple[int, float, float]] = []
    size = clips
    while size and len(measured) < min(2, clips):
        if figures := _measured(request, way, mesh, size, measure):
            measured.append((size, *figures))
        size //= 2
    if not measured:
        return None
    if len(measured) == 1 and clips > 1 and measured[0][0] == 1:  # only one clip fits: more are not predicted
        return Cost(0.0, measured[0][1], 0.0, measured[0][2])
    (larger, *most), (smaller, *least) = measured[0], measured[-1]
    slopes = [(a - b) / (larger - smaller) if larger > smaller else 0.0 for a, b in zip(most, least, strict=True)]
    fixed = [a - larger * slope for a, slope in zip(most, slopes, strict=True)]
    return Cost(fixed[0], slopes[0], fixed[1], slopes[1])


def _measured(
    request: StepRequest, way: Way, mesh: dict[str, int], size: int, measure: Callable[[StepRequest], Plan]
) -> tuple[float, float] | None:
    """Bytes and cycles of a step with this micro-batch; None if it doesn't fit."""
    depth = request.module.depth
    depths = (depth,) if way.scan or depth < 4 else DEPTHS
    figures = []
    for blocks in depths:
        plan = measure(_request(request, way, mesh, size * _groups(mesh), 1, blocks))
        if plan.time is None:
            return None
        figures.append((float(plan.memory.total), float(plan.time.cycles)))
    if len(figures) == 1:
        return figures[0]
    whole = [one + (depth - DEPTHS[0]) * (two - one) for one, two in zip(*figures, strict=True)]
    return whole[0], whole[1]


def _candidates(
    request: StepRequest, way: Way, meshes: Sequence[dict[str, int]], cost: Cost, chip: Chip, target: Target
) -> Iterator[Candidate]:
    """Every batch and mesh of a way, with its predicted memory and time."""
    parameters = 4.0 * _num_parameters(request)
    copies = 2 + (request.ema_decay > 0) + (request.optimizer["name"] in ("adamw", "lamb"))
    for mesh in meshes:
        clips, shards = request.batch_size // _groups(mesh), mesh["fsdp"]
        for accumulation in (number for number in range(1, clips + 1) if clips % number == 0):
            size = clips // accumulation
            # Sharded parameters, optimizer state and gradients; micro-batches add their gradients up.
            saved = (copies + 1) * parameters * (1 - 1 / shards)
            summed = parameters / shards if accumulation > 1 else 0.0
            memory = cost.bytes_fixed + size * cost.bytes_per_clip - saved + summed
            cycles = cost.cycles_fixed + clips * cost.cycles_per_clip
            links = _link_bytes(parameters, mesh, accumulation) / (chip.link * 1e9)
            seconds = cycles / (chip.clock * 1e9) + links + (accumulation - 1) * 3 * parameters / shards / (chip.hbm * 1e9)
            yield Candidate(way, mesh, accumulation, size, memory / GIB, seconds)


def _link_bytes(parameters: float, mesh: dict[str, int], accumulation: int) -> float:
    """Bytes that a chip sends: the gradients once a micro-batch, and sharded parameters, in half precision, for both passes."""
    data, shards = mesh["data"], mesh["fsdp"]
    gathered = 2 * parameters / 2 * (1 - 1 / shards)
    scattered = parameters * (1 - 1 / shards) + 2 * parameters / shards * (1 - 1 / data)
    return accumulation * (gathered + scattered)


def _num_parameters(request: StepRequest) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(parameter_shapes(request.module)))
