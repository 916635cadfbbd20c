"""Parameters by path -> a model's whole tree: resized, inflated from an image model, initialised, each with an account."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from timesformer_jax.errors import InputError
from timesformer_jax.interpolation import nearest
from timesformer_jax.modeling import TimeSformer, flatten_params, parameter_shapes, stack_blocks
from timesformer_jax.modeling.embeddings import RESIZES, resize_position_embedding, resize_time_embedding
from timesformer_jax.pretrained.report import Report


def _nearest_in_a_row(embedding: np.ndarray, grid: tuple[int, int], new_grid: tuple[int, int]) -> jax.Array:
    """The released loader's resizing: nearest along the flattened patches, as if they stood in one row.

    From 14 x 14 to 28 x 28 only 7 % of the places get their neighbour's embedding. All published 448-pixel models began
    their training like this. Source: official `models/helpers.py`, `load_pretrained`.
    """
    patches = nearest(embedding.shape[1] - 1, new_grid[0] * new_grid[1]) @ embedding[0, 1:]
    return jnp.asarray(np.concatenate([embedding[:, :1], patches[None]], axis=1), jnp.float32)


def _by(resize: str) -> Callable[..., jax.Array]:
    return lambda embedding, grid, new_grid: resize_position_embedding(jnp.asarray(embedding), grid, new_grid, resize)


POSITION_RESIZES: dict[str, Callable[..., jax.Array]] = {**{name: _by(name) for name in RESIZES}, "official": _nearest_in_a_row}
"""`resize` of `load` -> (embedding, grid, new grid) -> embedding. "official" reproduces how the released 448-pixel models
were started, to the last digit; everyone else wants "bicubic"."""

INFLATED = (
    (r"(blocks_\d+)/\w+_attn/(.*)", r"\1/attn/\2"),
    (r"(blocks_\d+)/\w+_norm1/(.*)", r"\1/norm1/\2"),
)
"""Parameter of an extra attention step -> the image model's that it becomes a copy of.

Its last layer (`temporal_fc`) and the time embedding start at zero, so that the video model's first output is the image
model's. Source: official `models/helpers.py`, `load_pretrained`.
"""
BEGIN_AT_ZERO = r"blocks_\d+/\w+_fc/.*|time_embed"

HEAD = r"(.*/)?(head|pre_logits)/.*"
"""What a classifier for other classes replaces."""


def fit(
    given: dict[str, np.ndarray],
    model: TimeSformer,
    report: Report,
    problems: Sequence[str] = (),
    unknown: Mapping[str, tuple[int, ...]] | None = None,
    *,
    grid: tuple[int, int] | None = None,
    resize: str = "bicubic",
    inflate: bool = False,
    zeros: Sequence[str] = (),
    allow: Mapping[str, str] | None = None,
    key: jax.Array | None = None,
) -> Any:
    """`model`'s parameters from `given` (path -> array; emptied on the way), accounted for in `report`.

    `unknown`: tensors of the file, name -> shape, that are none of its kind's. `grid`: rows and columns of patches that the
    given position embedding is for (None: the model's). `inflate`: fill extra attention steps from the spatial one. `zeros`:
    parameters that may be missing and are zero. `allow`: pattern -> why: what it matches may be missing (it is initialised)
    or left over (it is ignored). `key` draws what is initialised.

    Raises `InputError` that lists at once `problems`, every array with no place in the model, every parameter left unfilled
    and every shape that differs.
    """
    problems, allow = list(problems), allow or {}
    shapes = parameter_shapes(model.clone(scan_layers=False))
    expected = {path: leaf.shape for path, leaf in flatten_params(shapes).items()}
    params: dict[str, jax.Array] = {}
    to_initialise: dict[str, str] = {}

    def allowed(path: str) -> str | None:
        return next((why for pattern, why in allow.items() if re.fullmatch(pattern, path)), None)

    for path, shape in expected.items():
        array = given.pop(path, None)
        if array is None:
            continue
        resized = _resize(path, array, shape, grid or model.grid, model.grid, resize)
        if resized is not None:
            params[path] = resized
            report.resized[path] = array.shape, shape
        elif array.shape == shape:
            params[path] = jnp.asarray(array, jnp.float32)
            report.loaded.append(path)
        elif why := allowed(path):
            report.ignored[path] = why
        else:
            hint = f" (num_classes={shape[-1]} gives a fresh classifier)" if path.startswith("head/") else ""
            problems.append(f"{path}: expected {shape}, got {array.shape}{hint}")
            params[path] = jnp.zeros(())  # told once
    for path, shape in expected.items():
        if path in params:
            continue
        origin = next((re.sub(a, b, path) for a, b in INFLATED if re.fullmatch(a, path)), None) if inflate else None
        if origin in params:
            params[path] = params[origin]
            report.copied[path] = origin
        elif path in zeros:
            params[path] = jnp.zeros(shape, jnp.float32)
            report.initialised[path] = "zero, this kind of model has none"
        elif inflate and re.fullmatch(BEGIN_AT_ZERO, path):
            to_initialise[path] = "zero, so that the extra attention changes nothing at first"
        elif why := allowed(path):
            to_initialise[path] = why
        else:
            problems.append(f"{path} {shape}: not in the file")
    for name, shape in {**{path: array.shape for path, array in given.items()}, **(unknown or {})}.items():
        if why := allowed(name):
            report.ignored[name] = why
        else:
            problems.append(f"{name} {shape}: no place in the model")
    given.clear()
    if problems:
        raise InputError(f"{report.source} doesn't fit the model: " + "; ".join(problems) + ".")
    if to_initialise:
        params |= _initialise(model, list(to_initialise), jax.random.key(0) if key is None else key)
        report.initialised |= to_initialise
    tree = jax.tree.unflatten(jax.tree.structure(shapes), [params[path] for path in expected])
    return stack_blocks(tree) if model.scan_layers else tree


def _resize(
    path: str, array: np.ndarray, shape: tuple[int, ...], grid: tuple[int, int], new_grid: tuple[int, int], resize: str
) -> jax.Array | None:
    """An embedding made for another size, at the model's; None for what isn't one, or can't be."""
    if array.ndim != 3 or (array.shape[0], array.shape[2]) != (shape[0], shape[2]):
        return None
    if path == "time_embed" and array.shape != shape:
        return resize_time_embedding(jnp.asarray(array), shape[1], "nearest" if resize == "official" else resize)
    if path == "pos_embed" and grid != new_grid and array.shape[1] == 1 + grid[0] * grid[1]:
        return POSITION_RESIZES[resize](array, grid, new_grid)
    return None


def _initialise(model: TimeSformer, paths: list[str], key: jax.Array) -> dict[str, jax.Array]:
    """Some parameters of a fresh model, started as the official one; the others aren't computed."""
    model = model.clone(scan_layers=False, initialization="official")
    video = jnp.zeros((1, 1, model.patch_size, model.patch_size, model.num_channels))

    def wanted(key: jax.Array) -> dict[str, jax.Array]:
        fresh = flatten_params(model.init(key, video)["params"])
        return {path: fresh[path] for path in paths}

    return jax.jit(wanted)(key)
