"""Arguments of `timesformer_jax.load` from the config's `init_from_*` fields."""

import re
from typing import Any

from timesformer_jax.errors import InputError

UNUSED_EMBEDDINGS = {"none": ("pos_embed", "time_embed"), "space": ("time_embed",), "space_time": ()}
"""Maps `position_embedding` to the parameters that the model lacks."""


def choice_of_init_from(config: Any) -> dict[str, Any]:
    """Return the arguments of `load` that select one of several models in `init_from`."""
    return {"entry": config.init_from_entry, "prefix": config.init_from_prefix}


def check_allow(config: Any) -> None:
    """Raise `InputError` unless `init_from_allow` holds regular expressions."""
    for pattern in config.init_from_allow:
        try:
            re.compile(pattern)
        except (re.error, TypeError) as error:
            raise InputError(
                f"--config.init_from_allow takes regular expressions, and {pattern!r} is not one: {error}."
            ) from error


def allowed_of_init_from(config: Any) -> tuple[str, ...]:
    """Return `allow` of `load` for `init_from`: the config's patterns, and the embeddings that it disables."""
    unused = UNUSED_EMBEDDINGS.get(config.model.position_embedding, ())  # unset for other architectures
    return (*config.init_from_allow, *unused)
