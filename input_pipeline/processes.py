"""What one of several processes finds out for all."""

import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from timesformer_jax.errors import InputError


def from_first(make: Callable[[], Any]) -> Any:
    """`make()`, called in the first process alone while the others wait; every process receives its result, as JSON.

    Raises `InputError` in every process if it does in the first.
    """
    if jax.process_count() == 1:
        return make()
    found: dict[str, Any] = {}
    if jax.process_index() == 0:
        try:
            found = {"value": make()}
        except InputError as error:
            found = {"error": str(error)}
    content = np.frombuffer(json.dumps(found).encode(), np.uint8)
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
    content = content if jax.process_index() == 0 else np.zeros(length, np.uint8)
    found = json.loads(np.asarray(multihost_utils.broadcast_one_to_all(content)).tobytes())
    if "error" in found:
        raise InputError(found["error"])
    return found["value"]
