"""Classes of models by the names that configs and descriptions of checkpoints use."""

from flax import linen as nn

from timesformer_jax.cnn3d import I3D, SlowFast
from timesformer_jax.modeling import TimeSformer

ARCHITECTURES: dict[str, type[nn.Module]] = {"timesformer": TimeSformer, "i3d": I3D, "slowfast": SlowFast}
"""Maps a name to the class."""
