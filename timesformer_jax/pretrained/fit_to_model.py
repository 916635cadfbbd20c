"""Complete a model's parameters from those of a file: resize, inflate from an image model, initialise, and report each."""

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from timesformer_jax.errors import InputError
from timesformer_jax.interpolation import nearest
from timesformer_jax.modeling import INITIALIZATIONS, TimeSformer, flatten_params, parameter_shapes, stack_blocks
from timesformer_jax.modeling.embeddings import RESIZES, resize_position_embedding, resize_time_embedding
from timesformer_jax.pretrained.load_report import Report
from timesformer_jax.pretrained.tensor_names import list_problems


def _nearest_in_a_row(embedding: np.ndarray, grid: tuple[int, int], new_grid: tuple[int, int]) -> np.ndarray:
    """Resize as the released loader does: nearest neighbour along the flattened patches, ignoring rows and columns.

    From 14 x 14 to 28 x 28, only 7 % of the locations receive the embedding of their spatial neighbour. All published 448-pixel
    models started their training this way. Source: official `models/helpers.py`, `load_pretrained`.
    """
    patches = nearest(embedding.shape[1] - 1, new_grid[0] * new_grid[1]) @ embedding[0, 1:]
    return np.concatenate([embedding[:, :1], patches[None]], axis=1).astype(np.float32)


def _by(resize: str) -> Callable[..., np.ndarray]:
    def resized(embedding: np.ndarray, grid: tuple[int, int], new_grid: tuple[int, int]) -> np.ndarray:
        with _on_cpu():
            return np.array(resize_position_embedding(jnp.asarray(embedding), grid, new_grid, resize))

    return resized


@contextlib.contextmanager
def _on_cpu() -> Iterator[None]:
    """Compute on the CPU, so that no accelerator holds parameters before they are sharded.

    If JAX_PLATFORMS excludes the CPU, the default device is used.
    """
    try:
        device = jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        device = None
    with contextlib.nullcontext() if device is None else jax.default_device(device):
        yield


POSITION_RESIZES: dict[str, Callable[..., np.ndarray]] = {
    **{name: _by(name) for name in RESIZES},
    "official": _nearest_in_a_row,
}
"""Maps `resize` of `load` to a function (embedding, grid, new grid) -> embedding.

"official" reproduces the start of the released 448-pixel models bit for bit; use "bicubic" for everything else.
"""

INFLATED = (
    (r"(blocks_\d+)/\w+_attn/(.*)", r"\1/attn/\2"),
    (r"(blocks_\d+)/\w+_norm1/(.*)", r"\1/norm1/\2"),
)
"""Maps parameters of an extra attention step to the image model's parameters that they copy.

The step's last layer (`temporal_fc`) and the time embedding start at zero, so that the video model's first outputs are the
image model's. Source: official `models/helpers.py`, `load_pretrained`.
"""
BEGIN_AT_ZERO = r"blocks_\d+/\w+_fc/.*|time_embed"

HEAD = r"(.*/)?(head|pre_logits)/.*"
"""Parameters that a classifier for other classes replaces."""


NO_PLACE = "no place in the model"
UNUSED = (
    " Tensors without a place are ignored if a pattern in allow=[...] matches their name (on the command line --allow, in a "
    "config init_from_allow)."
)


class Steps(NamedTuple):
    """Origin of every parameter of a model.

    Attributes:
        taken: Parameters that are in the file.
        resized: Parameters in `taken` that must be resized: embeddings of a different size.
        copied: Maps parameters to the parameters that they copy.
        zero: Parameters that start at zero.
        drawn: Parameters to initialise.
    """

    taken: list[str]
    resized: list[str]
    copied: dict[str, str]
    zero: list[str]
    drawn: list[str]


