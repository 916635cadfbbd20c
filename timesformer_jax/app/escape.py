"""Text and numbers for HTML."""

import html

from timesformer_jax.printable import printable


def text(value: object) -> str:
    """Escape text for HTML; control characters become visible."""
    return html.escape(printable(value))


def percent(share: float) -> str:
    """Return a probability as text."""
    return f"{100 * share:.1f} %"
