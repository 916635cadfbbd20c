"""Initializations of new parameters: the official one, and one for learning motion without pretrained weights."""

from typing import NamedTuple

import jax
from flax.typing import Initializer
from jax.nn import initializers


class Initialization(NamedTuple):
    """Initializers that differ between the entries of `INITIALIZATIONS`."""

    linear: Initializer
    """Kernels of all linear layers except those of `extra_step_output` and `head`."""
    head: Initializer
    """Kernel of the classifier."""
    extra_step_output: Initializer
    """Kernel of the last layer of an extra attention step (`temporal_fc`)."""
    cls_token: Initializer
    """CLS token."""
    pos_embed: Initializer
    """Space embedding."""
    time_embed: Initializer
    """Time embedding."""

    @property
    def keeps_image_model(self) -> bool:
        """Whether a new model with an image transformer's weights applies that transformer frame by frame."""
        return self.extra_step_output is initializers.zeros and self.time_embed is initializers.zeros


_OFFICIAL_NORMAL = initializers.normal(0.02)

INITIALIZATIONS: dict[str, Initialization] = {
    # The official code truncates at +-2, which is 100 standard deviations, so a plain normal is equivalent. `temporal_fc` is
    # zero in *every* block, so a new model with an image transformer's weights applies that transformer frame by frame.
    "official": Initialization(
        linear=_OFFICIAL_NORMAL,
        head=_OFFICIAL_NORMAL,
        extra_step_output=initializers.zeros,
        cls_token=_OFFICIAL_NORMAL,
        pos_embed=_OFFICIAL_NORMAL,
        time_embed=initializers.zeros,
    ),
    # The order of frames can only enter through the time embedding, whose gradient is proportional to the differences between
    # the classes' rows of the classifier. The official rows are so small that a short training doesn't get beyond the classes
    # that differ without order; larger ones also keep the image model's features.
    "from_images": Initialization(
        linear=_OFFICIAL_NORMAL,
        head=initializers.xavier_uniform(),
        extra_step_output=initializers.zeros,
        cls_token=_OFFICIAL_NORMAL,
        pos_embed=_OFFICIAL_NORMAL,
        time_embed=initializers.zeros,
    ),
    # With zero (or 0.02) time embeddings, a model without pretrained weights can't distinguish the order of frames until the
    # embeddings have grown, and little drives that growth. Large embeddings make the order visible from the first step.
    "from_scratch": Initialization(
        linear=initializers.xavier_uniform(),
        head=initializers.xavier_uniform(),
        extra_step_output=initializers.xavier_uniform(),
        cls_token=_OFFICIAL_NORMAL,
        pos_embed=initializers.normal(0.3),
        time_embed=initializers.normal(0.7),
    ),
}
"""Maps `initialization` to its initializers.

"official" is for pretrained weights, "from_images" for the weights of an image model if the order of frames matters, and
"from_scratch" for training without any.
"""


def torch_convolution_bias(fan_in: int) -> Initializer:
    """Initializer of PyTorch's convolution biases, U(-1/sqrt(fan_in), 1/sqrt(fan_in)), used by the official patch embedding."""
    bound = fan_in**-0.5
    return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound)


torch_convolution_kernel: Initializer = initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""Initializer of PyTorch's convolution kernels (Kaiming uniform with a = sqrt(5)), used by the official patch embedding."""