def plan_fit(
    given: Mapping[str, tuple[int, ...]],
    model: TimeSformer,
    report: Report,
    problems: Sequence[str] = (),
    unknown: Mapping[str, tuple[int, ...]] | None = None,
    *,
    grid: tuple[int, int] | None = None,
    inflate: bool = False,
    zeros: Sequence[str] = (),
    allow: Mapping[str, str] | None = None,
) -> Steps:
    """Decide the origin of every parameter of `model` from the shapes in `given`, and record it in `report`.

    Arguments and errors are those of `fit`.
    """
    problems, allow, steps = list(problems), allow or {}, Steps([], [], {}, [], [])
    expected = _expected(model)

    def allowed(path: str) -> str | None:
        return next((why for pattern, why in allow.items() if re.fullmatch(pattern, path)), None)

    there = set()
    for path, shape in expected.items():
        if path not in given:
            continue
        if _is_other_size(path, given[path], shape, grid or model.grid, model.grid):
            steps.resized.append(path)
            report.resized[path] = given[path], shape
        elif given[path] == shape:
            report.loaded.append(path)
        elif why := allowed(path):
            report.ignored[path] = why
            continue
        else:
            hint = f" (num_classes={shape[-1]} gives a fresh classifier)" if path.startswith("head/") else ""
            problems.append(f"{path}: expected {shape}, got {given[path]}{hint}")
            there.add(path)
            continue
        steps.taken.append(path)
        there.add(path)
    for path, shape in expected.items():
        if path in there:
            continue
        origin = next((re.sub(a, b, path) for a, b in INFLATED if re.fullmatch(a, path)), None) if inflate else None
        if origin is not None and origin in there:
            report.copied[path] = steps.copied[path] = origin
        elif path in zeros:
            steps.zero.append(path)
            there.add(path)  # an extra attention step may copy it
            report.initialised[path] = "zero, since models of this kind have none"
        elif inflate and re.fullmatch(BEGIN_AT_ZERO, path):
            steps.drawn.append(path)
            report.initialised[path] = "zero, so that the extra attention has no effect at first"
        elif why := allowed(path):
            steps.drawn.append(path)
            report.initialised[path] = why
        else:
            hint = f" (num_classes={shape[-1]} gives a fresh classifier)" if path.startswith("head/") else ""
            problems.append(f"{path} {shape}: not in the file{hint}")
    left_over = {path: shape for path, shape in given.items() if path not in expected}
    for name, shape in {**left_over, **(unknown or {})}.items():
        if why := allowed(name):
            report.ignored[name] = why
        else:
            problems.append(f"{name} {shape}: {NO_PLACE}")
    raise_problems(report.source, problems)
    return steps


def raise_problems(source: str, problems: Sequence[str]) -> None:
    """Raise `InputError` with all problems, if there are any; problems that recur in every block are listed once."""
    if problems:
        hint = UNUSED if any(problem.endswith(NO_PLACE) for problem in problems) else ""
        raise InputError(f"{source} doesn't fit the model: {list_problems(problems)}.{hint}")


