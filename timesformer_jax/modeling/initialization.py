"""Initializations of new parameters: the official one, and one for learning motion without pretrained weights."""

from typing import NamedTuple

import jax
from flax.typing import Initializer
from jax.nn import initializers


class Initialization(NamedTuple):
    """Initializers that differ between the entries of `INITIALIZATIONS`."""

    linear: Initializer
    """Kernels of all linear layers except those of `extra_step_output`."""
    extra_step_output: Initializer
    """Kernel of the last layer of an extra attention step (`temporal_fc`)."""
    cls_token: Initializer
    """CLS token."""
    pos_embed: Initializer
    """Space embedding."""
    time_embed: Initializer
    """Time embedding."""


_OFFICIAL_NORMAL = initializers.normal(0.02)

INITIALIZATIONS: dict[str, Initialization] = {
    # The official code truncates at +-2, which is 100 standard deviations, so a plain normal is equivalent. `temporal_fc` is
    # zero in *every* block, so a new model with an image transformer's weights applies that transformer frame by frame.
    "official": Initialization(
        linear=_OFFICIAL_NORMAL,
        extra_step_output=initializers.zeros,
        cls_token=_OFFICIAL_NORMAL,
        pos_embed=_OFFICIAL_NORMAL,
        time_embed=initializers.zeros,
    ),
    # With zero (or 0.02) time embeddings, a model without pretrained weights can't distinguish the order of frames until the
    # embeddings have grown, and little drives that growth. Large embeddings make the order visible from the first step.
    "from_scratch": Initialization(
        linear=initializers.xavier_uniform(),
        extra_step_output=initializers.xavier_uniform(),
        cls_token=_OFFICIAL_NORMAL,
        pos_embed=initializers.normal(0.3),
        time_embed=initializers.normal(0.7),
    ),
}
"""Maps `initialization` to its initializers: "official" for pretrained weights, "from_scratch" for training without any."""


def torch_convolution_bias(fan_in: int) -> Initializer:
    """Initializer of PyTorch's convolution biases, U(-1/sqrt(fan_in), 1/sqrt(fan_in)), used by the official patch embedding."""
    bound = fan_in**-0.5
    return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound)


torch_convolution_kernel: Initializer = initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""Initializer of PyTorch's convolution kernels (Kaiming uniform with a = sqrt(5)), used by the official patch embedding."""
