"""What the config's `init_from_*` fields ask of `timesformer_jax.load`."""

from typing import Any

UNUSED_EMBEDDINGS = {"none": ("pos_embed", "time_embed"), "space": ("time_embed",), "space_time": ()}
"""`position_embedding` -> the parameters that a model is without."""


def choice_of_init_from(config: Any) -> dict[str, Any]:
    """Arguments of `load` that choose one of several models in `init_from`."""
    return {"entry": config.init_from_entry, "prefix": config.init_from_prefix}


def allowed_of_init_from(config: Any) -> tuple[str, ...]:
    """`allow` of `load` for `init_from`: the config's patterns, and the embeddings that it turns off."""
    return (*config.init_from_allow, *UNUSED_EMBEDDINGS[config.model.position_embedding])
