"""Matplotlib figures as SVG strings."""

import io
from typing import Any

from timesformer_jax.extras import needs


def new_figure(width: float, height: float) -> Any:
    """Create a figure of the given size in inches.

    Raises `InputError` if matplotlib is not installed.
    """
    with needs("matplotlib", "A page with plots"):
        from matplotlib.figure import Figure
    return Figure(figsize=(width, height), layout="constrained")


def to_svg(figure: Any) -> str:
    """Convert a figure to SVG, with text kept as text. The result is deterministic: no date, no random ids."""
    from matplotlib import rc_context

    file = io.StringIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "timesformer_jax", "font.family": "sans-serif"}):
        figure.savefig(file, format="svg", metadata=nothing)
    text = file.getvalue()
    return text[text.index("<svg") :]
