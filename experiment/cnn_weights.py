"""What the weights of a convolutional network state about its model and its clips."""

from typing import Any

from timesformer_jax.errors import InputError
from timesformer_jax.modeling.description import ARCHITECTURE
from timesformer_jax.pretrained import Architecture
from timesformer_jax.pretrained.orbax import find_checkpoint, read_notes
from timesformer_jax.pretrained.zoo import locate
from timesformer_jax.video import Preprocess


def read_cnn(source: str, config: Any, sizes: Any) -> Architecture:
    """Return the architecture of weights: a run states its own, other files state nothing, so the config decides.

    Args:
        source: A run, one of its checkpoints, or any other weights.
        config: The config.
        sizes: Its model's `num_frames` and `image_size` without weights.

    Raises:
        InputError: If there are no such weights, or they belong to another architecture.
    """
    checkpoint = find_checkpoint(locate(source))  # refused before the data are prepared if there is nothing
    if checkpoint is None:
        return Architecture({}, Preprocess(num_frames=sizes["num_frames"], crop_size=sizes["image_size"]))
    notes = read_notes(checkpoint)
    fields = dict(notes["model"])
    if (there := fields.pop(ARCHITECTURE, "timesformer")) != config.architecture:
        raise InputError(
            f"{source} has architecture={there}, and this config architecture={config.architecture}: set the one of the "
            "weights, or choose another --workdir or init_from."
        )
    said = notes["preprocess"]
    return Architecture(fields, Preprocess.from_dict(said), said, notes.get("objective"))
