"""Planning: memory, time and communication of a training step on hardware that is not there, by compiling it."""

from timesformer_jax.planning.environment import run_elsewhere
from timesformer_jax.planning.plan import Plan, plan_step
from timesformer_jax.planning.report import plan_text
from timesformer_jax.planning.request import StepRequest
from timesformer_jax.planning.targets import CHIPS, TARGETS, Chip, Target, find_target

__all__ = [
    "CHIPS",
    "TARGETS",
    "Chip",
    "Plan",
    "StepRequest",
    "Target",
    "find_target",
    "plan_step",
    "plan_text",
    "run_elsewhere",
]