def check_unknown(unknown: Mapping[str, tuple[int, ...]], allowed: Mapping[str, str], source: str) -> None:
    """Raise `InputError` for tensors that no model has a parameter for and that aren't allowed."""
    names = [name for name in unknown if not any(re.fullmatch(pattern, name) for pattern in allowed)]
    raise_problems(source, [f"{name} {unknown[name]}: {NO_PLACE}" for name in names])


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
    """Build the parameters of `model` from those of a file, and record the origin of each in `report`.

    Args:
        given: Maps parameter paths to arrays in our layout; emptied, to release memory early.
        model: The model to fill.
        report: Receives the origin of every parameter.
        problems: Errors found before, to be raised together with those found here.
        unknown: Maps tensors of the file that don't belong to its format to their shapes.
        grid: Rows and columns of patches of the given position embedding; the model's by default.
        resize: Interpolation of the embeddings, a key of `POSITION_RESIZES`.
        inflate: Whether extra attention steps copy the spatial one.
        zeros: Parameters that may be missing and are zero.
        allow: Maps patterns to reasons. Matching parameters may be missing and are initialised; matching tensors that the model
            has no parameter for are ignored.
        key: Random key of the parameters that are initialised.

    Returns:
        The parameters, a tree of read-only NumPy arrays.

    Raises:
        InputError: If anything doesn't fit. The message lists `problems`, every array that the model has no parameter for,
            every parameter that no array fills and every shape mismatch.
    """
    shapes = {path: array.shape for path, array in given.items()}
    steps = plan_fit(shapes, model, report, problems, unknown, grid=grid, inflate=inflate, zeros=zeros, allow=allow)
    expected = _expected(model)
    params: dict[str, np.ndarray] = {}
    for path in steps.taken:
        array = given.pop(path)
        finite = np.isfinite(array)
        if not finite.all():
            report.not_finite[path] = int(array.size - finite.sum())
        if path in steps.resized:
            params[path] = _resize(path, array, expected[path], grid or model.grid, model.grid, resize)
        else:
            params[path] = np.asarray(array, np.float32)
    given.clear()
    params |= {path: np.zeros(expected[path], np.float32) for path in steps.zero}
    params |= {path: params[origin] for path, origin in steps.copied.items()}
    if steps.drawn:
        params |= initialise(model, steps.drawn, key)
    structure = jax.tree.structure(parameter_shapes(model.clone(scan_layers=False)))
    tree = jax.tree.unflatten(structure, [params[path] for path in expected])
    tree = stack_blocks(tree) if model.scan_layers else tree
    for leaf in jax.tree.leaves(tree):
        leaf.flags.writeable = False  # copies share their memory
    return tree


def _expected(model: TimeSformer) -> dict[str, tuple[int, ...]]:
    shapes = parameter_shapes(model.clone(scan_layers=False))
    return {path: leaf.shape for path, leaf in flatten_params(shapes).items()}


def _is_other_size(
    path: str, given: tuple[int, ...], shape: tuple[int, ...], grid: tuple[int, int], new_grid: tuple[int, int]
) -> bool:
    """Return True if the array is an embedding of a different size that can be resized to the model's.

    Args:
        path: Path of the parameter.
        given: Shape of the array.
        shape: Shape of the model's parameter.
        grid: Rows and columns of patches of the given position embedding.
        new_grid: Rows and columns of patches of the model.
    """
    if len(given) != 3 or (given[0], given[2]) != (shape[0], shape[2]):
        return False
    if path == "time_embed":
        return given != shape
    return path == "pos_embed" and grid != new_grid and given[1] == 1 + grid[0] * grid[1]


def _resize(
    path: str, array: np.ndarray, shape: tuple[int, ...], grid: tuple[int, int], new_grid: tuple[int, int], resize: str
) -> np.ndarray:
    """Resize an embedding to the model's size.

    Args:
        path: Path of the parameter.
        array: The embedding.
        shape: Shape of the model's parameter.
        grid: Rows and columns of patches of the given position embedding.
        new_grid: Rows and columns of patches of the model.
        resize: Interpolation, a key of `POSITION_RESIZES`.
    """
    if path == "time_embed":
        with _on_cpu():
            resized = resize_time_embedding(jnp.asarray(array), shape[1], "nearest" if resize == "official" else resize)
            return np.array(resized)
    return POSITION_RESIZES[resize](array, grid, new_grid)


def initialise(model: TimeSformer, paths: list[str], key: jax.Array | None) -> dict[str, np.ndarray]:
    """Draw some parameters of a model, without computing the others.

    They are drawn with the model's initialization if that keeps an image model's features, else with the official one. `key` is
    `jax.random.key(0)` by default.
    """
    keeps = INITIALIZATIONS[model.initialization].keeps_image_model
    model = model.clone(scan_layers=False, initialization=model.initialization if keeps else "official")

    def wanted(key: jax.Array) -> dict[str, jax.Array]:
        video = jnp.zeros((1, 1, model.patch_size, model.patch_size, model.num_channels))
        fresh = flatten_params(model.init(key, video)["params"])
        return {path: fresh[path] for path in paths}

    with _on_cpu():
        drawn = jax.jit(wanted)(jax.random.key(0) if key is None else key)
        return {path: np.array(array) for path, array in drawn.items()}
