"""Figures of matplotlib, which is imported only when one is drawn."""

import contextlib
import io
from collections.abc import Iterator
from typing import Any

from timesformer_jax.extras import needs

SETTINGS = {"svg.hashsalt": "timesformer_jax", "text.parse_math": False}
UNDATED: dict[str | None, dict[str, None]] = {
    "png": {"Software": None},
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
}
"""Maps a format to the metadata to omit, so that the same values always give the same bytes."""


@contextlib.contextmanager
def new_figure(width: float, height: float, **settings: Any) -> Iterator[Any]:
    """Make a figure, to be drawn and encoded within the context.

    Args:
        width: Width in inches.
        height: Height in inches.
        **settings: Settings of matplotlib, such as `{"font.size": 9}`.

    Raises:
        InputError: If matplotlib is not installed.
    """
    with needs("matplotlib", "Drawing"):
        import matplotlib
        from matplotlib.figure import Figure

    merged: Any = {**SETTINGS, **settings}
    with matplotlib.rc_context(merged):
        yield Figure(figsize=(width, height), layout="constrained")


def encode_figure(figure: Any, *, format: str | None = "png", dpi: int) -> bytes:
    """Encode a figure; raises `ValueError` if matplotlib doesn't know the format."""
    written = io.BytesIO()
    figure.savefig(written, format=format, dpi=dpi, metadata=UNDATED.get(format and format.lower()))
    return written.getvalue()
