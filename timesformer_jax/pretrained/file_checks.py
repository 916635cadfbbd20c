"""Plausibility checks of weight files, made before anything is opened, allocated or computed."""

import contextlib
import json
import math
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from timesformer_jax.errors import InputError, first_line, shown
from timesformer_jax.modeling import TimeSformer, parameter_shapes

LARGEST_TEXT = 8 << 20
"""Largest JSON file or header to read, in bytes: ten times that of the largest published models."""
LONGEST_NAME = 500
"""Maximum length of a tensor's name, in characters."""
EXPANSION = 16
"""Maximum number of values per byte of a file; allows for compressed archives and files that are mostly zeros."""
OWN_EXPANSION = 1000
"""The same for checkpoints of this project, which Zstandard compresses."""
SLACK = 1 << 24
"""Number of values allowed for any file on top of that: 64 MiB of float32."""

NOT_FILES: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


def check_regular(path: Path) -> int:
    """Return the size of a regular file in bytes; raises `InputError` for anything else, which might block or never end."""
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(f"Can't read {path}: {error.strerror}.") from error
    for matches, what in NOT_FILES:
        if matches(status.st_mode):
            raise InputError(f"{path} is {what}, where a file is expected.")
    return status.st_size


def check_folder(path: Path, texts: Iterable[str]) -> int:
    """Return the size of a local folder in bytes; `texts` are names of files that are read as a whole.

    Raises `InputError` if the folder holds anything but regular files and folders, or if one of `texts` is too large.
    """
    size = 0
    for folder, _, names in os.walk(path):
        for name in names:
            own = check_regular(Path(folder) / name)
            if name in texts and own > EXPANSION * LARGEST_TEXT:
                raise InputError(f"{Path(folder) / name} has {own:,} bytes, too many for what it describes.")
            size += own
    return size


def check_names(shapes: Iterable[str], path: Path) -> None:
    """Raise `InputError` for a tensor name that is too long or not printable."""
    for name in shapes:
        if len(name) > LONGEST_NAME or not name.isprintable():
            raise InputError(f"{path} has a tensor with an invalid name of {len(name):,} characters: {shown(name)}.")


def check_numbers(claimed: Iterable[tuple[int, ...]], size: int, path: Path, expansion: int = EXPANSION) -> None:
    """Raise `InputError` if a file can't hold arrays of these shapes.

    Args:
        claimed: Shapes of the arrays.
        size: Size of the file in bytes.
        path: The file, for errors.
        expansion: Maximum number of values per byte.
    """
    numbers = 0
    for shape in claimed:
        if any(side < 0 for side in shape):
            raise InputError(f"{path} has a tensor of the impossible shape {shape}.")
        numbers += math.prod(shape)
    if numbers > expansion * size + SLACK:
        raise InputError(f"{path} claims to hold {numbers:,} numbers, too many for its {size:,} bytes: it is damaged.")


FIELDS: dict[str, tuple[type, float, float]] = {
    "num_classes": (Integral, 1, 1e6),
    "num_frames": (Integral, 1, 4096),
    "image_size": (Integral, 1, 8192),
    "patch_size": (Integral, 1, 1e4),
    "embed_dim": (Integral, 1, 1e6),
    "depth": (Integral, 1, 1e4),
    "num_heads": (Integral, 1, 1e5),
    "num_channels": (Integral, 1, 1e4),
    "mlp_ratio": (Real, 0, 1e4),
    "layer_norm_epsilon": (Real, 0, 1),
    "short_side": (Integral, 1, 1e5),
}
"""Maps numeric fields of the model or the preprocessing to (type, lower bound, upper bound) of the values accepted in files."""
WORDS = (
    *("attention_type", "attention_order", "position_embedding", "resize", "activation", "objective"),
    *("sampling", "channel_order", "placement"),
)
SWITCHES = ("temporal_cls_key", "pre_norm", "scan_layers")


def check_fields(fields: Mapping[str, Any], source: Any) -> None:
    """Raise `InputError` for a field of the wrong type, or beyond the bounds of `FIELDS`."""
    for name, value in fields.items():
        if name in FIELDS:
            number, low, high = FIELDS[name]
            values: Any = value if name == "image_size" and isinstance(value, list | tuple) and len(value) == 2 else [value]
            expected = f"{'a whole number' if number is Integral else 'a number'} from {low:g} to {high:,.0f}"
            right = all(isinstance(one, number) and not isinstance(one, bool) and low <= one <= high for one in values)
        elif name in WORDS:
            expected, right = "text", isinstance(value, str)
        elif name in SWITCHES:
            expected, right = "true or false", isinstance(value, bool)
        else:
            continue
        if not right:
            raise InputError(f"{source} says {name}={shown(value)}, expected {expected}.")


def check_size_of_model(model: TimeSformer, size: int, path: Path) -> None:
    """Raise `InputError` if a checkpoint of `size` bytes can't hold the model's parameters."""
    import jax

    shapes = jax.tree.leaves(parameter_shapes(model))
    check_numbers((leaf.shape for leaf in shapes), size, path, OWN_EXPANSION)


def read_text(path: Path) -> str:
    """Read a text file; raises `InputError` if it is larger than `LARGEST_TEXT` or not UTF-8."""
    check_regular(path)
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_TEXT + 1)
    except OSError as error:
        raise InputError(f"Can't read {path}: {error.strerror}.") from error
    if len(data) > LARGEST_TEXT:
        raise InputError(f"{path} has more than {LARGEST_TEXT:,} bytes, too many for a description of weights.")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"Can't read {path} as text: {first_line(error)}.") from error


def parse_json(text: str, source: Any) -> Any:
    """Parse JSON; raises `InputError` if the text is malformed or nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise InputError(f"Can't read {source} as JSON: it is nested too deeply.") from error
    except ValueError as error:
        raise InputError(f"Can't read {source} as JSON: {first_line(error)}.") from error


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object."""
    value = parse_json(read_text(path), path)
    if not isinstance(value, dict):
        raise InputError(f"{path} should hold a JSON object, got {type(value).__name__}.")
    return value


@contextlib.contextmanager
def broken(path: Path, what: str) -> Iterator[None]:
    """Turn any exception that another library raises while reading a file into an `InputError` that names the file."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = first_line(error)
        size = f" ({path.stat().st_size:,} bytes)" if path.exists() else ""
        raise InputError(f"{path}{size} is a broken or truncated {what} file: {reason}.") from error
