"""Hardware to plan for: names, chips and topologies."""

import math
import re
from typing import NamedTuple

from timesformer_jax.errors import InputError, did_you_mean
from timesformer_jax.training.chips import peak_teraflops


class Chip(NamedTuple):
    """Published figures of a chip. `timesformer_jax.training.chips` has the peak of its arithmetic."""

    kind: str
    """Name of the chip in `timesformer_jax.training.chips.PEAKS`."""
    memory_gib: float
    """Memory that a program can use, in GiB."""
    hbm: float
    """Bandwidth of its memory, in GB/s."""
    link: float
    """Bandwidth of its links to other chips, all together and in one direction, in GB/s; 0 for a single GPU."""
    clock: float = 0.0
    """Clock of its matrix units in GHz, for the compiler's cycles; 0 if the compiler estimates none."""

    @property
    def peak(self) -> float:
        """Peak TFLOP/s in bfloat16."""
        peak = peak_teraflops(self.kind)
        assert peak is not None, f"training/chips.py lacks {self.kind}"
        return peak


CHIPS: dict[str, Chip] = {
    # Memory: what XLA:TPU reports as the capacity when a program doesn't fit. Bandwidths: docs.cloud.google.com/tpu/docs/v4,
    # v5e, v5p and v6e, whose "bidirectional" link bandwidth is twice the one here. Clock: the peak divided by 2 x 128 x 128
    # operations for each of 8 (v4, v5p) or 4 (v5e) matrix units, or by 2 x 256 x 256 for each of 4 (v6e).
    "v4": Chip("TPU v4", 31.25, 1200, 300, clock=1.05),
    "v5e": Chip("TPU v5e", 15.75, 819, 200, clock=1.5),
    "v5p": Chip("TPU v5p", 95.0, 2765, 600, clock=1.75),
    "v6e": Chip("TPU v6e", 31.25, 1640, 400, clock=1.75),
    # Memory: the total of nvidia-smi, less 0.4 GiB for the driver and CUDA's context. Bandwidths: NVIDIA's data sheets.
    "h100": Chip("H100", 79.2, 3352, 0),
    "a100-40gb": Chip("A100", 39.1, 1555, 0),
    "l4": Chip("L4", 22.1, 300, 0),
}
"""Maps a chip's name to its figures."""

_SQUARES = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
_CUBES = {
    4: "2x2x1",
    8: "2x2x2",
    16: "2x2x4",
    32: "2x4x4",
    64: "4x4x4",
    128: "4x4x8",
    256: "4x8x8",
    512: "8x8x8",
    1024: "8x8x16",
    2048: "8x16x16",
}

TPUS: dict[str, tuple[int, dict[int, str]]] = {
    "v4": (2, _CUBES),
    "v5p": (2, _CUBES),
    "v5e": (1, _SQUARES),
    "v6e": (1, _SQUARES),
}
"""Maps a TPU to what the number in a name such as `v5p-64` counts per chip, and the topology of each number of chips.

The names of v4 and v5p count TensorCores, of which a chip has two; those of v5e and v6e count chips.
"""


class Target(NamedTuple):
    """Hardware to plan for."""

    name: str
    """Name, as it was given."""
    platform: str
    """"tpu", "cuda", or "local" for the devices of this process."""
    chip: str
    """Key of `CHIPS`; empty for `local`."""
    topology: str
    """Topology as the compiler names it, such as "v5e:2x4" for TPUs and "1x1x1" for a GPU; empty for `local`."""
    num_chips: int
    """Number of chips; 0 for `local`, whose devices are counted in the process that plans."""


def _names() -> dict[str, Target]:
    targets = {
        f"{tpu}-{counted * chips}": Target(f"{tpu}-{counted * chips}", "tpu", tpu, f"{tpu}:{shape}", chips)
        for tpu, (counted, shapes) in TPUS.items()
        for chips, shape in shapes.items()
    }
    gpus = (name for name in CHIPS if name not in TPUS)
    return (
        targets
        | {name: Target(name, "cuda", name, "1x1x1", 1) for name in gpus}
        | {"local": Target("local", "local", "", "", 0)}
    )


TARGETS = _names()
"""Maps a name to its hardware. TPUs can also be given by topology, such as `v5e:4x4`."""


def find_target(name: str) -> Target:
    """Return the hardware of a name in `TARGETS` or of a topology such as `v5e:4x4` or `v5p:2x2x1`.

    Raises:
        InputError: If there is no such hardware; the message suggests similar names.
    """
    given = name.strip().lower()
    if given in TARGETS:
        return TARGETS[given]
    if match := re.fullmatch(r"(\w+):(\d+(?:x\d+)+)", given):
        tpu, sides = match[1], [int(side) for side in match[2].split("x")]
        if tpu in TPUS and len(sides) == len(TPUS[tpu][1][4].split("x")) and min(sides) > 0:
            return Target(given, "tpu", tpu, given, math.prod(sides))
        if tpu in TPUS:
            raise InputError(f"plan.target={name}: a topology of {tpu} looks like {tpu}:{TPUS[tpu][1][16]}.")
    raise InputError(f"plan.target={name} is unknown.{_suggestion(given)}")


def _suggestion(given: str) -> str:
    """End of the message about an unknown name."""
    family, _, number = given.partition("-")
    if family in TPUS and number.isdigit():
        counted, shapes = TPUS[family]
        sizes = ", ".join(f"{family}-{counted * chips}" for chips in shapes)
        what = "TensorCores, two a chip" if counted == 2 else "chips"
        return f" The number counts {what}: use one of {sizes}, or a topology such as {family}:{shapes[16]}."
    return did_you_mean(given, TARGETS, count=3) or f" Known ones: {', '.join(EXAMPLES)}, or a topology such as v5e:4x4."


EXAMPLES = ("v4-8", "v5e-8", "v5e-256", "v5p-64", "v6e-16", "h100", "a100-40gb", "l4", "local")
"""Names for error messages."""
