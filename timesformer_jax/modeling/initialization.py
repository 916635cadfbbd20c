"""How fresh parameters are drawn: the official way, and one that learns motion without a pretrained image model."""

from typing import NamedTuple

import jax
from flax.typing import Initializer
from jax.nn import initializers


class Initialization(NamedTuple):
    """The distributions that differ between the rows of `INITIALIZATIONS`."""

    linear: Initializer
    """Kernels of every linear layer but the next one's."""
    extra_step_output: Initializer
    """Kernel of the layer that ends an extra attention step (`temporal_fc`)."""
    cls_token: Initializer
    pos_embed: Initializer
    time_embed: Initializer


_OFFICIAL_NORMAL = initializers.normal(0.02)

INITIALIZATIONS: dict[str, Initialization] = {
    # The official code truncates at +-2, which is 100 standard deviations: a plain normal. `temporal_fc` is zero in
    # *every* block, so a fresh model with an image transformer's weights is that image transformer, frame by frame.
    "official": Initialization(
        linear=_OFFICIAL_NORMAL,
        extra_step_output=initializers.zeros,
        cls_token=_OFFICIAL_NORMAL,
        pos_embed=_OFFICIAL_NORMAL,
        time_embed=initializers.zeros,
    ),
    # With zero (or 0.02) time embeddings a model that starts from nothing can't tell the order of the frames until the
    # embeddings have grown, and little makes them grow. Large ones make order visible from the first step.
    "from_scratch": Initialization(
        linear=initializers.xavier_uniform(),
        extra_step_output=initializers.xavier_uniform(),
        cls_token=_OFFICIAL_NORMAL,
        pos_embed=initializers.normal(0.3),
        time_embed=initializers.normal(0.7),
    ),
}
"""`initialization` -> distributions. `official`: for pretrained weights. `from_scratch`: for training without any."""


def torch_convolution_bias(fan_in: int) -> Initializer:
    """Bias of PyTorch's default convolution, U(-1/sqrt(fan_in), 1/sqrt(fan_in)), which the official patch embedding keeps."""
    bound = fan_in**-0.5
    return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound)


torch_convolution_kernel: Initializer = initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""Kernel of PyTorch's default convolution (Kaiming uniform with a = sqrt(5)), which the official patch embedding keeps."""
