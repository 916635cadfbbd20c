"""Classes of models by the names that configs and descriptions of checkpoints use."""

from flax import linen as nn

from timesformer_jax.cnn3d import CONVNETS
from timesformer_jax.modeling import TimeSformer

ARCHITECTURES: dict[str, type[nn.Module]] = {"timesformer": TimeSformer, **CONVNETS}
"""Maps a name to the class."""
