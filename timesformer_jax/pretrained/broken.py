"""What other libraries raise over damaged files, as one sentence."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from timesformer_jax.errors import InputError, first_line


@contextlib.contextmanager
def broken(path: Path, what: str) -> Iterator[None]:
    """Whatever another library raises over a file, of any type, is one sentence about the file."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = first_line(error)
        size = f" ({path.stat().st_size:,} bytes)" if path.exists() else ""
        raise InputError(f"{path}{size} is a broken or truncated {what} file: {reason}.") from error
