"""I3D and SlowFast, the 3D convolutional networks that the paper compares the TimeSformer with."""

from timesformer_jax.cnn3d.arithmetic import count_layer_multiply_adds
from timesformer_jax.cnn3d.models import CONVNETS, I3D, ConvFeatures, ConvNet, SlowFast
from timesformer_jax.cnn3d.stages import STAGES, Pathway
from timesformer_jax.renamed import renamed

__all__ = [
    "CONVNETS",
    "I3D",
    "STAGES",
    "ConvFeatures",
    "ConvNet",
    "Pathway",
    "SlowFast",
    "count_layer_multiply_adds",
]

__getattr__ = renamed(
    __name__,
    {"variable_shapes": "timesformer_jax.modeling.weight_shapes", "describe": "timesformer_jax.modeling.describe_model"},
)
