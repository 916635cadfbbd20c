"""Training on batches that someone else provides: mesh, optimizer, step, loop, checkpoints."""

from timesformer_jax.training.checkpoints import Checkpoints
from timesformer_jax.training.loop import train
from timesformer_jax.training.optimizer import OPTIMIZERS, SCHEDULES, make_optimizer
from timesformer_jax.training.sharding import local_batch_size, make_mesh, replicated, split_batch, to_devices
from timesformer_jax.training.step import TrainState, cross_entropy, init_state, make_train_step

__all__ = [
    "OPTIMIZERS",
    "SCHEDULES",
    "Checkpoints",
    "TrainState",
    "cross_entropy",
    "init_state",
    "local_batch_size",
    "make_mesh",
    "make_optimizer",
    "make_train_step",
    "replicated",
    "split_batch",
    "to_devices",
    "train",
]
